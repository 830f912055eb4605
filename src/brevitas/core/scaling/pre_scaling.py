"""Pre-scales that normalize a weight, and keep the sum of its integers in bounds. Layer: core (L3).

A decoupled quantizer divides by a pre-scale, rounds, and multiplies by a scale. Here the pre-scale
follows the norm of the weight, so that the norm is a parameter of its own:

    pre_scale = norm(weight) / (target / scale),   hence   norm(weight / pre_scale) = target / scale

With the sum of magnitudes as the norm, and a target that is capped, no dot product with integers
of a known width overflows its accumulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.ops_ste import ScalarSignedClampMinSte
from brevitas.core.restrict_val import _RestrictClampValue
from brevitas.core.stats._average import summation_dtype
from brevitas.core.stats.stats_wrapper import SCALAR_SHAPE, _Stats
from brevitas.function.ops import get_upper_bound_on_l1_norm, max_int
from brevitas.utils.torch_utils import widened

__all__ = [
    "AccumulatorAwareParameterPreScaling",
    "AccumulatorAwareZeroCenterParameterPreScaling",
    "ParameterPreScalingWeightNorm",
]

#: Where a quotient would underflow, it is this number: the smallest normal one in 32 bits.
_SMALLEST = 2.0**-126
#: Roundings between a weight and its integer are fewer than this many, each half a unit in the
#: last place: of the norm, the cap, the pre-scale (8), the quotient, the shift and their sum.
_ROUNDINGS = 32


class ParameterPreScalingWeightNorm(LearnedValueModule):
    """Pre-scale that gives a weight a learned norm: ``norm(weight) / (target / scale)``.

    The learned ``target`` starts from the norm of the weight, so that the pre-scale starts as the
    scale. A channel of zeros, which has no norm to give, has the scale as its pre-scale.

    Args:
        scaling_impl: ``x -> scale``, with parameters of its own.
        normalize_stats_impl: norm of the view of a weight, e.g. ``L2Norm``.
        scaling_stats_input_view_shape_impl: view of a weight that the norm reduces.
        tracked_parameter_list: the weight, one only.
        pre_scaling_shape: shape of the pre-scale, broadcastable to the weight; 0-d by default.
        restrict_pre_scaling_impl: domain in which the target is stored; any number by default.
        pre_scaling_min_val: smallest magnitude of the target.

    Raises:
        ValueError: when several weights share the quantizer; a norm belongs to one.

    Example:
        >>> from brevitas.core.function_wrapper import OverTensorView
        >>> from brevitas.core.scaling import ConstScaling
        >>> from brevitas.core.stats import L2Norm
        >>> weight = nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> pre_scaling = ParameterPreScalingWeightNorm(
        ...     ConstScaling(0.1), L2Norm(), OverTensorView(), [weight])
        >>> round(pre_scaling(weight).item(), 4), pre_scaling.value.item()
        (0.1, 5.0)

    Reference: Salimans and Kingma, "Weight Normalization: A Simple Reparameterization to
    Accelerate Training of Deep Neural Networks", 2016.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        normalize_stats_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module,
        tracked_parameter_list: Sequence[Tensor],
        pre_scaling_shape: tuple[int, ...] | None = None,
        restrict_pre_scaling_impl: nn.Module | None = None,
        pre_scaling_min_val: float | None = None,
    ) -> None:
        super().__init__()
        if len(tracked_parameter_list) != 1:
            raise ValueError(
                f"tracked_parameter_list holds {len(tracked_parameter_list)} weights: expected "
                "one, whose norm is learned; give each layer a quantizer of its own."
            )
        restriction: Any = restrict_pre_scaling_impl or Identity()
        self.stats = _Stats(normalize_stats_impl, pre_scaling_shape or SCALAR_SHAPE)
        self.stats_input_view_shape_impl = scaling_stats_input_view_shape_impl
        self.scaling_impl = scaling_impl
        self.restrict_clamp_scaling = _RestrictClampValue(pre_scaling_min_val, None, restriction)
        self.clamp_quotient = ScalarSignedClampMinSte(_SMALLEST)
        weight = tracked_parameter_list[0].detach()
        norm = self.norm_of(weight).clamp_min(pre_scaling_min_val or 0.0)
        if restrict_pre_scaling_impl is not None:
            norm = restriction.restrict_init_tensor(norm)
        self.value = nn.Parameter(norm.to(weight.dtype))

    def norm_of(self, weights: Tensor) -> Tensor:
        """Norm of ``weights``, of the shape of the pre-scale; in 32 bits or more."""
        return self.stats(self.stats_input_view_shape_impl(widened(weights)))

    def target(self) -> Tensor:
        """The learned norm, a real number."""
        return self.restrict_clamp_scaling(widened(self.value))

    def norm_in_steps(self, scale: Tensor) -> Tensor:
        """The learned norm as a number of steps of the scale."""
        return self.clamp_quotient(self.target() / scale)

    def step_of(self, scale: Tensor, norm: Tensor, steps: Tensor) -> Tensor:
        """Step of which ``norm`` has so many; the scale where the norm is zero."""
        norm = torch.where(norm == 0, scale * steps, norm)
        return self.clamp_quotient(norm / steps)

    def forward(self, weights: Tensor) -> Tensor:
        """Return the pre-scale of ``weights``."""
        scale = self.scaling_impl(weights)
        return self.step_of(scale, self.norm_of(weights), self.norm_in_steps(scale))


