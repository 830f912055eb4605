"""What a quantizer is, whatever its parts: idempotent, monotone, equivariant; its gradients.

A quantizer is frozen first: scale, zero point and bit width are those of its first call. Rows are
those of the other batteries; where the theory makes an exception, the row is named with a reason.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper import TensorClampSte
from brevitas.core.quant import PrescaledRestrictIntQuant, RescalingIntQuant
from brevitas.function.ops import max_int, min_int
from sign_quants import ROWS as SIGN_ROWS
from tensor_quants import BIAS_SCALE, ROWS, Row, run

every_row = pytest.mark.parametrize("row", [*ROWS, *SIGN_ROWS], ids=str)
every_integer_row = pytest.mark.parametrize("row", ROWS, ids=str)

# Quantizers whose scale does not follow its input: the scale is declared, or given by a caller.
DECLARED_SCALE = {
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
}


class Fixed(nn.Module):
    """A part that gives one tensor, whatever it is called with."""

    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, *arguments: Any) -> Tensor:
        return self.tensor


class Frozen:
    """A quantizer with the scale, zero point and bit width of its first call."""

    def __init__(self, row: Row, dtype: torch.dtype = torch.float32) -> None:
        self.tensor_quant = row.build(dtype).eval()
        self.x = 1.5 * row.data(dtype)
        _, self.scale, self.zero_point, self.bit_width = (
            field.detach() for field in run(self.tensor_quant, row.data(dtype))
        )
        self.freeze()

    def freeze(self) -> None:
        """Replace the parts that give the fields; the integer part stays, and its fused form."""
        fields = {
            "scaling_impl": self.scale,
            "zero_point_impl": self.zero_point,
            "msb_clamp_bit_width_impl": self.bit_width,
        }
        parts = dict(self.tensor_quant.named_children())
        for name in fields.keys() & parts.keys():
            setattr(self.tensor_quant, name, Fixed(fields[name]))

    def __call__(self, x: Tensor) -> Tensor:
        if isinstance(self.tensor_quant, PrescaledRestrictIntQuant):
            return self.tensor_quant(x, self.scale)[0]
        return self.tensor_quant(x)[0]

    def rescaled(self, factor: float) -> Frozen:
        """The same quantizer at another scale."""
        self.scale = self.scale * factor
        self.freeze()
        return self


@every_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_quantizing_twice_changes_nothing(row: Row, dtype: torch.dtype) -> None:
    quantize = Frozen(row, dtype)
    once = quantize(quantize.x)
    assert torch.equal(quantize(once), once)


@every_row
def test_larger_inputs_give_no_smaller_values(row: Row) -> None:
    quantize = Frozen(row)
    generator = torch.Generator().manual_seed(1)
    # From far below one step to several of them.
    growth = 10 ** torch.empty_like(quantize.x).uniform_(-6, 1, generator=generator)
    steps = growth * quantize.scale
    assert bool((quantize(quantize.x + steps) >= quantize(quantize.x)).all())


@every_row
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_a_frozen_quantizer_scales_with_its_scale(row: Row, factor: float) -> None:
    """Powers of two are exact factors, so that values are equal to the bit."""
    expected = Frozen(row)
    actual = Frozen(row).rescaled(factor)
    assert torch.equal(actual(expected.x * factor), expected(expected.x) * factor)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.name not in DECLARED_SCALE and r.phase != "learned"], ids=str
)
@pytest.mark.parametrize("factor", [0.25, 8.0])
def test_statistics_scale_with_their_input(row: Row, factor: float) -> None:
    x = row.data()
    value, scale, zero_point, _ = run(row.build(), x)
    other, other_scale, other_zero_point, _ = run(row.build(), x * factor)
    assert torch.equal(other, value * factor)
    assert torch.equal(other_scale, scale * factor)
    assert torch.equal(other_zero_point, zero_point)


def test_exceptions_are_rows() -> None:
    assert set(DECLARED_SCALE) <= {row.name for row in ROWS}


@every_integer_row
def test_gradients_follow_the_formula(row: Row) -> None:
    """`y = (clamp(round(x / s + z)) - z) * s`, with rounding and its clamp passed straight through.

    With `q` the clamped integer and `inside` where the clamp changed nothing: dy/dx = inside,
    dy/ds = q - z - inside * x / s, dy/dz = s * (inside - 1), dy/db = s * dlimit/db where clamped.
    """
    quantize = Frozen(row, torch.float64)
    int_quant = quantize.tensor_quant.int_quant
    x, scale = quantize.x.requires_grad_(), quantize.scale.requires_grad_()
    zero_point, bits = quantize.zero_point.requires_grad_(), quantize.bit_width.requires_grad_()
    weight = torch.linspace(-1.0, 2.0, x.numel(), dtype=x.dtype).reshape(x.shape)
    (quantize(x) * weight).sum().backward()
    is_shifted = isinstance(quantize.tensor_quant, RescalingIntQuant)
    with torch.no_grad():
        signed, narrow = int_quant.signed, int_quant.narrow_range
        low, high = (limit(signed, narrow, bits) for limit in (min_int, max_int))
        rounded = torch.round(x / scale + zero_point)
        integer = rounded.clamp(low, high)
        inside = (rounded == integer).to(x.dtype)
        passed = 1.0 if isinstance(int_quant.tensor_clamp_impl, TensorClampSte) else inside
        below, above = rounded < low, rounded > high
        # 2 ** b at the upper limit, 2 ** (b - 1) if signed; minus that at a signed lower limit.
        growth = torch.log(torch.tensor(2.0, dtype=x.dtype)) * 2 ** (bits - int(signed))
        lower_growth = -growth if signed else torch.zeros_like(growth)
        limits = torch.where(above, growth, torch.where(below, lower_growth, 0.0))
        terms = {
            "x": weight * passed,
            "scale": weight * (integer - zero_point - passed * x / scale),
            "zero point": weight * scale * (passed - 1.0),
            "bits": weight * scale * limits,
        }
    actual = {"x": x.grad, "scale": scale.grad, "zero point": zero_point.grad, "bits": bits.grad}
    if not is_shifted:
        del actual["zero point"]
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
    assert torch.equal(Frozen(row).scale, BIAS_SCALE)
