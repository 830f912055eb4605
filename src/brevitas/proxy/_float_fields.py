"""What proxies of minifloat quantizers share: the fields of the format. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brevitas.inject import InjectorMeta, declaration_age
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.quant_tensor import FloatQuantTensor

__all__ = ["FloatQuantProxyMixin"]

_FORMAT = ("exponent_bit_width", "mantissa_bit_width", "signed")
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


class FloatQuantProxyMixin(QuantProxyFromInjector):
    """The format of a minifloat quantizer, read from what it returns."""

    def _field(self, name: str, force_eval: bool = True) -> Any:
        """Read a field of the quantized tensor; None where nothing is quantized."""
        raise NotImplementedError(f"{type(self).__name__} does not read fields.")

    def bound_injector(self) -> InjectorMeta:
        """Return the declaration with the layers that it is built for, its bits checked."""
        injector = super().bound_injector()
        check_stated_bits(injector)
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
