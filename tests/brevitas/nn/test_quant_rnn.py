"""QuantRNN and QuantLSTM as wholes: the float layers, layouts, states, options, copies, devices."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.inject.enum import ScalingImplType, StatsOp
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat
from brevitas.quant.scaled_int import Int8ActPerTensorFloatMinMaxInit
from brevitas.quant_tensor import IntQuantTensor
from recurrent import (
    FLOAT_LSTM,
    FLOAT_RNN,
    collected,
    flat,
    lstm,
    sequence,
)

SHAPES = [
    {},
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True},
    {"bias": False},
]
# float64: a few roundings of sums of a few hundred terms.
CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def twins(kind: str, **options):
    torch.manual_seed(0)
    if kind == "lstm":
        twin, quantized, plain = nn.LSTM, qnn.QuantLSTM, FLOAT_LSTM
    else:
        twin, quantized, plain = nn.RNN, qnn.QuantRNN, FLOAT_RNN
        options = {"nonlinearity": kind, **options}
    twin = twin(4, 3, dtype=torch.float64, **options)
    layer = quantized(4, 3, dtype=torch.float64, **options, **plain)
    layer.load_state_dict(twin.state_dict())
    return layer, twin


def states_for(layer, batch):
    count = layer.num_layers * layer.num_directions
    shape = (count, batch, 3)
    return [torch.randn(shape, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["lstm", "tanh", "relu"])
class TestFloatLayer:
    def test_initial_states(self, kind, options):
        layer, twin = twins(kind, **options)
        x = sequence()
        states = states_for(layer, x.shape[0 if options.get("batch_first") else 1])
        given = (tuple(states),) if kind == "lstm" else states[:1]
        for ours, theirs in zip(flat(layer(x, *given)), flat(twin(x, *given)), strict=True):
            torch.testing.assert_close(ours, theirs, **CLOSE)
        if kind == "lstm":
            assert torch.equal(layer(x, *states)[0], layer(x, *given)[0])


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"shared_intra_layer_weight_quant": True},
            {"shared_intra_layer_gate_acc_quant": True},
            {"shared_input_hidden_weights": True, "bidirectional": True},
            {"shared_cell_state_quant": False, "cat_output_cell_states": False, "num_layers": 2},
            {"coupled_input_forget_gates": True},
            {"weight_quant": Int8WeightPerChannelFloat},
            {"weight_bit_width_impl_type": "parameter", "io_bit_width_impl_type": "parameter"},
            {"gate_acc_bit_width_impl_type": "parameter"},
            {"io_quant": None, "bias_quant": None},
            {"sigmoid_quant": None},
            {"cell_state_quant": None},
        ],
        ids=str,
    )
    def test_trains_and_evaluates(self, options):
        torch.manual_seed(0)
        layer, x = lstm(**options), sequence()
        for _ in range(2):
            output = layer(x)[0]
            output.square().sum().backward()
        collected(layer, x)
        layer(x)[0].square().sum().backward()
        missing = [name for name, p in layer.named_parameters() if p.grad is None]
        assert missing == []
        assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())
        first = layer.eval()(x)[0]
        assert torch.equal(first, layer(x)[0])

    def test_keywords_reach_their_quantizers(self):
        bits = {"weight": 4, "io": 5, "gate_acc": 6, "sigmoid": 3, "tanh": 7, "cell_state": 9}
        layer = lstm(**{f"{name}_bit_width": number for name, number in bits.items()})
        layer(sequence())
        direction = layer.layers[0][0]
        cell = direction.cell
        found = {
            "weight": direction.input_gate_params.input_weight.weight_quant,
            "io": cell.output_quant,
            "gate_acc": cell.forget_acc_quant,
            "sigmoid": cell.output_sigmoid_quant,
            "tanh": cell.hidden_state_tanh_quant,
            "cell_state": cell.cell_state_quant,
        }
        assert {name: float(proxy.bit_width()) for name, proxy in found.items()} == bits

    @pytest.mark.parametrize("keyword", ["gate_acc_bit_widht", "dropout", "sigmoid_bitwidth"])
    def test_unread_keyword_is_reported_once(self, keyword):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lstm(num_layers=2, bidirectional=True, **{keyword: 4})
        assert [str(w.message).split("=")[0] for w in caught] == [f"QuantLSTM: keyword {keyword}"]
        assert caught[0].filename.endswith("recurrent.py")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"shared_cell_state_quant": False}, "shared_cell_state_quant=True"),
            ({"shared_input_hidden_weights": True}, "bidirectional=True"),
            ({"return_quant_tensor": True, "io_quant": None}, "io_quant"),
            ({"return_quant_tensor": True, "cell_state_quant": None}, "cell_state_quant"),
        ],
    )
    def test_options_that_exclude_each_other(self, options, message):
        with pytest.raises(RuntimeError, match=message):
            lstm(**options)

    def test_sizes_and_nonlinearity_are_checked(self):
        with pytest.raises(ValueError, match="hidden_size=0"):
            qnn.QuantLSTM(4, 0)
        with pytest.raises(ValueError, match="'softsign'"):
            qnn.QuantRNN(4, 3, nonlinearity="softsign")
        with pytest.raises(ValueError, match="tuple"):
            lstm()(sequence(), (torch.zeros(1, 2, 3),))


class TestSharing:
    def test_one_quantizer_of_inputs_and_outputs(self):
        layer = lstm(num_layers=2, bidirectional=True)
        every = [direction for directions in layer.layers for direction in directions]
        first = every[0]
        assert all(d.io_quant is first.io_quant is d.cell.output_quant for d in every)
        assert all(d.cell.cell_state_quant is first.cell.cell_state_quant for d in every)

    def test_shared_input_weights(self):
        layer = lstm(bidirectional=True, shared_input_hidden_weights=True)
        forward, backward = layer.layers[0]
        weights = [
            (forward.input_gate_params, backward.forget_gate_params),
            (forward.forget_gate_params, backward.input_gate_params),
            (forward.cell_gate_params, backward.cell_gate_params),
            (forward.output_gate_params, backward.output_gate_params),
        ]
        for ours, other in weights:
            assert ours.input_weight is other.input_weight
            assert ours.hidden_weight is not other.hidden_weight
            assert ours.hidden_weight.weight_quant is other.hidden_weight.weight_quant

    def test_every_direction_of_the_first_layer_counts_its_input(self):
        layer = lstm(num_layers=2, bidirectional=True)
        layer(sequence(steps=5))
        scaling = layer.layers[0][0].io_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
        assert scaling.counter == 2 * (1 + 5) + 2 * 5

    def test_each_step_counts(self):
        layer = lstm()
        layer(sequence(steps=5))
        cell = layer.layers[0][0].cell
        counted = {
            name: getattr(cell, name).fused_activation_quant_proxy.tensor_quant.scaling_impl.counter
            for name in ("input_acc_quant", "cell_tanh_quant", "cell_state_quant", "output_quant")
        }
        assert list(counted.values()) == [5, 5, 15, 6]


class TestQuantTensors:
    @pytest.mark.parametrize("options", SHAPES, ids=str)
    def test_outputs_and_states_are_valid(self, options):
        layer = collected(lstm(return_quant_tensor=True, **options), sequence())
        for training in (True, False):
            for part in flat(layer.train(training)(sequence())):
                assert isinstance(part, IntQuantTensor) and part.is_valid
                assert float(part.bit_width) == 8 and part.signed

    def test_a_bias_of_the_next_layer_is_quantized_while_statistics_are_collected(self):
        layer = lstm(return_quant_tensor=True, bidirectional=True)
        following = qnn.QuantLinear(6, 2, bias_quant=qnn.quant_rnn.Int32Bias, dtype=torch.float64)
        assert following(layer(sequence())[0]).shape == (5, 2, 2)

    def test_quantized_input_and_states(self):
        layer = collected(lstm(), sequence())
        layer.eval()
        identity = qnn.QuantIdentity(return_quant_tensor=True, dtype=torch.float64)
        states = [torch.randn(1, 2, 3, dtype=torch.float64) for _ in range(2)]
        quantized = [identity(tensor) for tensor in (sequence(), *states)]
        plain = [tensor.value for tensor in quantized]
        for ours, expected in zip(flat(layer(*quantized)), flat(layer(*plain)), strict=True):
            assert torch.equal(ours, expected)

    def test_cell_states_as_a_list(self):
        options = {"num_layers": 2, "shared_cell_state_quant": False}
        layer = lstm(cat_output_cell_states=False, return_quant_tensor=True, **options)
        cells = collected(layer, sequence())(sequence())[1][1]
        assert [cell.shape for cell in cells] == [(1, 2, 3)] * 2
        assert all(cell.is_valid for cell in cells)
        again = layer(sequence(), None, cells)[1][1]
        assert [cell.shape for cell in again] == [(1, 2, 3)] * 2

    def test_dynamic_quantizer_keeps_the_scale_of_each_step(self):
        dynamic = Int8ActPerTensorFloat.let(
            proxy_class=DynamicActQuantProxyFromInjector,
            scaling_impl_type=ScalingImplType.STATS,
            scaling_stats_op=StatsOp.MAX,
        )
        layer = lstm(
            io_quant=dynamic, bias_quant=None, return_quant_tensor=True, bidirectional=True
        )
        layer(sequence())
        output, (hidden, _) = layer.eval()(sequence())
        assert output.scale.shape == (5, 1, 6) and output.is_valid
        assert hidden.scale.shape == (2, 1, 1) and hidden.is_valid

    def test_accumulator_bits(self):
        gate = lstm().layers[0][0].input_gate_params
        eight = torch.tensor(8.0)
        # 4 + 3 products of at most 255 * 255: log2(7 * 65025 + 1) = 18.8.
        assert float(gate.max_acc_bit_width(eight, eight)) == 19


class TestModule:
    def test_float_checkpoint_into_a_quantized_layer(self):
        torch.manual_seed(0)
        twin = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
        layer = qnn.QuantLSTM(4, 3, num_layers=2, bidirectional=True)
        with pytest.raises(RuntimeError, match="Missing key"):
            layer.load_state_dict(twin.state_dict())
        with config.overrides(IGNORE_MISSING_KEYS=True):
            layer.load_state_dict(twin.state_dict())
        gate = layer.layers[1][0].cell_gate_params
        assert torch.equal(gate.hidden_weight.weight, twin.weight_hh_l1[6:9])

    def test_float_checkpoint_into_quantized_weights(self):
        torch.manual_seed(0)
        twin, keywords = nn.LSTM(4, 3), {**FLOAT_LSTM, "weight_bit_width": 16}
        keywords["weight_quant"] = Int8WeightPerChannelFloat
        layer = qnn.QuantLSTM(4, 3, **keywords)
        layer.load_state_dict(twin.state_dict())
        x = sequence(dtype=torch.float32)
        difference = layer(x)[0] - twin(x)[0]
        # Weights are off by half a step of at most 3**-0.5 / 2**15; a gate sums 7 products of at
        # most 4, and each of 5 steps passes on at most what it has received from 4 gates.
        bound = 3**-0.5 / 2**16 * 7 * 4 * 5 * 4
        assert 0 < float(difference.detach().abs().max()) < bound

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_dtypes(self, dtype):
        layer = qnn.QuantLSTM(4, 3, dtype=dtype)
        assert {p.dtype for p in layer.parameters()} == {dtype}
        x = sequence(dtype=dtype)
        for _ in range(2):
            output = layer(x)[0]
            assert output.dtype == dtype
            output.sum().backward()
            collected(layer, x)

    def test_autocast(self):
        layer = collected(qnn.QuantLSTM(4, 3), sequence(dtype=torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = layer(sequence(dtype=torch.float32))[0]
        output.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in layer.parameters())

    def test_seed_gives_weights(self):
        torch.manual_seed(0)
        layer = lstm()
        drawn = layer.layers[0][0].cell_gate_params.bias.clone()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.zero_()
        layer.reset_parameters()
        bound = 3**-0.5
        weights = [p for n, p in layer.named_parameters() if "_gate_params" in n]
        assert all(float(w.detach().abs().max()) <= bound and bool(w.any()) for w in weights)
        assert float(drawn.detach().abs().max()) <= bound

    def test_repr_states_sizes(self):
        assert "4, 3, num_layers=2, batch_first=True" in repr(lstm(num_layers=2, batch_first=True))

    def test_learned_scales_with_a_start_value(self):
        layer = lstm(gate_acc_quant=Int8ActPerTensorFloatMinMaxInit.let(min_val=-4.0, max_val=4.0))
        assert bool(layer(sequence())[0].isfinite().all())


@pytest.mark.long
@pytest.mark.parametrize("phase", ["collecting", "learning"])
def test_compiles_to_one_graph(phase):
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, x = qnn.QuantLSTM(4, 3, bidirectional=True), sequence(3, dtype=torch.float32)
    if phase == "learning":
        collected(layer, x)
    plain = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for ours, expected in zip(flat(compiled(x)), flat(plain(x)), strict=True):
        assert torch.equal(ours, expected)
