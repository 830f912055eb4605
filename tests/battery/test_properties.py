"""What a quantizer is, whatever its parts: idempotent, monotone, equivariant; its gradients.

A quantizer is frozen first: scale, zero point and bit width are those of its first call. Rows are
those of the other batteries; where the theory makes an exception, the row is named with a reason.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import RoundSte, RoundToZeroSte, TensorClampSte
from brevitas.core.quant import (
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
    PrescaledRestrictIntQuant,
)
from brevitas.function.ops import max_int, min_int
from sign_quants import ROWS as SIGN_ROWS
from tensor_quants import BIAS_SCALE, ROWS, Row, as_given, int_part, run

every_row = pytest.mark.parametrize("row", [*ROWS, *SIGN_ROWS], ids=str)
every_integer_row = pytest.mark.parametrize("row", ROWS, ids=str)

# Quantizers whose scale is not proportional to its input, and why.
OTHER_SCALES = {
    "Int8WeightPerTensorFloatHQO": "outliers are shrunk by a power of their magnitude",
    "Int8WeightPerChannelFloatHQO": "outliers are shrunk by a power of their magnitude",
    "Int8ActPerTensorFloatMinMaxInit": "the scale starts from declared limits",
    "Uint8ActPerTensorFloatMaxInit": "the scale starts from declared limits",
    "Int8ActPerTensorFixedPointMinMaxInit": "the scale starts from declared limits",
    "Uint8ActPerTensorFixedPointMaxInit": "the scale starts from declared limits",
    "SignedTernaryWeightPerTensorConst": "the scale is a declared constant",
    "SignedTernaryActPerTensorConst": "the scale is a declared constant",
    "IntBias": "the scale is that of the accumulator",
    "Int8Bias": "the scale is that of the accumulator",
    "Int16Bias": "the scale is that of the accumulator",
    "Int24Bias": "the scale is that of the accumulator",
    "Int32Bias": "the scale is that of the accumulator",
    **{row.name: "scales are learned from another weight" for row in ROWS if row.is_decoupled},
}
ROUNDING = {RoundSte: torch.round, RoundToZeroSte: torch.trunc}


class Fixed(nn.Module):
    """A part that gives one tensor, whatever it is called with."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, *arguments: Any) -> Tensor:
        return self.tensor


class Frozen:
    """A quantizer with the fields of its first call.

    `grid` is where integers are found, `output` where they are placed: one and the same, but for
    decoupled quantizers.
    """

    def __init__(self, row: Row, dtype: torch.dtype = torch.float32) -> None:
        self.tensor_quant = row.build(dtype).eval()
        self.x = 1.5 * row.data(dtype)
        found = run(self.tensor_quant, row.data(dtype))
        _, scale, zero_point, self.bit_width, *grid = (field.detach() for field in found)
        self.output = [scale, zero_point]
        self.grid = grid or self.output
        self.freeze()

    def freeze(self) -> None:
        """Replace the parts that give the fields; the integer part stays, and its fused form."""
        fields = {
            "scaling_impl": self.output[0],
            "zero_point_impl": self.output[1],
            "msb_clamp_bit_width_impl": self.bit_width,
        }
        if isinstance(self.tensor_quant, DecoupledRescalingIntQuant):
            fields["int_scaling_impl"] = torch.ones_like(self.bit_width)
            fields["pre_scaling_impl"], fields["pre_zero_point_impl"] = self.grid
        parts = dict(self.tensor_quant.named_children())
        for name in fields.keys() & parts.keys():
            setattr(self.tensor_quant, name, Fixed(fields[name]))

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.tensor_quant, PrescaledRestrictIntQuant):
            return self.tensor_quant(x, self.output[0])[0]
        if isinstance(self.tensor_quant, DecoupledRescalingIntQuantWithInput):
            return self.tensor_quant(x, torch.tensor(8.0), True)[0]
        return self.tensor_quant(x)[0]

    def rescaled(self, factor: float) -> Frozen:
        """The same quantizer at another scale."""
        for grid in {id(grid): grid for grid in (self.grid, self.output)}.values():
            grid[0] = grid[0] * factor
        self.freeze()
        return self


COUPLED = [row for row in (*ROWS, *SIGN_ROWS) if not row.is_decoupled]


