"""No integers overflow the accumulator that a layer states, the largest that there are included."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

import brevitas.nn as qnn
from brevitas.nn.target.flexml import FlexMLQuantAvgPool2d
from brevitas.quant import (
    Int8WeightPerTensorFloat,
    Int16Bias,
    ShiftedUint8WeightPerTensorFloat,
    SignedBinaryWeightPerTensorConst,
)
from brevitas.quant_tensor import IntQuantTensor


class Integers(NamedTuple):
    """A range of integers."""

    low: int
    high: int
    bits: int
    signed: bool

    def tensor(self, integers: torch.Tensor, scale: float = 0.5) -> IntQuantTensor:
        value = integers.float() * scale
        return IntQuantTensor(value, scale, 0.0, self.bits, self.signed, False)


def signed(bits: int) -> Integers:
    return Integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, bits, True)


def unsigned(bits: int) -> Integers:
    return Integers(0, 2**bits - 1, bits, False)


INPUTS = {
    "int8": signed(8),
    "uint8": unsigned(8),
    "int3": signed(3),
    "uint1": unsigned(1),
    "binary": Integers(-1, 1, 1, True),
}
WEIGHTS: dict[str, dict[str, Any]] = {
    "narrow": {"weight_quant": Int8WeightPerTensorFloat},
    "full": {"weight_quant": Int8WeightPerTensorFloat, "weight_narrow_range": False},
    "two bits": {"weight_quant": Int8WeightPerTensorFloat, "weight_bit_width": 2},
    "shifted": {"weight_quant": ShiftedUint8WeightPerTensorFloat},
    "binary": {"weight_quant": SignedBinaryWeightPerTensorConst},
}
# Layer, its arguments, the shape of one sample.
GEOMETRIES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "linear": (qnn.QuantLinear, {"in_features": 9, "out_features": 2}, (9,)),
    # As many products as bring a sum of unsigned integers closest to a power of two.
    "long linear": (qnn.QuantLinear, {"in_features": 129, "out_features": 1}, (129,)),
    "conv1d": (qnn.QuantConv1d, {"padding": 1}, (4, 5)),
    "grouped conv1d": (qnn.QuantConv1d, {"groups": 2, "dilation": 2}, (4, 5)),
    "conv2d": (qnn.QuantConv2d, {"stride": 2, "padding": "same"}, (4, 4, 4)),
    "depthwise conv2d": (qnn.QuantConv2d, {"groups": 4, "padding": 1}, (4, 3, 3)),
    "conv3d": (qnn.QuantConv3d, {"groups": 2, "kernel_size": 2}, (4, 2, 2, 3)),
    "transposed conv1d": (qnn.QuantConvTranspose1d, {"stride": 2}, (4, 5)),
    "dilated transposed conv1d": (qnn.QuantConvTranspose1d, {"stride": 2, "dilation": 3}, (4, 9)),
    "transposed conv2d": (qnn.QuantConvTranspose2d, {"groups": 2, "stride": (1, 2)}, (4, 3, 3)),
    "transposed conv3d": (
        qnn.QuantConvTranspose3d,
        {"stride": 3, "groups": 4, "output_padding": 1},
        (4, 2, 2, 2),
    ),
    "scale_bias": (qnn.QuantScaleBias, {"num_features": 4}, (4, 2, 2)),
}


def built(geometry: str, weights: str, pattern: str) -> Any:
    """A layer whose weights all are the largest or smallest integer."""
    layer, arguments, _ = GEOMETRIES[geometry]
    if "conv" in geometry:
        arguments = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, **arguments}
    layer = layer(**arguments, bias=False, return_quant_tensor=True, **WEIGHTS[weights])
    signs = {
        "largest": torch.ones_like(layer.weight),
        "smallest": -torch.ones_like(layer.weight),
        "mixed": torch.rand_like(layer.weight).round() * 2 - 1,
    }[pattern]
    with torch.no_grad():
        layer.weight.copy_(signs)
    return layer.eval()


PAIRS = [
    (geometry, weights)
    for geometry in GEOMETRIES
    for weights in WEIGHTS
    # Products of integers with a zero point are refused.
    if (geometry, weights) != ("scale_bias", "shifted")
]


@pytest.mark.parametrize(("geometry", "weights"), PAIRS)
def test_worst_sum_fits(geometry: str, weights: str) -> None:
    shape = GEOMETRIES[geometry][-1]
    failures = []
    for pattern in ("largest", "smallest", "mixed"):
        layer = built(geometry, weights, pattern)
        weight = layer.quant_weight()
        integers = (weight.value / weight.scale).round().detach().double()
        # Each output as a sum of inputs: what the layer makes of one input after the other.
        count = int(torch.tensor(shape).prod())
        basis = torch.eye(count, dtype=torch.float64).reshape(count, *shape)
        rows = layer.inner_forward_impl(basis, integers, None).flatten(1).t()
        for name, given in INPUTS.items():
            for sign in (1, -1):
                # For each output, the input that makes it as large, or as small, as possible.
                worst = torch.where(rows * sign > 0, given.high, given.low).double()
                sums = (rows * worst).sum(1)
                place = (sums * sign).argmax()
                x = given.tensor(worst[place].reshape(1, *shape))
                y, exact = layer(x), rows @ worst[place]
                found = (y.value / y.scale).detach().flatten().double()
                # A few roundings of float32, relative to the largest sum on the way.
                most = float(exact.abs().max())
                torch.testing.assert_close(found, exact, rtol=0, atol=1e-6 * most)
                bits = layer.max_acc_bit_width(x.bit_width, weight.bit_width)
                for stated in (int(y.bit_width), int(bits)):
                    limits = (signed if y.signed else unsigned)(stated)
                    if not limits.low <= exact.min() <= exact.max() <= limits.high:
                        failures.append((name, pattern, sign, stated, float(sums[place])))
    assert failures == []


@pytest.mark.parametrize("bias_bits", [8, 32])
def test_worst_sum_with_a_bias_fits(bias_bits: int) -> None:
    """A bias at its limit on top of the largest sum, on the grid of the sum."""
    layer = qnn.QuantLinear(
        129,
        1,
        bias_quant=Int16Bias,
        bias_bit_width=bias_bits,
        weight_narrow_range=False,
        return_quant_tensor=True,
    )
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias.fill_(-1e12)
    y = layer.eval()(INPUTS["uint8"].tensor(torch.full((1, 129), 255)))
    exact = -129 * 255 * 128 - 2 ** (bias_bits - 1)
    assert y.signed and exact >= -(2 ** (int(y.bit_width) - 1))
    # One bit more than the larger of both: 129 * 255 * 128 needs 24 bits.
    assert y.bit_width == max(24, bias_bits) + 1


def extremes(shape: tuple[int, ...]) -> list[tuple[Integers, torch.Tensor]]:
    """Tensors of one end of each range, and of its ends in turn."""
    ends = [(given, (given.low, given.high)) for given in INPUTS.values()]
    count = int(torch.tensor(shape).prod())
    pairs = [(given, pair) for given, (a, b) in ends for pair in ((a, a), (b, b), (a, b), (b, a))]
    return [(given, torch.tensor(pair * count)[:count].reshape(shape)) for given, pair in pairs]


def assert_holds(y: Any, exact: torch.Tensor) -> None:
    """The result is on its grid, and is of the integers that were computed by hand."""
    low, high = (signed if y.signed else unsigned)(int(y.bit_width))[:2]
    if y.signed and y.bit_width == 1:
        low, high = INPUTS["binary"][:2]
    assert y.is_valid
    torch.testing.assert_close((y.value / y.scale).double(), exact.double(), rtol=1e-5, atol=1e-3)
    assert low <= exact.min() and exact.max() <= high


POOLS: dict[str, Any] = {
    "average": qnn.TruncAvgPool2d((2, 3), trunc_quant=None),
    "adaptive": qnn.TruncAdaptiveAvgPool2d((2, 2), trunc_quant=None),
}


@pytest.mark.parametrize("pool", POOLS)
def test_worst_sum_of_a_window_fits(pool: str) -> None:
    for given, integers in extremes((1, 2, 4, 6)):
        sums = torch.nn.functional.avg_pool2d(integers.double(), (2, 3), divisor_override=1)
        assert_holds(POOLS[pool](given.tensor(integers)), sums)


def test_worst_sum_of_a_window_times_a_reciprocal_fits() -> None:
    layer = FlexMLQuantAvgPool2d((2, 3))
    for given, integers in extremes((1, 2, 4, 6)):
        sums = torch.nn.functional.avg_pool2d(integers.double(), (2, 3), divisor_override=1)
        if given is not INPUTS["binary"]:
            assert_holds(layer(given.tensor(integers)), sums * layer.quantized_div_int_value)


def test_worst_sum_of_two_operands_fits() -> None:
    layer = qnn.QuantEltwiseAdd(input_quant=None, output_quant=None, return_quant_tensor=True)
    operands = extremes((2, 3))
    for first, ours in operands:
        for second, theirs in operands:
            if INPUTS["binary"] not in (first, second):
                assert_holds(layer(first.tensor(ours), second.tensor(theirs)), ours + theirs)


def test_joined_operands_fit() -> None:
    layer = qnn.QuantCat(input_quant=None, output_quant=None, return_quant_tensor=True)
    for given, integers in extremes((2, 3)):
        both = torch.cat([integers, integers.flip(0)])
        assert_holds(layer([given.tensor(part) for part in both.split(2)], dim=0), both)


def test_rows_of_a_table_fit() -> None:
    for narrow in (True, False):
        layer = qnn.QuantEmbedding(2, 3, weight_narrow_range=narrow, return_quant_tensor=True)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[1.0], [-1.0]]).expand(2, 3))
        y = layer(torch.tensor([0, 1]))
        assert y.is_valid and y.bit_width == 8
        assert float((y.value / y.scale).detach().abs().max().round()) == 127 + (not narrow)


@pytest.mark.parametrize("channels", [2, 5])
def test_worst_sum_of_signs_fits(channels: int) -> None:
    """Rows of signs met by the integers that add up; in narrow range where channels fill them."""
    layer = qnn.HadamardClassifier(channels, channels, return_quant_tensor=True)
    for name in ("int8", "uint8", "int3"):
        given = INPUTS[name]
        low = given.low + (given.signed and channels == 2)
        for row in layer.proj[:channels, :channels]:
            for sign in (row, -row):
                integers = torch.where(sign > 0, given.high, low).unsqueeze(0)
                signs = layer.proj[:channels, :channels]
                assert_holds(layer(given.tensor(integers)), -(integers.float() @ signs.t()))


@pytest.mark.parametrize("kind", [qnn.BatchNorm1dToQuantScaleBias, qnn.BatchNorm2dToQuantScaleBias])
def test_worst_product_of_a_factor_fits(kind: Any) -> None:
    layer = kind(3, weight_narrow_range=False, return_quant_tensor=True).eval()
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.bias = None
    for given, integers in extremes((1, 3, *[2] * kind.spatial_dims)):
        assert_holds(layer(given.tensor(integers)), -128 * integers)


@pytest.mark.parametrize("keys", [1, 5, 129])
def test_worst_product_of_attention_fits(keys: int) -> None:
    """Weights and values at their limits, in the product that the layer computes."""
    layer = qnn.QuantScaledDotProductAttention(
        sdpa_output_quant=None, sdpa_output_return_quant_tensor=True
    )
    layer.attn_output_weights_quant = Given(unsigned(8), 255)
    layer.v_quant = Given(signed(8), -128)
    x = torch.zeros(1, 1, keys, 2)
    assert_holds(layer(x, x, x), torch.full((1, 1, keys, 2), -keys * 255 * 128))


class Given(torch.nn.Module):
    """Returns one integer everywhere, whatever it is given."""

    def __init__(self, kind: Integers, integer: int) -> None:
        super().__init__()
        self.kind, self.integer = kind, integer

    def forward(self, x: torch.Tensor) -> IntQuantTensor:
        return self.kind.tensor(torch.full(x.shape, self.integer))
