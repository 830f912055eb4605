"""Where a proxy keeps its quantizer. Layer: export (L8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase

__all__ = ["quantizer_of"]


def quantizer_of(proxy: Any) -> Callable[..., tuple[Tensor, ...]]:
    """Return the quantizer of a proxy, past the activation function that some hold.

    Args:
        proxy: a proxy whose quantizer is enabled.

    Returns:
        Callable from a tensor to ``(value, scale, zero_point, bit_width)``.

    Example:
        >>> from brevitas.nn import QuantReLU
        >>> proxy = QuantReLU().act_quant
        >>> quantizer_of(proxy) is proxy.fused_activation_quant_proxy.tensor_quant
        True
    """
    has_activation = isinstance(proxy, ActQuantProxyFromInjectorBase)
    owner: Any = proxy.fused_activation_quant_proxy if has_activation else proxy
    return owner.tensor_quant
