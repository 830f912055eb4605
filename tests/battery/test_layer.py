"""What holds for every quantized layer: copies, checkpoints, devices, dtypes, modes."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import (
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    Int8WeightPerTensorFloat,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
)
from float_twins import assert_computes_the_same

LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
# Every quantizer of a layer holds learned values.
QUANTIZED: dict[str, Any] = {
    "weight_quant": LearnedWeight,
    "bias_quant": Int8BiasPerTensorFloatInternalScaling,
    "input_quant": Int8ActPerTensorFloat,
    "output_quant": ShiftedUint8ActPerTensorFloat,
}


class Layer(NamedTuple):
    """A quantized layer, its float twin, and an input for both."""

    quantized: type[nn.Module]
    twin: type[nn.Module]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    keywords: dict[str, Any]
    #: Keywords that leave the layer in floating point.
    plain: dict[str, Any]
    #: Number of rows of a table that is looked up by integers; 0 for an input of real numbers.
    rows: int = 0


class Joined(nn.Module):
    """A layer of two operands, given a tensor and its half."""

    def forward(self, x: Any) -> Any:
        return self.join(x, x / 2)


class Add(Joined):
    def join(self, x: Any, y: Any) -> Any:
        return x + y


class Cat(Joined):
    def join(self, x: Any, y: Any) -> Any:
        return torch.cat([x, y], 1)


class QuantAdd(Joined, qnn.QuantEltwiseAdd):
    def join(self, x: Any, y: Any) -> Any:
        return qnn.QuantEltwiseAdd.forward(self, x, y)


class QuantConcatenation(Joined, qnn.QuantCat):
    def join(self, x: Any, y: Any) -> Any:
        return qnn.QuantCat.forward(self, [x, y])


WEIGHT_PLAIN = {"weight_quant": None}
ACT_PLAIN = {"act_quant": None}
LAYERS = {
    "linear": Layer(qnn.QuantLinear, nn.Linear, (4, 6), (3, 4), QUANTIZED, WEIGHT_PLAIN),
    "relu": Layer(qnn.QuantReLU, nn.ReLU, (), (3, 4), {}, ACT_PLAIN),
    "sigmoid": Layer(qnn.QuantSigmoid, nn.Sigmoid, (), (3, 4), {}, ACT_PLAIN),
    "tanh": Layer(qnn.QuantTanh, nn.Tanh, (), (3, 4), {}, ACT_PLAIN),
    "identity": Layer(qnn.QuantIdentity, nn.Identity, (), (3, 4), {}, ACT_PLAIN),
    "hardtanh": Layer(
        qnn.QuantHardTanh, nn.Hardtanh, (), (3, 4), {"min_val": -1.0, "max_val": 1.0}, ACT_PLAIN
    ),
}
BOTH_PLAIN = {"input_quant": None, "output_quant": None}
WEIGHT_ONLY = {"weight_quant": LearnedWeight}
LAYERS["hardswish"] = Layer(qnn.QuantHardSwish, nn.Hardswish, (), (3, 4), {}, ACT_PLAIN)
LAYERS["add"] = Layer(QuantAdd, Add, (), (3, 4), {}, BOTH_PLAIN)
LAYERS["cat"] = Layer(QuantConcatenation, Cat, (), (3, 4), {}, BOTH_PLAIN)
LAYERS["embedding"] = Layer(
    qnn.QuantEmbedding, nn.Embedding, (6, 4), (3, 4), WEIGHT_ONLY, WEIGHT_PLAIN, rows=6
)
LAYERS["scale_bias"] = Layer(
    qnn.QuantScaleBias, qnn.ScaleBias, (4, True), (3, 4, 5, 5), QUANTIZED, WEIGHT_PLAIN
)
BINARY = {**QUANTIZED, "weight_quant": SignedBinaryWeightPerTensorConst}
LAYERS["linear_binary"] = Layer(qnn.QuantLinear, nn.Linear, (4, 6), (3, 4), BINARY, WEIGHT_PLAIN)
LAYERS["identity_binary"] = Layer(
    qnn.QuantIdentity,
    nn.Identity,
    (),
    (3, 4),
    {"act_quant": SignedBinaryActPerTensorConst},
    ACT_PLAIN,
)
for _name, _quantizer, _kind in (
    ("decoupled", Int8WeightPerChannelFloatDecoupled, "Linear"),
    ("weight_norm", Int8WeightNormL2PerChannelFixedPoint, "Conv2d"),
    ("accumulator_aware", Int8AccumulatorAwareWeightQuant, "Linear"),
    ("zero_center", Int8AccumulatorAwareZeroCenterWeightQuant, "ConvTranspose2d"),
):
    LAYERS[f"{_kind.lower()}_{_name}"] = Layer(
        getattr(qnn, "Quant" + _kind),
        getattr(nn, _kind),
        (4, 6) if _kind == "Linear" else (4, 6, 3),
        (3, 4) if _kind == "Linear" else (2, 4, 5, 5),
        {**QUANTIZED, "weight_quant": _quantizer},
        WEIGHT_PLAIN,
    )
# Without statistics: its scales are start values or constants.
PLAIN_SCALES = ("hardtanh", "identity_binary")
for _dims in (1, 2, 3):
    _shape = (2, 4, *[5] * _dims)
    for _kind in ("Conv", "ConvTranspose"):
        _name = f"{_kind}{_dims}d"
        LAYERS[_name.lower()] = Layer(
            getattr(qnn, "Quant" + _name),
            getattr(nn, _name),
            (4, 6, 3),
            _shape,
            QUANTIZED,
            WEIGHT_PLAIN,
        )


class SelfAttention(qnn.QuantMultiheadAttention):
    """Multi-head attention as a layer of one input and one output."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x, x, x, need_weights=False)[0]


