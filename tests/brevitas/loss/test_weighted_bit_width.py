"""Losses on bit widths equal formulas written here, and their gradients reach the offsets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.loss import (
    MEGA,
    ActivationBitWidthWeightedBySize,
    ActivationFloatBitWidthWeightedBySize,
    QuantLayerOutputBitWidthWeightedByOps,
    WeightBitWidthWeightedBySize,
    WeightFloatBitWidthWeightedBySize,
)
from brevitas.loss.weighted_bit_width import BitWidthWeighted
from brevitas.quant import (
    Fp8e4m3WeightPerTensorFloat,
    Fp8e5m2Act,
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    TruncTo8bit,
    Uint8ActPerTensorFloat,
)
from brevitas.quant.base import IntQuant
from brevitas.quant.solver import ClampQuantSolver


class Weight(Int8WeightPerTensorFloat):
    bit_width_impl_type = "parameter"


class Signed(Int8ActPerTensorFloat):
    bit_width_impl_type = "parameter"
    collect_stats_steps = 1


class Unsigned(Uint8ActPerTensorFloat):
    bit_width_impl_type = "parameter"
    collect_stats_steps = 1


class Model(nn.Module):
    """Learned bits of different width everywhere, but for one weight and one activation."""

    def __init__(self):
        super().__init__()
        quantized = {"return_quant_tensor": True}
        self.input = qnn.QuantIdentity(act_quant=Signed, bit_width=6, **quantized)
        self.conv = qnn.QuantConv2d(
            4, 6, 3, stride=2, groups=2, weight_quant=Weight, weight_bit_width=4, **quantized
        )
        self.act = qnn.QuantReLU(act_quant=Unsigned, bit_width=5, **quantized)
        self.fixed = qnn.QuantIdentity(bit_width=8, **quantized)
        self.hidden = qnn.QuantLinear(
            24, 7, weight_quant=Weight, weight_bit_width=3, bias=False, **quantized
        )
        self.head = qnn.QuantLinear(7, 2, weight_bit_width=8, input_quant=Int8ActPerTensorFloat)

    def forward(self, x):
        return self.head(self.hidden(self.fixed(self.act(self.conv(self.input(x)))).flatten(1)))


def offsets(model):
    return {n: p for n, p in model.named_parameters() if n.endswith("bit_width_offset")}


def offset_of(model, name):
    (parameter,) = (p for n, p in offsets(model).items() if n.startswith(name))
    return parameter


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


X = torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def test_weights(model):
    loss = WeightBitWidthWeightedBySize(model)
    model(X)
    conv, hidden = 6 * 2 * 9, 7 * 24
    expected = (4 * conv + 3 * hidden) / (conv + hidden)
    assert loss.retrieve().item() == pytest.approx(expected, rel=1e-6)
    assert loss.retrieve(as_average=False).item() == 4 * conv + 3 * hidden
    loss.retrieve().backward()
    # The gradient of a learned bit width is that of its offset, its share of the elements.
    for name, share in (("conv", conv), ("hidden", hidden)):
        gradient = offset_of(model, f"{name}.weight_quant").grad.item()
        assert gradient == pytest.approx(share / (conv + hidden), rel=1e-6)
    assert offset_of(model, "input").grad is None and offset_of(model, "act").grad is None


def test_activations(model):
    loss = ActivationBitWidthWeightedBySize(model)
    model(X)
    image, features = 4 * 6 * 6, 6 * 2 * 2
    expected = (6 * image + 5 * features) / (image + features)
    assert loss.retrieve().item() == pytest.approx(expected, rel=1e-6)
    loss.retrieve().backward()
    for name, share in (("input", image), ("act", features)):
        gradient = offset_of(model, name).grad.item()
        assert gradient == pytest.approx(share / (image + features), rel=1e-6)
    assert offset_of(model, "conv").grad is None


BITS = {"input": 6, "conv": 4, "hidden": 3}
# Two operations for each product: outputs of one sample, and terms of each of them.
CONV_OPS, HIDDEN_OPS = 2 * (6 * 2 * 2) * (2 * 9), 2 * 7 * 24


def accumulator_bits(bits_in, bits_weight, terms):
    most = (2.0**bits_in - 1) * (2.0**bits_weight - 1) * terms
    return torch.log2(torch.as_tensor(most) + 1)


def test_operations(model):
    """The accumulator's bits reach the bits of input and weight: `ceil` passes the gradient on."""
    loss = QuantLayerOutputBitWidthWeightedByOps(model)
    model(X)
    bits = {name: torch.tensor(float(b), requires_grad=True) for name, b in BITS.items()}
    conv = accumulator_bits(bits["input"], bits["conv"], 2 * 9)
    hidden = accumulator_bits(8, bits["hidden"], 24)
    total = CONV_OPS + HIDDEN_OPS
    expected = (conv.ceil() * CONV_OPS + hidden.ceil() * HIDDEN_OPS) / total
    torch.testing.assert_close(loss.retrieve(), expected.detach())
    assert loss.tot_num_elements == pytest.approx(total / MEGA)
    torch.testing.assert_close(loss.retrieve(as_average=False), expected.detach() * total / MEGA)
    loss.retrieve().backward()
    ((conv * CONV_OPS + hidden * HIDDEN_OPS) / total).backward()
    for name, bit_width in bits.items():
        torch.testing.assert_close(offset_of(model, name).grad, bit_width.grad)
    # Nothing behind a bit width that is fixed, or a layer that returns a plain tensor.
    assert offset_of(model, "act").grad is None


