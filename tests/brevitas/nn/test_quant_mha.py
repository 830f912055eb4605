"""Multi-head attention: equal to that of torch without quantizers, quantized where asked."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.export.inference import quant_inference_mode
from brevitas.graph.calibrate import calibration_mode
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    ShiftedUint8ActPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor

E, HEADS, BATCH = 8, 2, 3
PLAIN = dict.fromkeys(
    (
        *("in_proj_input_quant", "in_proj_weight_quant", "in_proj_bias_quant"),
        *("out_proj_input_quant", "out_proj_weight_quant", "out_proj_bias_quant"),
        *("q_scaled_quant", "k_transposed_quant", "attn_output_weights_quant", "v_quant"),
    )
)
INFINITY = float("inf")


def twins(packed_in_proj=True, **keywords):
    """A float layer of torch with random biases, and ours with its state, in float64."""
    torch.manual_seed(0)
    keywords["dtype"] = torch.float64
    twin = nn.MultiheadAttention(E, HEADS, **keywords)
    for parameter in twin.parameters():
        nn.init.normal_(parameter)
    layer = qnn.QuantMultiheadAttention(
        E, HEADS, packed_in_proj=packed_in_proj, **keywords, **PLAIN
    )
    layer.load_state_dict(twin.state_dict())
    return layer, twin


def inputs(layer, kind, batched=True, queries=4, keys=5):
    """Query, key and value of a kind, laid out as the layer says."""
    torch.manual_seed(1)

    def draw(length, features):
        shape = (length, BATCH, features) if batched else (length, features)
        x = torch.randn(shape, dtype=layer.out_proj.weight.dtype)
        return (x.transpose(0, 1) if batched and layer.batch_first else x).requires_grad_()

    x = draw(queries, E)
    if kind == "self":
        return x, x, x
    memory = draw(keys, layer.kdim)
    return x, memory, memory if kind == "memory" else draw(keys, layer.vdim)


def assert_equal_results(layer, twin, given, **arguments):
    """Compare output, weights, and the gradients of inputs and parameters."""
    results, gradients = [], []
    for module in (layer, twin):
        module.zero_grad(set_to_none=True)
        leaves = {id(x): x.detach().clone().requires_grad_() for x in given}
        output, weights = module(*(leaves[id(x)] for x in given), **arguments)
        loss = output.square().sum() + (weights.square().sum() if weights is not None else 0.0)
        loss.backward()
        results.append((output, weights))
        gradients.append([leaf.grad for leaf in leaves.values()])
    (output, weights), (expected, expected_weights) = results
    torch.testing.assert_close(output, expected)
    assert (weights is None) == (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(*gradients)
    state = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    target = copy.deepcopy(layer)
    target.load_state_dict(state, strict=False)
    for ours, theirs in zip(layer.parameters(), target.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.detach())


VARIANTS: dict[str, dict[str, Any]] = {
    "packed": {},
    "separate": {"packed_in_proj": False},
    "other sizes": {"kdim": 6, "vdim": 4},
    "no bias": {"bias": False},
    "added keys": {"add_bias_kv": True, "add_zero_attn": True},
    "added keys, separate": {"add_bias_kv": True, "packed_in_proj": False, "batch_first": True},
    "batch first": {"batch_first": True},
}
KINDS = ("self", "memory", "all differ")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_without_quantizers_it_is_the_layer_of_torch(variant, kind, batched, need_weights):
    layer, twin = twins(**VARIANTS[variant])
    if layer.kdim != layer.vdim:
        kind = "all differ"
    given = inputs(layer, kind, batched)
    assert_equal_results(layer, twin, given, need_weights=need_weights)


def _masks(layer, name, batched, queries, keys):
    torch.manual_seed(2)
    batch = BATCH if batched else 1
    pairs = torch.rand(queries, keys) < 0.4
    pairs[:, 0] = False
    each = torch.rand(batch * HEADS, queries, keys) < 0.4
    each[..., 0] = False
    padding = torch.zeros(batch, keys, dtype=torch.bool)
    padding[0, -2:] = True
    padding = padding if batched else padding[0]
    bias = torch.randn(queries, keys).double()
    return {
        "boolean pairs": {"attn_mask": pairs},
        "boolean pairs of each head": {"attn_mask": each},
        "float pairs": {"attn_mask": bias.masked_fill(pairs, -INFINITY)},
        "float pairs of each head": {"attn_mask": torch.randn(each.shape).double()},
        "padding": {"key_padding_mask": padding},
        "float padding": {"key_padding_mask": torch.randn(padding.shape).double()},
        "padding and pairs": {"key_padding_mask": padding, "attn_mask": pairs},
        "padding and pairs of each head": {"key_padding_mask": padding, "attn_mask": each},
        "causal": {
            "attn_mask": torch.ones(queries, keys, dtype=torch.bool).triu(1),
            "is_causal": True,
        },
    }[name]


MASKS = (
    "boolean pairs",
    "boolean pairs of each head",
    "float pairs",
    "float pairs of each head",
    "padding",
    "float padding",
    "padding and pairs",
    "padding and pairs of each head",
    "causal",
)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("variant", ["packed", "added keys", "batch first"])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_masks_are_those_of_torch(name, variant, batched, need_weights):
    layer, twin = twins(**VARIANTS[variant])
    if name == "causal" and variant == "added keys":
        return  # torch hides the added keys from the last query, which its mask does not ask for
    given = inputs(layer, "memory", batched)
    arguments = _masks(layer, name, batched, 4, 5)
    assert_equal_results(layer, twin, given, need_weights=need_weights, **arguments)


def test_weights_of_each_head():
    layer, twin = twins()
    given = inputs(layer, "self")
    assert_equal_results(layer, twin, given, average_attn_weights=False)


def test_causal_without_a_mask():
    layer, _ = twins()
    given = inputs(layer, "self")
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    for need_weights in (True, False):
        output, _ = layer(*given, need_weights=need_weights, is_causal=True)
        torch.testing.assert_close(output, layer(*given, attn_mask=mask)[0])


def test_dropout_draws_as_torch_does():
    layer, twin = twins(dropout=0.5)
    given = inputs(layer, "self")
    results = []
    for module in (layer, twin):
        torch.manual_seed(3)
        results.append(module(*given))
    torch.testing.assert_close(*results)
    assert bool((results[0][1] == 0).any())
    for module in (layer, twin):
        module.eval()
    torch.testing.assert_close(layer(*given), twin(*given))


def test_a_query_whose_keys_all_are_masked_gets_zeros():
    layer, _ = twins()
    quantized = qnn.QuantMultiheadAttention(E, HEADS, softmax_input_quant=Int8ActPerTensorFloat)
    padding = torch.zeros(BATCH, 4, dtype=torch.bool)
    padding[1] = True
    for module in (layer, quantized):
        given = inputs(module, "self")
        output, weights = module(*given, key_padding_mask=padding)
        assert torch.equal(weights[1], torch.zeros(4, 4))
        output.sum().backward()
        gradients = [given[0].grad, *(p.grad for p in module.parameters())]
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@pytest.mark.parametrize("packed", [True, False])
def test_a_float_checkpoint_loads_inside_of_a_model(packed):
    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(E, HEADS, add_bias_kv=True))
    layer = qnn.QuantMultiheadAttention(E, HEADS, add_bias_kv=True, packed_in_proj=packed, **PLAIN)
    target = nn.Sequential(nn.Linear(2, 2), layer)
    state = source.state_dict()
    kept = dict(state)
    target.load_state_dict(state)
    assert state.keys() == kept.keys()
    x = torch.randn(4, 2, E)
    torch.testing.assert_close(target[1](x, x, x), source[1](x, x, x))


def test_a_float_checkpoint_with_other_names_is_reported():
    layer = qnn.QuantMultiheadAttention(E, HEADS, **PLAIN)
    state = nn.MultiheadAttention(E, HEADS, kdim=6).state_dict()
    result = layer.load_state_dict(state, strict=False)
    assert "in_proj.weight" in result.missing_keys
    assert "q_proj_weight" in result.unexpected_keys


class TestStart:
    def test_biases_are_zero_and_weights_are_drawn_as_recorded(self):
        layer = qnn.QuantMultiheadAttention(E, HEADS, add_bias_kv=True)
        assert not layer.in_proj.bias.any() and not layer.out_proj.bias.any()
        # Xavier: uniform within sqrt(6 / (fan in + fan out)).
        limit = (6 / (E + 3 * E)) ** 0.5
        assert 0.9 * limit < float(layer.in_proj.weight.abs().max().detach()) <= limit

    @pytest.mark.parametrize("packed", [True, False])
    def test_reset_draws_what_construction_draws(self, packed):
        keywords = {"packed_in_proj": packed, "add_bias_kv": True}
        torch.manual_seed(0)
        layer = qnn.QuantMultiheadAttention(E, HEADS, **keywords)
        other = qnn.QuantMultiheadAttention(E, HEADS, **keywords)
        torch.manual_seed(0)
        other.reset_parameters()
        pairs = zip(layer.named_parameters(), other.named_parameters(), strict=True)
        assert all(torch.equal(ours[1], theirs[1]) for ours, theirs in pairs)

    @pytest.mark.parametrize("sizes", [(8, 3), (0, 2), (8, 0), (8, -2)])
    def test_sizes_that_do_not_fit(self, sizes):
        with pytest.raises(ValueError, match=r"embed_dim=.*multiple of num_heads.*Layer: Quant"):
            qnn.QuantMultiheadAttention(*sizes)

    def test_other_sizes_have_separate_projections(self):
        layer = qnn.QuantMultiheadAttention(E, HEADS, kdim=6)
        assert layer.in_proj is None
        sizes = [layer.q_proj, layer.k_proj, layer.v_proj]
        assert [(p.in_features, p.out_features) for p in sizes] == [(E, E), (6, E), (E, E)]


def _warnings(**keywords):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        qnn.QuantMultiheadAttention(E, HEADS, **keywords)
    return [(str(item.message), item.filename) for item in caught]


class TestKeywords:
    @pytest.mark.parametrize("packed", [True, False])
    def test_each_reaches_its_quantizer(self, packed):
        names = (
            *("in_proj_input", "in_proj_weight", "out_proj_input", "out_proj_weight"),
            *("softmax_input", "attn_output_weights", "q_scaled", "k_transposed", "v"),
        )
        keywords = {f"{name}_bit_width": 2 + place for place, name in enumerate(names)}
        layer = qnn.QuantMultiheadAttention(
            E,
            HEADS,
            packed_in_proj=packed,
            softmax_input_quant=Int8ActPerTensorFloat,
            **keywords,
        )
        projections = [layer.in_proj] if packed else [layer.q_proj, layer.k_proj, layer.v_proj]
        for projection in projections:
            assert projection.input_quant.bit_width() == 2
            assert projection.weight_quant.bit_width() == 3
        assert layer.out_proj.input_quant.bit_width() == 4
        assert layer.out_proj.weight_quant.bit_width() == 5
        for place, name in enumerate(names[4:]):
            assert getattr(layer, f"{name}_quant").act_quant.bit_width() == 6 + place

    def test_those_of_the_layers_inside(self):
        quant = Int8ActPerTensorFloat
        keywords = {"in_proj_output_quant": quant, "in_proj_output_bit_width": 3}
        assert _warnings(**keywords) == []
        layer = qnn.QuantMultiheadAttention(E, HEADS, **keywords)
        assert layer.in_proj.output_quant.bit_width() == 3
        x = torch.randn(4, 2, E)
        layer(x, x, x)

    @pytest.mark.parametrize(
        ("keyword", "hint"),
        [
            ("in_proj_weight_bit_widht", "Did you mean 'in_proj_weight_bit_width'?"),
            ("v_bitwidth", "Did you mean 'v_bit_width'?"),
            ("softmax_input_bit_width", "softmax_input_quant is None here"),
            ("in_proj_output_bit_width", "in_proj_output_quant is None here"),
            ("foo", "is read by none of its quantizers."),
        ],
    )
    @pytest.mark.parametrize("packed", [True, False])
    def test_unread_ones_are_reported_once_as_they_were_written(self, keyword, hint, packed):
        ((message, file),) = _warnings(packed_in_proj=packed, **{keyword: 4})
        assert message.startswith(f"QuantMultiheadAttention: keyword {keyword}=4 ")
        assert hint in message
        assert file == __file__

    def test_errors_name_them_as_they_were_written(self):
        build = qnn.QuantMultiheadAttention
        with pytest.raises(ValueError, match="^in_proj_weight_bit_width=0: .*Layer: QuantMulti"):
            build(E, HEADS, in_proj_weight_bit_width=0)
        with pytest.raises(TypeError, match="^v_quant=3: .*Layer: QuantMulti"):
            build(E, HEADS, v_quant=3)
        with pytest.raises(TypeError, match="^out_proj_weight_quant=Int8Act.*Layer: QuantMulti"):
            build(E, HEADS, out_proj_weight_quant=Int8ActPerTensorFloat)


QUANTIZED: dict[str, dict[str, Any]] = {
    "default": {},
    "separate": {"packed_in_proj": False},
    "scores": {"softmax_input_quant": Int8ActPerTensorFloat},
    "per channel": {
        "in_proj_weight_quant": Int8WeightPerChannelFloat,
        "out_proj_weight_quant": Int8WeightPerChannelFloat,
    },
    "zero points": {
        "v_quant": ShiftedUint8ActPerTensorFloat,
        "k_transposed_quant": ShiftedUint8ActPerTensorFloat,
    },
    "added keys": {"add_bias_kv": True, "add_zero_attn": True},
    "integers": {"out_proj_input_quant": None, "return_quant_tensor": True},
    "output": {
        "out_proj_output_quant": Int8ActPerTensorFloat,
        "return_quant_tensor": True,
        "batch_first": True,
    },
}


def trained(name, **keywords):
    torch.manual_seed(0)
    layer = qnn.QuantMultiheadAttention(E, HEADS, **QUANTIZED[name], **keywords)
    layer(*inputs(layer, "memory"))
    return layer.eval()


def value_of(output):
    return output.value if isinstance(output, IntQuantTensor) else output


@pytest.mark.parametrize("name", QUANTIZED)
class TestQuantized:
    def test_it_is_close_to_float(self, name):
        layer = trained(name)
        given = inputs(layer, "memory")
        quantized = value_of(layer(*given)[0])
        plain = {**PLAIN, "packed_in_proj": layer.in_proj is not None}
        names = ("add_bias_kv", "add_zero_attn", "batch_first")
        plain |= {key: QUANTIZED[name][key] for key in names if key in QUANTIZED[name]}
        twin = qnn.QuantMultiheadAttention(E, HEADS, **plain)
        twin.load_state_dict(layer.state_dict(), strict=False)
        exact = twin.eval()(*given)[0]
        difference = (quantized - exact).detach()
        # Eight bits, some five roundings behind each other: far below a tenth of the range.
        assert 0 < float(difference.abs().max()) < 0.1 * float(exact.detach().abs().max())

    def test_copies_and_checkpoints(self, name):
        layer = trained(name)
        given = inputs(layer, "memory")
        expected = value_of(layer(*given)[0])
        fresh = qnn.QuantMultiheadAttention(E, HEADS, **QUANTIZED[name]).eval()
        fresh.load_state_dict(layer.state_dict())
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
            assert torch.equal(value_of(other(*given)[0]), expected)

    def test_inference_mode_gives_equal_results(self, name):
        layer = trained(name)
        given = [x.detach() for x in inputs(layer, "memory")]
        given[2] = given[1]
        with torch.no_grad():
            expected = value_of(layer(*given)[0])
            with quant_inference_mode(layer):
                layer(*given)
                torch.testing.assert_close(value_of(layer(*given)[0]), expected)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_dtype(self, name, dtype):
        layer = qnn.QuantMultiheadAttention(E, HEADS, **QUANTIZED[name], dtype=dtype)
        assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
        given = inputs(layer, "self")
        x = given[0].detach().to(dtype)
        output, weights = layer(x, x, x)
        assert output.dtype == weights.dtype == dtype

    def test_meta_device(self, name):
        layer = qnn.QuantMultiheadAttention(E, HEADS, **QUANTIZED[name], device="meta")
        # What holds no values cannot be read: nothing in forward waits for a device.
        x = torch.randn(4, 4, E, device="meta")
        padding = torch.zeros(4, 4, dtype=torch.bool, device="meta")
        output, weights = layer(x, x, x, key_padding_mask=padding, is_causal=True)
        assert value_of(output).is_meta and weights.is_meta
        assert value_of(layer.eval()(x, x, x, need_weights=False)[0]).is_meta
        assert all(parameter.is_meta for parameter in layer.parameters())

    def test_autocast(self, name):
        layer = trained(name).train()
        given = inputs(layer, "memory")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = value_of(layer(*given)[0])
        output.float().sum().backward()
        assert bool(output.isfinite().all())
        for parameter in layer.parameters():
            assert parameter.grad.dtype == torch.float32
            assert bool(parameter.grad.isfinite().all())


def _long(*names):
    return [pytest.param(name, marks=pytest.mark.long) for name in names]


OTHERS = [name for name in QUANTIZED if name != "default"]


@pytest.mark.long
@pytest.mark.parametrize("name", QUANTIZED)
@pytest.mark.parametrize("kind", ["memory", "self", "all differ"])
def test_compiles_as_one_graph(name, kind):
    torch._dynamo.reset()
    layer = trained(name)
    given = inputs(layer, kind)
    mask = torch.zeros(4, given[1].shape[1 if layer.batch_first else 0], dtype=torch.bool)
    mask[0, -1] = True

    def run(*given):
        output, weights = layer(*given, attn_mask=mask)
        return value_of(output), weights

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), run(*given))


@pytest.mark.long
@pytest.mark.parametrize("name", QUANTIZED)
def test_trains_under_compile(name):
    torch._dynamo.reset()
    layer = trained(name).train()
    reference = copy.deepcopy(layer)
    given = inputs(layer, "self")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for module in (compiled, reference):
        value_of(module(*given)[0]).square().sum().backward()
    gradients = [[p.grad for p in module.parameters()] for module in (layer, reference)]
    torch.testing.assert_close(*gradients)


class Padded(nn.Module):
    """Self-attention with padding that returns plain tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, padding):
        output, weights = self.layer(x, x, x, key_padding_mask=padding)
        return value_of(output), weights