class AccumulatorAwareParameterPreScaling(ParameterPreScalingWeightNorm):
    """Pre-scale that keeps every dot product with a quantized input within its accumulator.

    The norm that a channel's integers may have in total is
    ``max_l1_norm = (2**(P - 1) - 1) / 2**(N - is_signed)`` for an accumulator of ``P`` bits and an
    input of ``N`` bits, whose magnitude is at most ``2**(N - is_signed)``. The target is capped
    there: ``min(target / scale, max_l1_norm)``. Rounded towards zero, no magnitude grows, so

        |sum(integer * input)| <= sum(|integer|) * 2**(N - is_signed) <= 2**(P - 1) - 1

    holds for each partial sum in any order. Rounding errors are on the safe side: the norm
    is taken larger by a bound of all of them. The input's integers are bounded, not its values:
    a zero point of the input, or a bias, is outside of the sum.

    Args:
        scaling_impl: ``x -> scale``, with parameters of its own.
        normalize_stats_impl: norm of the view of a weight, ``L1Norm``.
        accumulator_bit_width_impl: ``() -> P``, bits of the accumulator, sign included.
        scaling_stats_input_view_shape_impl: view of a weight that the norm reduces.
        tracked_parameter_list: the weight, one only.
        pre_scaling_shape: shape of the pre-scale, broadcastable to the weight; 0-d by default.
        restrict_pre_scaling_impl: domain in which the target is stored; any number by default.
        pre_scaling_min_val: smallest magnitude of the target.

    Raises:
        ValueError: for an accumulator of one bit, which holds no positive number; or when several
            weights share the quantizer.

    Reference: Colbert et al., "A2Q: Accumulator-Aware Quantization with Guaranteed Overflow
    Avoidance", 2023.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        normalize_stats_impl: nn.Module,
        accumulator_bit_width_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module,
        tracked_parameter_list: Sequence[Tensor],
        pre_scaling_shape: tuple[int, ...] | None = None,
        restrict_pre_scaling_impl: nn.Module | None = None,
        pre_scaling_min_val: float | None = None,
    ) -> None:
        super().__init__(
            scaling_impl,
            normalize_stats_impl,
            scaling_stats_input_view_shape_impl,
            tracked_parameter_list,
            pre_scaling_shape,
            restrict_pre_scaling_impl,
            pre_scaling_min_val,
        )
        bits = accumulator_bit_width_impl()
        if not bits.is_meta and float(bits) < 2:
            raise ValueError(
                f"accumulator_bit_width={float(bits):g}: expected at least 2 bits, one of them for "
                "the sign."
            )
        self.accumulator_bit_width = accumulator_bit_width_impl

    def calc_max_l1_norm(self, input_bit_width: Tensor, input_is_signed: bool) -> Tensor:
        """Largest sum of magnitudes that the integers of a channel may have, 0-d.

        Args:
            input_bit_width: bits of the layer's input, 0-d.
            input_is_signed: whether the integers of the layer's input have a sign.
        """
        bits = (widened(self.accumulator_bit_width()), widened(input_bit_width))
        return get_upper_bound_on_l1_norm(*bits, input_is_signed)

    def inner_forward(
        self, weights: Tensor, input_bit_width: Tensor, input_is_signed: bool
    ) -> Tensor:
        """Return the pre-scale of ``weights`` as they are."""
        norm = self.norm_of(weights)
        return self._capped_step(weights, norm, norm, input_bit_width, input_is_signed)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, weights: Tensor, input_bit_width: Tensor, input_is_signed: bool
    ) -> Tensor:
        """Return the pre-scale of ``weights``.

        Args:
            weights: the weight.
            input_bit_width: bits of the layer's input, 0-d.
            input_is_signed: whether the integers of the layer's input have a sign.
        """
        return self.inner_forward(weights, input_bit_width, input_is_signed)

    def _capped_step(
        self,
        weights: Tensor,
        norm: Tensor,
        norm_before_shift: Tensor,
        input_bit_width: Tensor,
        input_is_signed: bool,
    ) -> Tensor:
        """Pre-scale for a norm, where roundings are relative to the norm before a shift."""
        scale = self.scaling_impl(weights)
        cap = self.calc_max_l1_norm(input_bit_width, input_is_signed)
        norm = norm + self._rounding_bound(weights, scale) * (norm + norm_before_shift)
        return self.step_of(scale, norm, self.norm_in_steps(scale).clamp(-cap, cap))

    def _rounding_bound(self, weights: Tensor, scale: Tensor) -> float:
        """Bound of the relative error of a sum of ``|weights / pre_scale|``."""
        weights = widened(weights)
        coarsest = max(torch.finfo(t.dtype).eps for t in (weights, widened(scale)))
        summands = weights.numel() // max(1, self.value.numel())
        return _ROUNDINGS / 2 * coarsest + summands * torch.finfo(summation_dtype(weights)).eps


class AccumulatorAwareZeroCenterParameterPreScaling(AccumulatorAwareParameterPreScaling):
    """As ``AccumulatorAwareParameterPreScaling``, for weights whose mean is removed.

    Positive and negative weights then sum up to half of the norm each, and so do at most their
    integers. The extremes of an input of ``N`` bits are ``2**N - 1`` apart, signed or not, so

        max_l1_norm = (2**P - 2) / (2**N - 1)

    keeps every sum in ``P`` bits: about twice as much as without the mean removed.

    Args:
        scaling_impl: ``x -> scale``, with parameters of its own.
        pre_zero_point_impl: removes the mean, ``PreZeroCenterZeroPoint``.
        normalize_stats_impl: norm of the view of a weight, ``L1Norm``.
        accumulator_bit_width_impl: ``() -> P``, bits of the accumulator, sign included.
        scaling_stats_input_view_shape_impl: view of a weight that the norm reduces.
        tracked_parameter_list: the weight, one only.
        pre_scaling_shape: shape of the pre-scale, broadcastable to the weight; 0-d by default.
        restrict_pre_scaling_impl: domain in which the target is stored; any number by default.
        pre_scaling_min_val: smallest magnitude of the target.

    Reference: Colbert et al., "A2Q+: Improving Accumulator-Aware Weight Quantization", 2024.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        pre_zero_point_impl: nn.Module,
        normalize_stats_impl: nn.Module,
        accumulator_bit_width_impl: nn.Module,
        scaling_stats_input_view_shape_impl: nn.Module,
        tracked_parameter_list: Sequence[Tensor],
        pre_scaling_shape: tuple[int, ...] | None = None,
        restrict_pre_scaling_impl: nn.Module | None = None,
        pre_scaling_min_val: float | None = None,
    ) -> None:
        super().__init__(
            scaling_impl,
            normalize_stats_impl,
            accumulator_bit_width_impl,
            scaling_stats_input_view_shape_impl,
            tracked_parameter_list,
            pre_scaling_shape,
            restrict_pre_scaling_impl,
            pre_scaling_min_val,
        )
        self.pre_zero_point: Any = pre_zero_point_impl

    def calc_max_l1_norm(self, input_bit_width: Tensor, input_is_signed: bool) -> Tensor:
        """Largest sum of magnitudes that the integers of a channel may have, 0-d.

        Args:
            input_bit_width: bits of the layer's input, 0-d.
            input_is_signed: has no effect here.
        """
        largest = max_int(True, False, widened(self.accumulator_bit_width()))
        return 2 * largest / max_int(False, False, widened(input_bit_width))

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, weights: Tensor, input_bit_width: Tensor, input_is_signed: bool
    ) -> Tensor:
        """Return the pre-scale of ``weights`` without their mean."""
        centered = self.norm_of(widened(weights) + self.pre_zero_point.get_zero_center(weights))
        norms = (centered, self.norm_of(weights))
        return self._capped_step(weights, *norms, input_bit_width, input_is_signed)
