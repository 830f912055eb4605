"""Reads a parameter in the view over which its statistic is computed.

Layer: core (L3).

The parameter belongs to the layer: these wrappers leave no key of their own in the state dict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.shape import StatsInputViewShapeImpl

__all__ = ["StatsInputViewShapeImpl"]

_PARAMETER_NAME = "parameter"


class _ParameterReader(nn.Module):
    """Base: holds a parameter of another module, which alone saves and loads it."""

    def __init__(self, parameter: nn.Parameter, view_shape_impl: nn.Module) -> None:
        super().__init__()
        self.parameter = parameter
        self.view_shape_impl = view_shape_impl

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + _PARAMETER_NAME]

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if prefix + _PARAMETER_NAME in state_dict:
            super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class _ViewParameterWrapper(_ParameterReader):
    """Return a parameter, or the tensor given in its place, in a view."""

    def forward(self, x: Tensor | None = None) -> Tensor:
        """Return `x` in the view; the parameter if `x` is None."""
        return self.view_shape_impl(self.parameter if x is None else x)


class _ViewCatParameterWrapper(_ParameterReader):
    """Append a tensor to a parameter in a view, for a statistic shared by several of them."""

    def __init__(self, parameter: nn.Parameter, view_shape_impl: nn.Module, cat_dim: int) -> None:
        super().__init__(parameter, view_shape_impl)
        self.cat_dim = cat_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the parameter in the view, followed by `x` along `cat_dim`."""
        return torch.cat([self.view_shape_impl(self.parameter), x], dim=self.cat_dim)
