"""Proxy of an activation with integers in groups. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brevitas.proxy._groupwise import GroupwiseActProxy
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjector
from brevitas.quant_tensor import GroupwiseIntQuantTensor
from brevitas.utils.quant_utils import _CachedIOGroupwiseInt

__all__ = ["GroupwiseActQuantProxyFromInjector"]


class GroupwiseActQuantProxyFromInjector(GroupwiseActProxy, ActQuantProxyFromInjector):
    """An activation with a scale per group: ``proxy(x) -> GroupwiseIntQuantTensor``.

    Scales are found anew for each input, so that there are none to read without one.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> from brevitas.quant import MXInt8Act
        >>> proxy = QuantIdentity(act_quant=MXInt8Act, group_dim=-1, group_size=4).act_quant
        >>> x = proxy(torch.ones(2, 10))
        >>> x.shape, x.scale_.shape, proxy.bit_width()
        (torch.Size([2, 10]), torch.Size([2, 3, 1]), tensor(8.))
    """

    cache_class = _CachedIOGroupwiseInt

    def create_quant_tensor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, qt_args: tuple[Any, ...], x: Tensor | GroupwiseIntQuantTensor
    ) -> GroupwiseIntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)`` in groups."""
        return self.quant_tensor_in_groups(GroupwiseIntQuantTensor, qt_args, x.shape)
