"""What an exporter needs to know about one quantized tensor, read once from its proxy.

Layer: export (L8).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from brevitas.function.ops import max_int, min_int

__all__ = ["ExportError", "FloatSpec", "QuantSpec"]


class ExportError(RuntimeError):
    """A model, or one of its layers, that the chosen format cannot represent."""


def _constant(value: Tensor | float) -> Tensor:
    """Give a float32 tensor outside of autograd; one that already is stays the same object."""
    if not isinstance(value, Tensor):
        return torch.tensor(float(value))
    if value.requires_grad or type(value) is not Tensor or value.dtype != torch.float32:
        return value.detach().to(torch.float32)
    return value


def _fix(instance: object, **fields: object) -> None:
    """Set fields of a frozen dataclass while it is under construction."""
    for name, value in fields.items():
        object.__setattr__(instance, name, value)


@dataclass(frozen=True, eq=False)
class QuantSpec:
    """One integer quantizer, frozen: ``y = (clamp(round(x / scale + zp), lo, hi) - zp) * scale``.

    Invariants: tensors are float32 and outside of autograd; ``bits`` equals ``bit_width`` and is
    a whole number of at least 1.

    Args:
        scale: real value of one integer step, broadcastable to the tensor that is quantized.
        zero_point: integer of the real value 0, broadcastable to ``scale``.
        bit_width: bits of an integer, 0-d.
        signed: whether integers can be negative.
        narrow_range: whether the range stops one value short of the full one.
        rounding_mode: name of the rounding, such as ``"ROUND"`` (half to even) or ``"FLOOR"``.
        name: dotted name of the proxy inside of the model, for messages and node names.
        bits: ``bit_width`` as a number; derived where 0.

    Raises:
        ExportError: on a bit width that is not a whole number of at least 1.

    Example:
        >>> spec = QuantSpec(0.5, 0.0, 4, True, True)
        >>> spec.minimum, spec.maximum
        (-7, 7)
    """

    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    signed: bool
    narrow_range: bool
    rounding_mode: str = "ROUND"
    name: str = ""
    bits: int = 0

    def __post_init__(self) -> None:
        _fix(
            self,
            scale=_constant(self.scale),
            zero_point=_constant(self.zero_point),
            bit_width=_constant(self.bit_width),
        )
        if not self.bits:
            bits = float(self.bit_width)
            if bits < 1 or bits != int(bits):
                raise ExportError(
                    f"bit_width={bits}: expected a whole number of bits >= 1. Layer: {self.name}"
                )
            _fix(self, bits=int(bits))

    @property
    def minimum(self) -> int:
        """Smallest integer of the range."""
        if self.is_binary:
            return -1
        return int(min_int(self.signed, self.narrow_range, float(self.bits)))

    @property
    def maximum(self) -> int:
        """Largest integer of the range."""
        if self.is_binary:
            return 1
        return int(max_int(self.signed, self.narrow_range, float(self.bits)))

    @property
    def is_binary(self) -> bool:
        """Whether the two values are -scale and +scale, which leaves no room for a zero.

        Two's complement of one bit, -1 and 0, has the full range.
        """
        return self.bits == 1 and self.signed and self.narrow_range

    def with_scale(self, scale: Tensor) -> QuantSpec:
        """Return the same quantizer at another scale, as for a bias that takes its input's."""
        return replace(self, scale=scale)

    def validate(self) -> QuantSpec:
        """Return self, or raise ExportError where the scale is not positive and finite."""
        if not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise ExportError(
                "scale: expected positive finite values; run data through the model, or load "
                f"trained weights, before exporting. Layer: {self.name}"
            )
        return self


@dataclass(frozen=True, eq=False)
class FloatSpec:
    """One minifloat quantizer, frozen: ``y = to_minifloat(x / scale) * scale``.

    Args:
        scale: real value of a minifloat one, broadcastable to the tensor that is quantized.
        exponent_bit_width: bits of the exponent, 0-d.
        mantissa_bit_width: bits of the mantissa, 0-d.
        exponent_bias: what is subtracted from the stored exponent, 0-d.
        max_value: largest magnitude, 0-d.
        has_inf: whether the format spends codes on infinities.
        has_nan: whether the format spends codes on NaN.
        saturating: whether larger magnitudes become ``max_value`` in place of inf or NaN.
        rounding_mode: name of the rounding.
        name: dotted name of the proxy inside of the model.

    Example:
        >>> FloatSpec(1.0, 4, 3, 7, 448.0, has_inf=False, has_nan=True).bits
        8
    """

    scale: Tensor
    exponent_bit_width: Tensor
    mantissa_bit_width: Tensor
    exponent_bias: Tensor
    max_value: Tensor
    has_inf: bool
    has_nan: bool
    saturating: bool = True
    rounding_mode: str = "ROUND"
    name: str = ""
    bits: int = 0

    def __post_init__(self) -> None:
        _fix(
            self,
            scale=_constant(self.scale),
            exponent_bit_width=_constant(self.exponent_bit_width),
            mantissa_bit_width=_constant(self.mantissa_bit_width),
            exponent_bias=_constant(self.exponent_bias),
            max_value=_constant(self.max_value),
        )
        if not self.bits:
            _fix(self, bits=int(1 + self.exponent_bit_width + self.mantissa_bit_width))