@pytest.mark.parametrize("name", ["default", *_long(*OTHERS)])
@pytest.mark.parametrize("strict", [False, *_long(True)])
def test_exports_with_any_length(name, strict):
    layer = trained(name)
    model = Padded(layer)

    def example(length):
        x = torch.randn(length, BATCH, E)
        padding = torch.zeros(BATCH, length, dtype=torch.bool)
        padding[0, -1] = True
        return (x.transpose(0, 1) if layer.batch_first else x), padding

    length = torch.export.Dim("length", min=2, max=64)
    shapes = ({1 if layer.batch_first else 0: length}, {1: length})
    program = torch.export.export(model, example(4), dynamic_shapes=shapes, strict=strict)
    for size in (4, 7):
        given = example(size)
        torch.testing.assert_close(program.module()(*given), model(*given))


class TestQuantTensors:
    @pytest.mark.parametrize("kind", ["self", "memory"])
    def test_input(self, kind):
        layer = trained("default")
        layer = qnn.QuantMultiheadAttention(E, HEADS, in_proj_input_quant=None)
        x, memory, _ = inputs(layer, kind)
        identity = qnn.QuantIdentity(return_quant_tensor=True)
        identity(x)
        identity.eval()
        x = identity(x)
        memory = x if kind == "self" else identity(memory)
        output, _ = layer(x, memory, memory)
        # The bias finds its scale in the quantized input.
        assert isinstance(output, torch.Tensor)
        with pytest.raises(RuntimeError, match="Input scale required"):
            layer(x.value, x.value, x.value)

    def test_output_of_the_output_quantizer(self):
        layer = trained("output")
        output, weights = layer(*inputs(layer, "memory"))
        assert isinstance(output, IntQuantTensor) and output.is_valid
        assert output.bit_width == 8
        assert isinstance(weights, torch.Tensor)

    @pytest.mark.parametrize("batched", [True, False])
    def test_output_of_the_accumulator(self, batched):
        layer = qnn.QuantMultiheadAttention(E, HEADS, return_quant_tensor=True)
        given = inputs(layer, "memory", batched)
        layer(*given)
        output, _ = layer.eval()(*given)
        assert isinstance(output, IntQuantTensor) and output.is_valid
        scale = layer.out_proj.input_quant.scale() * layer.out_proj.quant_weight().scale
        torch.testing.assert_close(output.scale.flatten(), scale.flatten())

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_integers_reach_the_output_projection(self, batch_first):
        bits = {f"{name}_bit_width": 4 for name in ("attn_output_weights", "v", "out_proj_weight")}
        layer = qnn.QuantMultiheadAttention(
            E,
            HEADS,
            batch_first=batch_first,
            out_proj_input_quant=None,
            return_quant_tensor=True,
            **bits,
        )
        given = inputs(layer, "memory")
        layer(*given)
        seen = []
        layer.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        output, _ = layer.eval()(*given)
        (merged,) = seen
        product = (
            layer.attn_output_weights_quant.act_quant.scale() * layer.v_quant.act_quant.scale()
        )
        assert merged.is_valid and output.is_valid
        torch.testing.assert_close(merged.scale.flatten(), product.flatten())

    def test_returned_weights_are_quantized(self):
        layer = trained("default")
        _, weights = layer(*inputs(layer, "memory"), average_attn_weights=False)
        steps = weights / layer.attn_output_weights_quant.act_quant.scale()
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-4)