@pytest.mark.parametrize(
    ("layer", "shape", "operations"),
    [
        (qnn.QuantLinear(3, 5, bias=False), (4, 3), 2 * 15),
        (qnn.QuantLinear(3, 5, bias=False), (3,), 2 * 15),
        (qnn.QuantLinear(3, 5, bias=False), (4, 7, 3), 2 * 15 * 7),
        (qnn.QuantConv1d(4, 6, 3, groups=2, bias=False), (2, 4, 9), 2 * 6 * 2 * 3 * 7),
        (qnn.QuantConv2d(4, 6, 3, stride=2, bias=False), (2, 4, 9, 9), 2 * 6 * 4 * 9 * 16),
        (qnn.QuantConv2d(4, 6, 3, stride=2, bias=False), (4, 9, 9), 2 * 6 * 4 * 9 * 16),
        (qnn.QuantConv3d(1, 2, 2, bias=False), (1, 1, 3, 3, 3), 2 * 2 * 8 * 8),
        (qnn.QuantConvTranspose1d(4, 6, 3, groups=2, bias=False), (2, 4, 9), 2 * 4 * 3 * 3 * 9),
        (qnn.QuantConvTranspose2d(2, 3, 2, stride=2, bias=False), (1, 2, 5, 4), 2 * 24 * 20),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_operations_of_one_sample(layer, shape, operations):
    """Counted without a formula: in floating point, ones times ones sum up to the products."""
    identity = qnn.QuantIdentity(return_quant_tensor=True)
    layer.return_quant_tensor = True
    loss = QuantLayerOutputBitWidthWeightedByOps(layer, layer_types=(type(layer),))
    layer(identity(torch.ones(shape)))
    assert round(loss.tot_num_elements * MEGA) == operations
    layer.return_quant_tensor, layer.weight_quant.disable_quant = False, True
    with torch.no_grad():
        layer.weight.fill_(1.0)
    samples = shape[0] if len(shape) >= layer.weight.dim() else 1
    assert 2 * layer(torch.ones(shape)).sum().item() == operations * samples


def test_only_the_given_kinds_of_layers(model):
    loss = QuantLayerOutputBitWidthWeightedByOps(model, layer_types=(qnn.QuantLinear,))
    model(X)
    assert loss.retrieve().item() == accumulator_bits(8, 3, 24).ceil().item()


class LearnedClamp(IntQuant, ClampQuantSolver):
    bit_width_impl_type = "parameter"
    bit_width_to_remove = 3


class LearnedTruncation(TruncTo8bit):
    bit_width_impl_type = "parameter"
    bit_width = 6


def test_accumulators_with_learned_bits_are_activations():
    """Bits that a clamp removes, and bits that a truncation leaves, have their loss as well."""
    layer = qnn.QuantLinear(8, 4, bias=False, return_quant_tensor=True)
    clamp = qnn.ClampQuantAccumulator(clamp_quant=LearnedClamp)
    trunc = qnn.TruncQuantAccumulator(trunc_quant=LearnedTruncation)
    model = nn.Sequential(qnn.QuantIdentity(return_quant_tensor=True), layer, clamp, trunc)
    loss = ActivationBitWidthWeightedBySize(model)
    model(torch.randn(5, 8))
    # A sum of 8 products of 8 bits has 19; three are removed, then 6 are left.
    assert loss.retrieve().item() == (16 + 6) / 2
    loss.retrieve().backward()
    removal = clamp.clamp_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_to_remove_impl
    coefficient = removal.bit_width_coeff
    # d (19 - 1 / c) / dc, weighted by one half.
    expected = 0.5 / (coefficient.item() + removal.non_zero_epsilon) ** 2
    assert coefficient.grad.item() == pytest.approx(expected, rel=1e-5)
    assert offset_of(model, "3.trunc_quant").grad.item() == 0.5


class FloatWeight(Fp8e4m3WeightPerTensorFloat):
    exponent_bit_width_impl_type = "parameter"


class FloatAct(Fp8e5m2Act):
    mantissa_bit_width_impl_type = "parameter"


def test_minifloats():
    """Sign, exponent and mantissa; the losses of integers leave them out."""
    torch.manual_seed(0)
    layer = qnn.QuantLinear(2, 3, weight_quant=FloatWeight, input_quant=FloatAct)
    layer = nn.Sequential(layer, qnn.QuantLinear(3, 3, weight_quant=Fp8e4m3WeightPerTensorFloat))
    kinds = (WeightFloatBitWidthWeightedBySize, ActivationFloatBitWidthWeightedBySize)
    losses = [kind(layer) for kind in kinds]
    integers = [WeightBitWidthWeightedBySize(layer), ActivationBitWidthWeightedBySize(layer)]
    layer(torch.ones(5, 2))
    for loss, elements in zip(losses, (6, 2), strict=True):
        assert loss.retrieve().item() == 8.0
        assert loss.retrieve(as_average=False).item() == 8 * elements
    for loss in integers:
        with pytest.raises(RuntimeError, match="have seen no bit width"):
            loss.retrieve()
    sum(loss.retrieve() for loss in losses).backward()
    assert len(offsets(layer)) == 2
    assert all(offset.grad == 1.0 for offset in offsets(layer).values())


def test_learned_minifloats_shrink():
    """The loss drives the bits of the exponent down by one."""
    torch.manual_seed(0)
    layer = qnn.QuantLinear(2, 3, weight_quant=FloatWeight)
    loss = WeightFloatBitWidthWeightedBySize(layer)
    optimizer = torch.optim.SGD(offsets(layer).values(), lr=0.3)
    for _ in range(3):
        loss.zero_accumulated_values()
        layer(torch.ones(5, 2))
        optimizer.zero_grad()
        loss.retrieve().backward()
        optimizer.step()
    assert layer.weight_quant.exponent_bit_width() == 3
    assert layer.weight_quant.bit_width() == 7


KINDS = [
    WeightBitWidthWeightedBySize,
    ActivationBitWidthWeightedBySize,
    QuantLayerOutputBitWidthWeightedByOps,
]


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_collected_until_zeroed(model, kind):
    loss = kind(model)
    with pytest.raises(RuntimeError, match=f"{kind.__name__}: [1-9][0-9]* hooks have seen no bit"):
        loss.retrieve()
    model(X)
    once, terms = loss.retrieve(), len(loss.weighted_bit_width_list)
    model(X)
    torch.testing.assert_close(loss.retrieve(), once)
    assert len(loss.weighted_bit_width_list) == 2 * terms
    assert not loss.log().requires_grad and torch.equal(loss.log(), loss.retrieve().detach())
    loss.zero_accumulated_values()
    assert loss.weighted_bit_width_list == [] and loss.tot_num_elements == 0
    model.eval()(X)
    torch.testing.assert_close(loss.retrieve(), once)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_hooks_leave_the_model_as_it_was(model, kind):
    loss = kind(model)
    loss.remove_hooks()
    model(X)
    assert loss.list_of_hooks == [] and loss.tot_num_elements == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_dtype_of_the_sums():
    for model, expected in (
        (qnn.QuantLinear(2, 3), torch.float32),
        (qnn.QuantLinear(2, 3).half(), torch.float32),
        (qnn.QuantLinear(2, 3).double(), torch.float64),
    ):
        assert WeightBitWidthWeightedBySize(model).dtype == expected

    class Double(WeightBitWidthWeightedBySize):
        def __init__(self, model):
            BitWidthWeighted.__init__(self, model, torch.float64)

    layer = qnn.QuantLinear(2, 3, weight_quant=Weight)
    loss = Double(layer)
    layer(torch.ones(1, 2))
    assert loss.retrieve().dtype == torch.float64


def test_disabled_quantizers_have_no_bits(model):
    loss = WeightBitWidthWeightedBySize(model)
    model.conv.weight_quant.disable_quant = True
    model.conv.return_quant_tensor = False
    model.act.return_quant_tensor = False
    model(X)
    assert loss.retrieve().item() == 3.0


def test_a_step_along_the_gradient_takes_bits_away(model):
    losses = [kind(model) for kind in KINDS]
    model(X)
    values = [loss.log() for loss in losses]
    before = {name: parameter.item() for name, parameter in offsets(model).items()}
    sum(loss.retrieve() for loss in losses).backward()
    with torch.no_grad():
        for parameter in offsets(model).values():
            parameter -= torch.sign(parameter.grad)
    for loss in losses:
        loss.zero_accumulated_values()
    model(X)
    assert all(parameter.item() == before[name] - 1 for name, parameter in offsets(model).items())
    fell = [(old - loss.log()).item() for old, loss in zip(values, losses, strict=True)]
    conv = accumulator_bits(6, 4, 18).ceil() - accumulator_bits(5, 3, 18).ceil()
    hidden = accumulator_bits(8, 3, 24).ceil() - accumulator_bits(8, 2, 24).ceil()
    accumulators = (conv * CONV_OPS + hidden * HIDDEN_OPS) / (CONV_OPS + HIDDEN_OPS)
    assert fell == pytest.approx([1.0, 1.0, accumulators.item()])
