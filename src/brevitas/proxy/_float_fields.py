"""What proxies of minifloat quantizers share: the fields of the format. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.inject import InjectorMeta, declaration_age
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.quant_tensor import FloatQuantTensor

__all__ = ["FloatQuantProxyMixin"]

_FORMAT = ("exponent_bit_width", "mantissa_bit_width", "signed")
#: The first power of two that float32 does not hold.
_LARGEST_EXPONENT = 128
# Exponent bits, mantissa bits, exponent bias, codes for infinity and NaN of the 8-bit formats.
_OCP_E5M2 = (5, 2, 15, {"00"}, {"01", "10", "11"})
_OCP_E4M3 = (4, 3, 7, set(), {"111"})
_FNUZ_E5M2 = (5, 2, 16, set(), set())
_FNUZ_E4M3 = (4, 3, 8, set(), set())


def check_stated_bits(injector: InjectorMeta) -> None:
    """Refuse a number of bits that is not that of sign, exponent and mantissa.

    A declaration that gives exponent and mantissa anew, and says nothing of the whole, replaces
    the number of bits that it inherits.

    Args:
        injector: declaration of a minifloat quantizer.

    Raises:
        ValueError: where they differ.

    Example:
        >>> from brevitas.quant.float import Fp8e4m3Weight
        >>> check_stated_bits(Fp8e4m3Weight.let(exponent_bit_width=3, mantissa_bit_width=2))
        >>> check_stated_bits(Fp8e4m3Weight.let(bit_width=6))
        Traceback (most recent call last):
        ValueError: bit_width=6: expected 8, 1 (sign) + 4 (exponent) + 3 (mantissa); ...
    """
    if not all(name in injector for name in ("bit_width", *_FORMAT)):
        return
    stated, signed = injector.bit_width, bool(injector.signed)
    exponent, mantissa = injector.exponent_bit_width, injector.mantissa_bit_width
    if not (exponent >= 1 and mantissa >= 0):
        return  # refused by the parts that they are given to
    age = declaration_age(injector, "bit_width")
    is_inherited = any(age > declaration_age(injector, name) for name in _FORMAT)
    total = signed + exponent + mantissa
    if not is_inherited and stated != total:
        raise ValueError(
            f"bit_width={stated!r}: expected {total}, {int(signed)} (sign) + {exponent} (exponent) "
            f"+ {mantissa} (mantissa); set exponent_bit_width and mantissa_bit_width, too."
        )


def check_scaled_range(injector: InjectorMeta) -> None:
    """Refuse a scale that the largest number of the format, beyond float32, would make zero.

    Args:
        injector: declaration of a minifloat quantizer.

    Raises:
        ValueError: where the statistic is divided by infinity.

    Example:
        >>> from brevitas.quant.float import Fp8e4m3WeightPerTensorFloat
        >>> check_scaled_range(Fp8e4m3WeightPerTensorFloat)
        >>> check_scaled_range(Fp8e4m3WeightPerTensorFloat.let(exponent_bit_width=9))
        Traceback (most recent call last):
        ValueError: exponent_bit_width=9: the largest number is about 2**256, ...
    """
    scaling = injector.__declarations__.get("float_scaling_impl")
    is_scaled = scaling is not None and scaling.part is not None
    if not (is_scaled and "exponent_bit_width" in injector and "exponent_bias" in injector):
        return
    bits, bias = injector.exponent_bit_width, injector.exponent_bias
    if not 1 <= bits <= _LARGEST_EXPONENT:
        return  # refused by the part that it is given to
    exponent = 2**bits - 1 - bias
    is_held = exponent < _LARGEST_EXPONENT
    if exponent == _LARGEST_EXPONENT and "max_available_float" in injector:
        # Codes for infinity and NaN may take the largest exponent away.
        available = injector.max_available_float
        is_held = available is not None and available <= torch.finfo(torch.float32).max
    if not is_held:
        raise ValueError(
            f"exponent_bit_width={bits}: the largest number is about 2**{exponent:g}, and a scale "
            "relative to it would be zero in float32; expected fewer exponent bits, a larger "
            "exponent_bias, or a quantizer without a scale."
        )


class FloatQuantProxyMixin(QuantProxyFromInjector):
    """The format of a minifloat quantizer, read from what it returns."""

    def _field(self, name: str, force_eval: bool = True) -> Any:
        """Read a field of the quantized tensor; None where nothing is quantized."""
        raise NotImplementedError(f"{type(self).__name__} does not read fields.")

    def bound_injector(self) -> InjectorMeta:
        """Return the declaration with the layers that it is built for, its bits checked."""
        injector = super().bound_injector()
        check_stated_bits(injector)
        check_scaled_range(injector)
        return injector

    def float_quant_tensor(self, qt_args: tuple[Any, ...]) -> FloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned."""
        build: Any = FloatQuantTensor
        return build(*qt_args, bool(self.is_signed), self.training)

    def scale(self, force_eval: bool = True) -> Tensor | None:
        """Real value of the minifloat 1."""
        return self._field("scale", force_eval)

    def zero_point(self, force_eval: bool = True) -> Tensor | None:
        """What is subtracted from the minifloats: zero."""
        return self._field("zero_point", force_eval)

    def exponent_bit_width(self, force_eval: bool = True) -> Tensor | None:
        """Bits of the exponent."""
        return self._field("exponent_bit_width", force_eval)

    def mantissa_bit_width(self, force_eval: bool = True) -> Tensor | None:
        """Stored bits of the mantissa."""
        return self._field("mantissa_bit_width", force_eval)

    def exponent_bias(self, force_eval: bool = True) -> Tensor | None:
        """Offset subtracted from the exponent code."""
        return self._field("exponent_bias", force_eval)

    def is_saturating(self, force_eval: bool = True) -> bool | None:
        """True where values beyond the range become its limits."""
        return self._field("saturating", force_eval)

    def inf_values(self, force_eval: bool = True) -> tuple[str, ...] | None:
        """Mantissas of the highest exponent that stand for infinity."""
        return self._field("inf_values", force_eval)

    def nan_values(self, force_eval: bool = True) -> tuple[str, ...] | None:
        """Mantissas of the highest exponent that stand for NaN."""
        return self._field("nan_values", force_eval)

    def bit_width(self, force_eval: bool = True) -> Tensor | None:
        """Bits of one number: of sign, exponent and mantissa."""
        exponent, mantissa = (
            self.exponent_bit_width(force_eval),
            self.mantissa_bit_width(force_eval),
        )
        if exponent is None or mantissa is None:
            return None
        return exponent + mantissa + int(bool(self.is_signed))

    def _format(self) -> tuple[Any, ...] | None:
        if not self.is_quant_enabled or not self.is_signed:
            return None
        widths = (self.exponent_bit_width(), self.mantissa_bit_width(), self.exponent_bias())
        numbers = (None if width is None else width.item() for width in widths)
        return *numbers, set(self.inf_values() or ()), set(self.nan_values() or ())

    @property
    def is_ocp_e5m2(self) -> bool:
        """True for the OCP format of 5 exponent and 2 mantissa bits."""
        return self._format() == _OCP_E5M2

    @property
    def is_ocp_e4m3(self) -> bool:
        """True for the OCP format of 4 exponent and 3 mantissa bits."""
        return self._format() == _OCP_E4M3

    @property
    def is_ocp(self) -> bool:
        """True for the 8-bit OCP formats."""
        return self._format() in (_OCP_E5M2, _OCP_E4M3)

    @property
    def is_fnuz_e5m2(self) -> bool:
        """True for 5 exponent and 2 mantissa bits without infinity and negative zero."""
        return self._format() == _FNUZ_E5M2

    @property
    def is_fnuz_e4m3(self) -> bool:
        """True for 4 exponent and 3 mantissa bits without infinity and negative zero."""
        return self._format() == _FNUZ_E4M3

    @property
    def is_fnuz(self) -> bool:
        """True for the 8-bit formats without infinity and negative zero."""
        return self._format() in (_FNUZ_E5M2, _FNUZ_E4M3)
