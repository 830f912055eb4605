"""Proxy of a weight with integers in groups. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from brevitas.proxy._groupwise import GroupwiseWeightProxy
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.quant_tensor import GroupwiseIntQuantTensor
from brevitas.utils.quant_utils import _CachedIOGroupwiseInt

__all__ = ["GroupwiseWeightQuantProxyFromInjector"]


class GroupwiseWeightQuantProxyFromInjector(GroupwiseWeightProxy, WeightQuantProxyFromInjector):
    """A weight with a scale per group: ``proxy(weight) -> GroupwiseIntQuantTensor``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import MXInt8Weight
        >>> proxy = QuantLinear(10, 3, weight_quant=MXInt8Weight, weight_group_size=4).weight_quant
        >>> proxy.scale_().shape, proxy.scale().shape, proxy.group_dim
        (torch.Size([3, 3, 1]), torch.Size([3, 10]), 1)
    """

    cache_class = _CachedIOGroupwiseInt

    def create_quant_tensor(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, qt_args: tuple[Any, ...]
    ) -> GroupwiseIntQuantTensor:
        """Return the quant tensor of ``(value, scale, zero_point, bit_width)`` in groups."""
        return self.quant_tensor_in_groups(GroupwiseIntQuantTensor, qt_args, self.weight_shape)