def test_packed_and_separate_projections_give_equal_results():
    """One weight scale and one input scale for all three parts, by sharing the quantizers."""
    packed = qnn.QuantMultiheadAttention(E, HEADS, in_proj_bias_quant=None)
    given = inputs(packed, "self")
    packed(*given)
    packed.eval()
    separate = qnn.QuantMultiheadAttention(
        E,
        HEADS,
        packed_in_proj=False,
        in_proj_bias_quant=None,
        in_proj_input_quant=packed.in_proj.input_quant,
        in_proj_weight_quant=None,
    ).eval()
    state = packed.state_dict()
    weight, bias = packed.in_proj.quant_weight().value.detach(), state.pop("in_proj.bias")
    state = {name: value for name, value in state.items() if not name.startswith("in_proj")}
    state |= {"in_proj_weight": weight, "in_proj_bias": bias}
    separate.load_state_dict(state, strict=False)
    torch.testing.assert_close(packed(*given), separate(*given))


def test_calibration_sees_every_quantizer():
    layer = qnn.QuantMultiheadAttention(
        E, HEADS, out_proj_input_quant=None, return_quant_tensor=True
    ).eval()
    given = [x.detach() for x in inputs(layer, "self")]
    given = [given[0]] * 3
    float_layer = qnn.QuantMultiheadAttention(E, HEADS, **PLAIN).eval()
    float_layer.load_state_dict(layer.state_dict(), strict=False)
    with torch.no_grad(), calibration_mode(layer):
        output, _ = layer(*given)
    torch.testing.assert_close(output, float_layer(*given)[0])
    for name in ("q_scaled", "k_transposed", "attn_output_weights", "v"):
        proxy = getattr(layer, f"{name}_quant").act_quant
        assert bool(proxy.scale() > 0)
    assert isinstance(layer(*given)[0], IntQuantTensor)


