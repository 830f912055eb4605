"""Turns a statistic or a stored parameter into a positive scale. Layer: core (L3)."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from torch import Tensor, nn

from brevitas.core.restrict_val import (
    FloatRestrictValue,
    LogFloatRestrictValue,
    _ClampValue,
)
from brevitas.utils.torch_utils import widened

__all__ = ["ScaleRestriction", "ScaleSource", "SourceKind"]


class SourceKind(Enum):
    """The domain of the tensor that a scale is made of, by which it is restricted."""

    #: A parameter or constant in the domain of the restriction (the logarithm, say).
    STORED = "stored"
    #: A real-valued statistic, restricted as the parameter would be.
    STATISTIC = "statistic"
    #: The real-valued statistic of one batch: neither it nor its threshold is restricted.
    BATCH = "batch"


class ScaleSource(NamedTuple):
    """The tensor that a scale is made of, before it is restricted and divided."""

    kind: SourceKind
    tensor: Tensor


class ScaleRestriction(nn.Module):
    """Restrict, clamp from below and divide by the integer threshold: one rule for every scale.

    ``scale = clamp_min(restrict(stored)) / restrict(threshold)`` where ``stored`` is the
    statistic mapped to the domain of the restriction (its logarithm, say).

    Args:
        restrict_scaling_impl: maps the stored domain to real values.
        scaling_min_val: smallest real value before the division; None for none.
        restrict_threshold_impl: restriction of the threshold; that of the scale by default.
        restrict_scale_threshold_impl: last restriction, of the quotient; none by default.
    """

    def __init__(
        self,
        restrict_scaling_impl: nn.Module | None,
        scaling_min_val: float | None,
        restrict_threshold_impl: nn.Module | None = None,
        restrict_scale_threshold_impl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        smallest = scaling_min_val
        is_number = isinstance(smallest, (int, float)) and not isinstance(smallest, bool)
        if smallest is not None and not (is_number and smallest >= 0):
            raise ValueError(f"scaling_min_val={smallest!r}: expected a number >= 0, or None.")
        self.restrict_value_impl: Any = restrict_scaling_impl or FloatRestrictValue()
        self.to_stored_impl = self.restrict_value_impl.restrict_init_module()
        self.clamp_scaling = _ClampValue(scaling_min_val)
        threshold_impl: Any = restrict_threshold_impl or self.restrict_value_impl
        self.restrict_threshold_impl = threshold_impl
        self.threshold_to_stored_impl = threshold_impl.restrict_init_module()
        self.restrict_scale_threshold_impl = restrict_scale_threshold_impl

    def to_stored(self, statistic: Tensor) -> Tensor:
        """Map a real-valued statistic to the domain in which the parameter is stored."""
        return self.to_stored_impl(statistic)

    def clamp_statistic(self, statistic: Tensor) -> Tensor:
        """Keep a statistic at or above ``scaling_min_val``."""
        return self.clamp_scaling(statistic)

    def divide(self, scale: Tensor, threshold: Tensor | None) -> Tensor:
        """Divide a real value by the integer threshold that it stands for."""
        if threshold is None:
            return scale
        restricted: Tensor = threshold
        if type(self.restrict_threshold_impl) not in (FloatRestrictValue, LogFloatRestrictValue):
            restricted = self.restrict_threshold_impl(self.threshold_to_stored_impl(threshold))
        return self._divided(scale, restricted)

    def _divided(self, scale: Tensor, threshold: Tensor) -> Tensor:
        scale = scale / threshold
        if self.restrict_scale_threshold_impl is not None:
            scale = self.restrict_scale_threshold_impl(scale)
        return scale

    def from_stored(self, stored: Tensor, threshold: Tensor | None) -> Tensor:
        """Scale of a value in the stored domain; computed in float32 or wider."""
        stored = widened(stored)
        return self.divide(self.clamp_scaling(self.restrict_value_impl(stored)), threshold)

    def from_statistic(self, statistic: Tensor, threshold: Tensor | None) -> Tensor:
        """Scale of a real-valued statistic, restricted."""
        # Clamped before it is mapped: the logarithm of zero has no gradient.
        statistic = self.clamp_statistic(widened(statistic))
        return self.from_stored(self.to_stored(statistic), threshold)

    def scale_of(self, source: ScaleSource, threshold: Tensor | None) -> Tensor:
        """Scale of what a scaling part has read, by the rule of its kind."""
        if source.kind is SourceKind.STORED:
            return self.from_stored(source.tensor, threshold)
        if source.kind is SourceKind.STATISTIC:
            return self.from_statistic(source.tensor, threshold)
        scale = self.clamp_statistic(source.tensor)
        return scale if threshold is None else self._divided(scale, threshold)

    def init_from_float(self, value: float) -> float:
        """Stored value of a real number given by the user."""
        return self.restrict_value_impl.restrict_init_float(value)

    def init_from_tensor(self, value: Tensor) -> Tensor:
        """Stored value of a real tensor given by the user."""
        return self.restrict_value_impl.restrict_init_tensor(value)