class FloatSelfAttention(nn.MultiheadAttention):
    """The float twin of ``SelfAttention``."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x, x, x, need_weights=False)[0]


class SelfProduct(qnn.QuantScaledDotProductAttention):
    """Scaled dot-product attention as a layer of one input."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x, x, x, is_causal=True)


class FloatSelfProduct(qnn.ScaledDotProductAttention):
    """The float twin of ``SelfProduct``."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x, x, x, is_causal=True)


PRODUCT_PLAIN = dict.fromkeys(
    ("q_scaled_quant", "k_transposed_quant", "attn_output_weights_quant", "v_quant")
)
PROJECTION_PLAIN = dict.fromkeys(
    f"{side}_proj_{tensor}_quant"
    for side in ("in", "out")
    for tensor in ("input", "weight", "bias")
)
ATTENTION_PLAIN = {**PRODUCT_PLAIN, **PROJECTION_PLAIN}
for _packed in (True, False):
    LAYERS["attention_packed" if _packed else "attention_separate"] = Layer(
        SelfAttention,
        FloatSelfAttention,
        (8, 2),
        (5, 3, 8),
        {
            "packed_in_proj": _packed,
            "in_proj_weight_quant": LearnedWeight,
            "in_proj_bias_quant": Int8BiasPerTensorFloatInternalScaling,
            "softmax_input_quant": Int8ActPerTensorFloat,
            "out_proj_bias_quant": Int32Bias,
            "out_proj_output_quant": ShiftedUint8ActPerTensorFloat,
        },
        {**ATTENTION_PLAIN, "packed_in_proj": _packed},
    )
# Their parameters have other names and start values than those of the twin, which their own tests
# compare them with.
ATTENTION = ("attention_packed", "attention_separate")
LAYERS["attention_product"] = Layer(
    SelfProduct,
    FloatSelfProduct,
    (),
    (2, 3, 5, 4),
    {"sdpa_output_quant": Int8ActPerTensorFloat},
    PRODUCT_PLAIN,
)
WEIGHTED = [name for name, layer in LAYERS.items() if layer.plain is WEIGHT_PLAIN]
# Those whose weight meets an input of real numbers.
COMPUTING = [name for name in WEIGHTED if not LAYERS[name].rows]


def build(name: str, **keywords: Any) -> nn.Module:
    layer = LAYERS[name]
    return layer.quantized(*layer.arguments, **{**layer.keywords, **keywords})


def data(name: str, seed: int = 0, **factory: Any) -> torch.Tensor:
    generator, row = torch.Generator().manual_seed(seed), LAYERS[name]
    if row.rows:
        x = torch.randint(0, row.rows, row.shape, generator=generator)
        return x.to(factory.get("device"))
    return torch.randn(row.shape, generator=generator).to(**factory)


def leaf(x: torch.Tensor) -> torch.Tensor:
    """An input whose gradient is wanted, where it has one."""
    return x.requires_grad_(x.is_floating_point())


def enlarged(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The input times a factor, where it is not a place in a table."""
    return x * factor if x.is_floating_point() else x


