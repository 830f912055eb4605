"""How many bits a proxy quantizes to, read off the parts that say so. Layer: proxy (L4)."""

from __future__ import annotations

from torch import Tensor, nn

from brevitas.core.bit_width import BitWidthParameter, RemoveBitwidthParameter
from brevitas.proxy.quant_proxy import QuantProxyFromInjector

__all__ = ["FLOAT_PARTS", "INT_PARTS", "bit_width_parts", "has_learned_bits", "total_bits"]

#: Parts of an integer quantizer that give its bits, and of a minifloat one.
INT_PARTS = ("msb_clamp_bit_width_impl",)
FLOAT_PARTS = ("exponent_bit_width_impl", "mantissa_bit_width_impl")
_LEARNED = (BitWidthParameter, RemoveBitwidthParameter)


def bit_width_parts(proxy: QuantProxyFromInjector, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the parts of these names; none where the proxy has another kind of quantizer, or none.

    Args:
        proxy: any proxy.
        names: ``INT_PARTS`` or ``FLOAT_PARTS``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> proxy = QuantLinear(2, 3).weight_quant
        >>> len(bit_width_parts(proxy, INT_PARTS)), len(bit_width_parts(proxy, FLOAT_PARTS))
        (1, 0)
    """
    quantizer = proxy._tensor_quant_impl()
    if quantizer is None or proxy.disable_quant:
        return []
    parts = [quantizer._modules.get(name) for name in names]
    return [part for part in parts if part is not None] if None not in parts else []


def has_learned_bits(proxy: QuantProxyFromInjector, names: tuple[str, ...]) -> bool:
    """True where training changes the bits that these parts give.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> learned = QuantLinear(2, 3, weight_bit_width_impl_type="parameter").weight_quant
        >>> has_learned_bits(learned, INT_PARTS)
        True
    """
    parts = bit_width_parts(proxy, names)
    return any(isinstance(module, _LEARNED) for part in parts for module in part.modules())


def total_bits(proxy: QuantProxyFromInjector, names: tuple[str, ...]) -> Tensor:
    """Bits of one number, 0-d and differentiable: of an integer, or sign, exponent and mantissa.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> total_bits(QuantLinear(2, 3, weight_bit_width=4).weight_quant, INT_PARTS)
        tensor(4.)
    """
    first, *others = (part() for part in bit_width_parts(proxy, names))
    for bits in others:
        first = first + bits
    return first + 1 if names is FLOAT_PARTS and proxy.is_signed else first
