"""Proxy of a weight with minifloats in groups. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from brevitas.proxy._groupwise import GroupwiseWeightProxy
from brevitas.proxy.float_parameter_quant import WeightFloatQuantProxyFromInjectorBase
from brevitas.quant_tensor import GroupwiseFloatQuantTensor
from brevitas.utils.quant_utils import _CachedIOGroupwiseFloat

__all__ = ["GroupwiseWeightFloatQuantProxyFromInjector"]


class GroupwiseWeightFloatQuantProxyFromInjector(
    GroupwiseWeightProxy, WeightFloatQuantProxyFromInjectorBase
):
    """A weight with a scale per group: ``proxy(weight) -> GroupwiseFloatQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import MXFloat8e4m3Weight
        >>> proxy = QuantLinear(64, 3, weight_quant=MXFloat8e4m3Weight).weight_quant
        >>> proxy.scale_().shape, proxy.exponent_bit_width()
        (torch.Size([3, 2, 1]), tensor(4.))
    """

    cache_class = _CachedIOGroupwiseFloat
    quant_tensor_class = GroupwiseFloatQuantTensor

    def create_quant_tensor(self, qt_args: tuple[Any, ...]) -> GroupwiseFloatQuantTensor:
        """Return the quant tensor of what ``FloatQuant`` returned in groups."""
        return self.quant_tensor_in_groups(GroupwiseFloatQuantTensor, qt_args, self.weight_shape)