def trained(name: str) -> nn.Module:
    """A layer that has learned values of its own."""
    torch.manual_seed(0)
    layer = build(name)
    layer(data(name, seed=1))
    return layer


def in_evaluation(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return layer.eval()(x)


@pytest.mark.parametrize("name", LAYERS)
class TestEveryLayer:
    def test_without_quantizer_is_the_float_layer(self, name):
        if name in ATTENTION:
            return
        layer = LAYERS[name]
        torch.manual_seed(0)
        quantized = layer.quantized(*layer.arguments, **layer.plain)
        after_quantized = torch.rand(2)
        torch.manual_seed(0)
        twin = layer.twin(*layer.arguments)
        assert torch.equal(after_quantized, torch.rand(2))
        pairs = list(zip(quantized.parameters(), twin.parameters(), strict=True))
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
        assert_computes_the_same(quantized, twin, data(name))

    def test_seed_gives_the_weights_of_the_twin(self, name):
        if name in ATTENTION:
            return
        layer = LAYERS[name]
        torch.manual_seed(0)
        quantized = build(name)
        after = torch.rand(2)
        torch.manual_seed(0)
        twin = layer.twin(*layer.arguments)
        assert torch.equal(after, torch.rand(2))
        parameters = dict(quantized.named_parameters())
        for key, parameter in twin.named_parameters():
            assert torch.equal(parameters[key], parameter)

    def test_classes(self, name):
        layer = build(name)
        assert isinstance(layer, nn.Module)
        if name in WEIGHTED:
            assert isinstance(layer, LAYERS[name].twin)
            bases = type(layer).__bases__
            assert bases[-1] is LAYERS[name].twin
            assert type(layer).__mro__.index(bases[0]) == 1

    def test_state_dict_round_trip(self, name):
        source, x = trained(name), data(name)
        target = build(name)
        target.load_state_dict(source.state_dict())
        assert torch.equal(in_evaluation(source, x), in_evaluation(target, x))

    def test_state_dict_assign(self, name):
        source, x = trained(name), data(name)
        state = {key: value.clone() for key, value in source.state_dict().items()}
        target = build(name, device="meta")
        target.load_state_dict(state, assign=True)
        assert not any(parameter.is_meta for parameter in target.parameters())
        if name not in WEIGHTED and state == {}:
            return
        target = target.to_empty(device="cpu")
        target.load_state_dict(source.state_dict())
        assert torch.equal(in_evaluation(source, x), in_evaluation(target, x))

    def test_safe_loading(self, name):
        source, x = trained(name), data(name)
        stream = io.BytesIO()
        torch.save(source.state_dict(), stream)
        stream.seek(0)
        target = build(name)
        target.load_state_dict(torch.load(stream, weights_only=True))
        assert torch.equal(in_evaluation(source, x), in_evaluation(target, x))

    def test_fresh_state_holds_no_statistics(self, name):
        state, layer = build(name).state_dict(), build(name)
        missing, unexpected = layer.load_state_dict(state, strict=False)
        assert unexpected == []
        with_statistics = dict(layer.named_parameters())
        assert set(missing) == set(with_statistics) - set(state)
        assert bool(missing) == (name not in PLAIN_SCALES)

    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_copies_are_independent(self, name, how):
        source, x = trained(name), data(name)
        duplicate = (
            copy.deepcopy(source) if how == "deepcopy" else pickle.loads(pickle.dumps(source))
        )
        for module in duplicate.modules():
            for owner in getattr(module, "tracked_module_list", []):
                assert any(owner is part for part in duplicate.modules())
        expected = in_evaluation(source, x)
        assert torch.equal(expected, in_evaluation(duplicate, x))
        duplicate.train()
        with torch.no_grad():
            for parameter in duplicate.parameters():
                parameter.mul_(3.0)
        duplicate(enlarged(x, 5))
        assert torch.equal(expected, in_evaluation(source, x))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_dtype_reaches_everything(self, name, dtype):
        layer = build(name, dtype=dtype)
        tensors = [*layer.named_parameters(), *layer.named_buffers()]
        wrong = {key: tensor.dtype for key, tensor in tensors if tensor.dtype != dtype}
        assert tensors and not wrong
        x = leaf(data(name, dtype=dtype))
        output = layer(x)
        assert output.dtype == dtype
        output.sum().backward()
        assert x.grad is None or x.grad.dtype == dtype
        assert (x.grad is None) == bool(LAYERS[name].rows)
        assert layer.eval()(x).dtype == dtype

    def test_conversion_reaches_everything(self, name):
        layer = trained(name).double()
        tensors = [*layer.named_parameters(), *layer.named_buffers()]
        assert all(tensor.dtype == torch.float64 for _, tensor in tensors)
        assert layer(data(name, dtype=torch.float64)).dtype == torch.float64

    def test_meta_device_reaches_everything(self, name):
        layer = build(name, device="meta")
        with torch.device("meta"):
            inside = build(name)
        for module in (layer, inside):
            tensors = [*module.named_parameters(), *module.named_buffers()]
            assert tensors and all(tensor.is_meta for _, tensor in tensors)
            assert module(data(name, device="meta")).is_meta

    def test_leaving_the_meta_device_starts_anew(self, name, empty_memory_is_nan):
        layer = build(name, device="meta").to_empty(device="cpu")
        if name in WEIGHTED or name in ATTENTION:
            layer.reset_parameters()
        elif name == "hardtanh":
            return  # its learned scale is a start value, which only a checkpoint can restore
        x = data(name)
        output = layer(x)
        assert bool(output.isfinite().all())
        assert bool(layer.eval()(x).isfinite().all())

    def test_module_protocol(self, name):
        layer, twin = build(name), LAYERS[name].twin(*LAYERS[name].arguments)
        if name in WEIGHTED:
            assert layer.extra_repr() == twin.extra_repr()
        calls = []
        layer.register_forward_pre_hook(lambda *_: calls.append("before"))
        layer.register_forward_hook(lambda *_: calls.append("after"))
        expected = ["before", "after"]
        if not LAYERS[name].rows:  # PyTorch warns of the hook where no input has a gradient
            layer.register_full_backward_hook(lambda *_: calls.append("backward"))
            expected.append("backward")
        layer(leaf(data(name))).sum().backward()
        assert calls == expected

    def test_inference_mode(self, name):
        layer, x = trained(name).eval(), data(name)
        expected = layer(x)
        with torch.inference_mode():
            assert torch.equal(layer(x), expected)
        layer.train()
        with torch.inference_mode():
            layer(x)

    def test_no_grad_keeps_values(self, name):
        layer, x = trained(name).eval(), data(name)
        with torch.no_grad():
            output = layer(x)
        assert not output.requires_grad
        assert torch.equal(output, layer(x))

    def test_autocast(self, name):
        layer, x = build(name), leaf(data(name))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = layer(x)
        output.float().sum().backward()
        for parameter in layer.parameters():
            assert parameter.grad is None or parameter.grad.dtype == torch.float32
            assert parameter.grad is None or bool(parameter.grad.isfinite().all())
        assert bool(output.isfinite().all())

    def test_evaluation_is_deterministic_and_frozen(self, name):
        layer = trained(name).eval()
        state = {key: value.clone() for key, value in layer.state_dict().items()}
        first = layer(data(name))
        layer(enlarged(data(name, seed=5), 100))
        assert torch.equal(first, layer(data(name)))
        assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())

    def test_every_parameter_gets_a_gradient(self, name):
        layer = build(name)
        layer(leaf(data(name))).square().sum().backward()
        missing = [key for key, p in layer.named_parameters() if p.grad is None]
        assert missing == []

    def test_disable_every_quantizer(self, name):
        layer = trained(name)
        proxies = [m for m in layer.modules() if hasattr(m, "disable_quant")]
        before = layer(data(name))
        for proxy in proxies:
            proxy.disable_quant = True
        row = LAYERS[name]
        is_attention = name.startswith("attention")
        twin = (
            row.quantized(*row.arguments, **row.plain) if is_attention else row.twin(*row.arguments)
        )
        twin.load_state_dict(layer.state_dict(), strict=False)
        if is_attention:
            # Step by step here, by one kernel there: sums in another order.
            torch.testing.assert_close(layer(data(name)), twin(data(name)))
        elif name == "hardtanh":
            # The clamp is the quantizer's own.
            assert torch.equal(layer(data(name)), data(name))
        else:
            assert torch.equal(layer(data(name)), twin(data(name)))
        for proxy in proxies:
            proxy.disable_quant = False
        # Output statistics are averaged over batches; the same batch gives the same values.
        assert torch.equal(layer(data(name)), before)