@pytest.mark.parametrize("training", [True, False])
def test_encoder_layers_of_torch_run_it(training):
    torch.manual_seed(0)
    source = nn.TransformerEncoderLayer(E, HEADS, 16, dropout=0.0, batch_first=True)
    target = copy.deepcopy(source)
    layer = qnn.QuantMultiheadAttention(E, HEADS, batch_first=True, **PLAIN)
    layer.load_state_dict(source.self_attn.state_dict())
    target.self_attn = layer
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    x, mask = torch.randn(2, 4, E), nn.Transformer.generate_square_subsequent_mask(4)
    source.train(training)
    target.train(training)
    with torch.no_grad():
        torch.testing.assert_close(target(x), source(x))
        expected = source(x, src_mask=mask, is_causal=True)
        torch.testing.assert_close(
            target(x, src_mask=mask, is_causal=True), expected, rtol=1e-4, atol=1e-5
        )
        nn.TransformerEncoder(target, 1, enable_nested_tensor=False)(x)
    assert len(calls) == 3 and layer.in_proj_bias is None


class TestSettingsGivenAnew:
    """`multi_head_attention`, which takes what the layer holds as arguments."""

    @staticmethod
    def settings(layer, **changes):
        return {
            "embed_dim_to_check": E,
            "num_heads": HEADS,
            "bias_k": None,
            "bias_v": None,
            "add_zero_attn": False,
            "dropout_p": 0.0,
            **changes,
        }

    def test_those_of_the_layer_give_its_output(self):
        layer = trained("default")
        given = inputs(layer, "memory")
        results = layer.multi_head_attention(*given, **self.settings(layer))
        torch.testing.assert_close(results, layer(*given))

    def test_other_ones(self):
        layer, _ = twins()
        given = inputs(layer, "memory")
        changes = {"add_zero_attn": True, "num_heads": 4, "need_weights": False}
        output, weights = layer.multi_head_attention(*given, **self.settings(layer, **changes))
        twin = qnn.QuantMultiheadAttention(E, 4, add_zero_attn=True, **PLAIN).double()
        twin.load_state_dict(layer.state_dict())
        torch.testing.assert_close(output, twin(*given)[0])
        assert weights is None

    def test_dropout_in_training_only(self):
        layer, _ = twins()
        given = inputs(layer, "memory")
        dropped, kept = (
            layer.multi_head_attention(
                *given, **self.settings(layer, dropout_p=0.5), training=training
            )[1]
            for training in (True, False)
        )
        assert bool((dropped == 0).any()) and not bool((kept == 0).any())

    def test_fixed_keys(self):
        layer, _ = twins()
        given = inputs(layer, "memory")
        _, keys, values = (part for part in layer.in_proj(given[1]).chunk(3, -1))
        keys, values = (
            x.reshape(5, BATCH * HEADS, E // HEADS).transpose(0, 1) for x in (keys, values)
        )
        fixed = self.settings(layer, static_k=keys, static_v=values)
        results = layer.multi_head_attention(given[0], given[0], given[0], **fixed)
        torch.testing.assert_close(results, layer(*given))

    def test_wrong_ones(self):
        layer, _ = twins()
        given = inputs(layer, "memory")
        for changes in ({"embed_dim_to_check": 4}, {"num_heads": 3}):
            with pytest.raises(ValueError, match="expected 8 and one of its divisors"):
                layer.multi_head_attention(*given, **self.settings(layer, **changes))

    def test_shape_check(self):
        layer = qnn.QuantMultiheadAttention(E, HEADS, batch_first=True)
        x = torch.randn(4, 2, E)
        assert layer.mha_shape_check(x, x, x, None, torch.zeros(4, 4), HEADS)
        assert not layer.mha_shape_check(x[0], x[0], x[0], None, None, HEADS)
        with pytest.raises(ValueError, match=r"query of shape \(4, 2, 7\)"):
            layer.mha_shape_check(x[..., :7], x, x, None, None, HEADS)


def test_what_it_prints():
    text = repr(qnn.QuantMultiheadAttention(E, HEADS))
    assert "embed_dim=8, num_heads=2" in text
