"""What proxies of quantizers with a scale per group share. Layer: proxy (L4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import depends_on_input
from brevitas.quant_tensor import GroupwiseFloatQuantTensor, GroupwiseIntQuantTensor
from brevitas.utils.groups import merge_groups

GroupedTensor = TypeVar("GroupedTensor", GroupwiseFloatQuantTensor, GroupwiseIntQuantTensor)

__all__ = ["GroupwiseActProxy", "GroupwiseProxy", "GroupwiseWeightProxy"]


class GroupwiseProxy(QuantProxyFromInjector):
    """A tensor that is quantized in groups: base of the proxies of weights and activations.

    The quantizer takes a tensor and returns ``[.., groups, group_size, ..]``, whose last group is
    filled up with zeros; the quant tensor has the shape of what was quantized.
    """

    is_groupwise = True

    @property
    def group_size(self) -> int:
        """Number of elements of a group."""
        return self._group_part("group_size")

    @property
    def group_dim(self) -> int:
        """Dimension along which groups run; it may count from the end."""
        return self._group_part("group_dim")

    def _group_part(self, name: str) -> int:
        # The view knows; a quantizer of a user's own may have another one.
        view: Any = getattr(self._integer_format(), "input_view_impl", None)
        found = getattr(view, name, None)
        return getattr(self.quant_injector, name) if found is None else found

    def apply_input_view(self, x: Tensor) -> Tensor:
        """Return ``x`` with its last group filled up with zeros."""
        dim = self.group_dim % x.dim()
        return self.as_quantized(x).flatten(dim, dim + 1)

    def as_quantized(self, x: Tensor) -> Tensor:
        """Return ``x`` in groups."""
        return self.input_view_impl(x)

    def quantized_value(self, value: Tensor, x: Tensor) -> Tensor:
        """Return a value in groups in the shape of ``x``."""
        dim = self.group_dim % x.dim()
        return merge_groups(value, dim, x.shape[dim])

    def quant_tensor_in_groups(
        self, kind: Callable[..., GroupedTensor], qt_args: tuple[Any, ...], shape: torch.Size
    ) -> GroupedTensor:
        """Return the quant tensor of what the quantizer returned.

        Args:
            kind: class of the quant tensor.
            qt_args: value, scale and zero point in groups, then the fields of the format.
            shape: shape of the tensor that was quantized.
        """
        value, scale, zero_point, *number_format = qt_args
        groups = (self.group_size, self.group_dim)
        flags = (bool(self.is_signed), self.training)
        return kind(value, scale, zero_point, *groups, *number_format, *flags, shape)


class GroupwiseWeightProxy(GroupwiseProxy):
    """A weight that is quantized in groups, of any numeric type."""

    tracked_parameter_list: Any
    retrieve_attribute: Any
    _weight_shape = torch.Size()

    def init_tensor_quant(self, preserve_state_dict: bool = False) -> None:
        """Build the tensor quantizer from the declaration, or reset its values."""
        proxy: Any = super()
        proxy.init_tensor_quant(preserve_state_dict)
        # Remembered, as the quantizer's view remembers it: a parametrized weight costs to read.
        tracked = self.tracked_parameter_list
        self._weight_shape = tracked[0].shape if tracked else torch.Size()

    @property
    def weight_shape(self) -> torch.Size:
        """Shape of the weight, without groups."""
        return self._weight_shape

    def scale_(self) -> Tensor | None:
        """Real value of one step, one for each group, ``[.., groups, 1, ..]``."""
        return self.retrieve_attribute("scale_")

    def zero_point_(self) -> Tensor | None:
        """What stands for zero, one for each group, or one for all."""
        return self.retrieve_attribute("zero_point_")


class GroupwiseActProxy(GroupwiseProxy):
    """An activation that is quantized in groups, of any numeric type."""

    cache_inference_quant_act: bool
    _cached_act: Any

    def scale(self, force_eval: bool = True) -> Tensor | None:
        """Real value of one step in the evaluation that was kept, if it was; else an error."""
        return self._kept("scale")

    def zero_point(self, force_eval: bool = True) -> Tensor | None:
        """What stood for zero in the evaluation that was kept, if it was; else an error."""
        return self._kept("zero_point")

    def _kept(self, name: str) -> Tensor | None:
        if not self.is_quant_enabled:
            return None
        if self._cached_act is None or not self.cache_inference_quant_act:
            raise depends_on_input(name)
        return getattr(self._cached_act, name)

    def _sentinel(self) -> Tensor:
        """A zero with the dimension that is split into groups."""
        dim = self.group_dim
        return super()._sentinel().reshape((1,) * (-dim if dim < 0 else dim + 1))
