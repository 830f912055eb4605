"""Proxy of an activation with minifloats in groups. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brevitas.proxy._groupwise import GroupwiseActProxy
from brevitas.proxy.float_runtime_quant import ActFloatQuantProxyFromInjectorBase
from brevitas.quant_tensor import GroupwiseFloatQuantTensor
from brevitas.utils.quant_utils import _CachedIOGroupwiseFloat

__all__ = ["GroupwiseActFloatQuantProxyFromInjector"]


class GroupwiseActFloatQuantProxyFromInjector(
    GroupwiseActProxy, ActFloatQuantProxyFromInjectorBase
):
    """An activation with a scale per group: ``proxy(x) -> GroupwiseFloatQuantTensor``.

    Scales are found anew for each input, so that there are none to read without one.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> from brevitas.quant import MXFloat8e4m3Act
        >>> proxy = QuantIdentity(act_quant=MXFloat8e4m3Act, group_dim=-1).act_quant
        >>> proxy(torch.ones(2, 40)).scale_.shape, proxy.mantissa_bit_width()
        (torch.Size([2, 2, 1]), tensor(3.))
    """

    cache_class = _CachedIOGroupwiseFloat

    def create_quant_tensor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, qt_args: tuple[Any, ...], x: Tensor | GroupwiseFloatQuantTensor
    ) -> GroupwiseFloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned in groups."""
        return self.quant_tensor_in_groups(GroupwiseFloatQuantTensor, qt_args, x.shape)