@pytest.mark.parametrize("name", WEIGHTED)
class TestEveryLayerWithAWeight:
    def test_reset_parameters(self, name):
        layer, fresh = trained(name), build(name)
        torch.manual_seed(3)
        layer.reset_parameters()
        torch.manual_seed(3)
        fresh.reset_parameters()
        learned = dict(fresh.weight_quant.named_parameters())
        for key, parameter in layer.weight_quant.named_parameters():
            assert torch.equal(parameter, learned[key])
        torch.manual_seed(3)
        twin = LAYERS[name].twin(*LAYERS[name].arguments)
        assert torch.equal(layer.weight, twin.weight)

    def test_zero_size_batch(self, name):
        layer = trained(name).eval()
        output = layer(data(name)[:0])
        assert output.shape[0] == 0

    def test_weight_is_quantized(self, name):
        layer = build(name, weight_quant=Int8WeightPerTensorFloat)
        scale = layer.weight.detach().abs().max() / 127
        weight = layer.quant_weight()
        torch.testing.assert_close(weight.scale, scale)
        # Rounding to the nearest integer is off by at most half a step.
        assert float((weight.value - layer.weight).detach().abs().max()) <= float(scale) * 0.5001


@pytest.mark.parametrize("name", COMPUTING)
class TestEveryLayerThatComputes:
    def test_unbatched_input(self, name):
        layer, x = trained(name).eval(), data(name)
        # One row gives the same sums as the whole batch up to their order: eps of float32 times
        # the number of terms, far below half a step; an output may still round the other way.
        step = float(layer.output_quant.scale().detach())
        difference = (layer(x[0]) - layer(x)[0]).detach().abs().max()
        assert float(difference) <= step * 1.0001

    def test_quant_tensor_input(self, name):
        layer = trained(name).eval()
        identity = qnn.QuantIdentity(return_quant_tensor=True)
        identity(data(name))
        x = identity.eval()(data(name))
        assert torch.equal(layer(x), layer(x.value))

    def test_return_quant_tensor(self, name):
        keywords = {
            "return_quant_tensor": True,
            "output_quant": None,
            "input_quant": Int8ActPerTensorFloat,
        }
        layer = build(name, **keywords)
        output = layer(data(name))
        weight, x = layer.quant_weight(), layer.input_quant(data(name))
        assert output.is_valid
        torch.testing.assert_close(output.scale.flatten(), (weight.scale * x.scale).flatten())
        plain = copy.deepcopy(layer)
        plain.return_quant_tensor = False
        assert torch.equal(plain.eval()(data(name)), layer.eval()(data(name)).value)