@pytest.mark.parametrize("row", COUPLED, ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_quantizing_twice_changes_nothing(row: Row, dtype: torch.dtype) -> None:
    """But for decoupled quantizers, which place integers on another grid than they find them on."""
    quantize = Frozen(row, dtype)
    once = quantize(quantize.x)
    assert torch.equal(quantize(as_given(once, quantize.x)), once)


@every_row
def test_larger_inputs_give_no_smaller_values(row: Row) -> None:
    quantize = Frozen(row)
    generator = torch.Generator().manual_seed(1)
    smaller = quantize(quantize.x)
    # From far below one step to several of them.
    growth = 10 ** torch.empty_like(smaller).uniform_(-6, 1, generator=generator)
    steps = as_given(growth * quantize.output[0], quantize.x)
    assert bool((quantize(quantize.x + steps) >= smaller).all())


@every_row
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_frozen_quantizer_scales_with_its_scale(row: Row, factor: float) -> None:
    """Powers of two are exact factors, so that values are equal to the bit."""
    expected = Frozen(row)
    actual = Frozen(row).rescaled(factor)
    assert torch.equal(actual(expected.x * factor), expected(expected.x) * factor)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.name not in OTHER_SCALES and r.phase != "learned"], ids=str
)
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_statistics_scale_with_their_input(row: Row, factor: float) -> None:
    x = row.data()
    value, scale, zero_point, *_ = run(row.build(), x)
    other, other_scale, other_zero_point, *_ = run(row.build(), x * factor)
    assert torch.equal(other, value * factor)
    assert torch.equal(other_scale, scale * factor)
    assert torch.equal(other_zero_point, zero_point)


def test_exceptions_are_rows() -> None:
    assert set(OTHER_SCALES) <= {row.name for row in ROWS}


@every_integer_row
def test_gradients_follow_the_formula(row: Row) -> None:
    """`y = (clamp(round(x / p + o)) - z) * s`, with rounding and its clamp passed straight through.

    With `q` the clamped integer and `inside` where the clamp changed nothing:

        dy/dx = inside * s / p              dy/ds = q - z
        dy/dp = -inside * s * x / p ** 2    dy/dz = -s
        dy/do = inside * s                  dy/db = s * dlimit/db where clamped

    Where integers stay on the grid where they are found, `p = s` and `o = z` get both gradients.
    """
    quantize = Frozen(row, torch.float64)
    int_quant = int_part(quantize.tensor_quant)
    x, bits = quantize.x.requires_grad_(), quantize.bit_width.requires_grad_()
    (pre_scale, offset), (scale, zero_point) = (
        [field.requires_grad_() for field in grid] for grid in (quantize.grid, quantize.output)
    )
    value = quantize(x)
    weight = torch.linspace(-1.0, 2.0, value.numel(), dtype=x.dtype).reshape(value.shape)
    (value * weight).sum().backward()
    with torch.no_grad():
        seen = int_quant.input_view_impl(x)  # in groups, if there are
        limits = [f(int_quant.signed, int_quant.narrow_range, bits) for f in (min_int, max_int)]
        round_ = ROUNDING[type(int_quant.float_to_int_impl)]
        rounded = round_(seen / pre_scale + offset)
        integer = rounded.clamp(*limits)
        inside = (rounded == integer).to(x.dtype)
        passed = 1.0 if isinstance(int_quant.tensor_clamp_impl, TensorClampSte) else inside
        # 2 ** b at the upper limit, 2 ** (b - 1) if signed; minus that at a signed lower limit.
        growth = torch.log(torch.tensor(2.0, dtype=x.dtype)) * 2 ** (bits - int(int_quant.signed))
        lower = -growth if int_quant.signed else torch.zeros_like(growth)
        above, below = rounded > limits[1], rounded < limits[0]
        terms = {
            "x": as_given(weight * passed * scale / pre_scale, x),
            "bits": weight * scale * torch.where(above, growth, torch.where(below, lower, 0.0)),
            "scale": weight * (integer - zero_point),
            "zero point": (-weight * scale).expand_as(seen),
            "pre-scale": -weight * passed * scale * seen / pre_scale**2,
            "offset": weight * passed * scale,
        }
    actual = {"x": x.grad, "bits": bits.grad, "scale": scale.grad, "zero point": zero_point.grad}
    if quantize.grid is quantize.output:
        terms["scale"] = terms["scale"] + terms["pre-scale"]
        terms["zero point"] = terms["zero point"] + terms["offset"]
    else:
        actual |= {"pre-scale": pre_scale.grad, "offset": offset.grad}
    if isinstance(quantize.tensor_quant, PrescaledRestrictIntQuant):
        del actual["zero point"]  # a constant of its own
    if isinstance(int_quant.tensor_clamp_impl, TensorClampSte):
        assert actual.pop("bits") is None  # all of the gradient goes past the limits
    for name, gradient in actual.items():
        # Sums of `x.numel()` terms, each up to 2 ** 7 steps in size.
        tolerance = torch.finfo(x.dtype).eps * x.numel() * 2**10
        assert gradient is not None, name
        expected = terms[name].sum_to_size(gradient.shape)
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


def test_the_bias_rows_have_the_scale_of_an_accumulator() -> None:
    row = next(row for row in ROWS if row.name == "Int8Bias")
    assert torch.equal(Frozen(row).output[0], BIAS_SCALE)
