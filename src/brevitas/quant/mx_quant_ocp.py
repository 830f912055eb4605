"""Microscaling quantizers: groups of 32 share a power of two as their scale. Layer: quant (L5).

With ``2**e`` the largest power of two that elements are compared with (the integer limit, or the
largest minifloat, rounded down), the scale of a group is ``2**(floor(log2(max(abs(x)))) - e)``.

Reference: Open Compute Project, "OCP Microscaling Formats (MX) Specification", version 1.0, 2023.
"""

from __future__ import annotations

from brevitas.core.function_wrapper import FloorSte
from brevitas.core.restrict_val import PowerOfTwoRestrictValue
from brevitas.core.scaling import RuntimeDynamicGroupStatsScaling
from brevitas.inject import ExtendedInjector, this
from brevitas.inject.enum import RestrictValueType, ScalingPerOutputType
from brevitas.proxy.groupwise_float_parameter_quant import (
    GroupwiseWeightFloatQuantProxyFromInjector,
)
from brevitas.proxy.groupwise_float_runtime_quant import GroupwiseActFloatQuantProxyFromInjector
from brevitas.proxy.groupwise_int_parameter_quant import GroupwiseWeightQuantProxyFromInjector
from brevitas.proxy.groupwise_int_runtime_quant import GroupwiseActQuantProxyFromInjector
from brevitas.quant.base import (
    IntQuant,
    MaxStatsScaling,
    MinMaxStatsScaling,
    MSEAsymmetricScale,
    MSESymmetricScale,
    MSEWeightZeroPoint,
    ShiftedMinUintQuant,
)
from brevitas.quant.float_base import ScaledFloatActBase, ScaledFloatWeightBase
from brevitas.quant.float_quant_ocp import FpOCPAct, FpOCPWeight
from brevitas.quant.solver.act import ActQuantSolver
from brevitas.quant.solver.weight import WeightQuantSolver

__all__ = [
    "GroupwiseActFloatProxyMixin",
    "GroupwiseActProxyMixin",
    "GroupwiseWeightFloatProxyMixin",
    "GroupwiseWeightProxyMixin",
    "MXActMixin",
    "MXFloat8e4m3Act",
    "MXFloat8e4m3Weight",
    "MXFloat8e4m3WeightMSE",
    "MXInt8Act",
    "MXInt8Weight",
    "MXInt8WeightMSE",
    "MXMixin",
    "MXWeightMixin",
    "RestrictThresholdMixin",
    "ShiftedMXUInt8Weight",
    "ShiftedMXUInt8WeightMSE",
]


class GroupwiseWeightProxyMixin(ExtendedInjector):
    """A weight of integers in groups."""

    proxy_class = GroupwiseWeightQuantProxyFromInjector


class GroupwiseActProxyMixin(ExtendedInjector):
    """An activation of integers in groups."""

    proxy_class = GroupwiseActQuantProxyFromInjector


class GroupwiseWeightFloatProxyMixin(ExtendedInjector):
    """A weight of minifloats in groups."""

    proxy_class = GroupwiseWeightFloatQuantProxyFromInjector


class GroupwiseActFloatProxyMixin(ExtendedInjector):
    """An activation of minifloats in groups."""

    proxy_class = GroupwiseActFloatQuantProxyFromInjector


class RestrictThresholdMixin(ExtendedInjector):
    """Rounds the largest element, which scales are divided by, down to a power of two."""

    restrict_value_float_to_int_impl = FloorSte
    restrict_scaling_impl = PowerOfTwoRestrictValue


class MXMixin(ExtendedInjector):
    """Groups of 32 elements with a power-of-two scale, rounded down."""

    threshold_mixin = RestrictThresholdMixin
    group_size = 32
    restrict_scaling_type = RestrictValueType.POWER_OF_TWO
    restrict_value_float_to_int_impl = FloorSte
    restrict_threshold_impl = this.threshold_mixin.restrict_scaling_impl
    scaling_per_output_type = ScalingPerOutputType.GROUP


class MXWeightMixin(MXMixin):
    """Groups of a weight, by default along its input channels."""


class MXActMixin(MXMixin):
    """Groups of an activation; each input has scales of its own.

    ``group_dim`` follows from a linear layer or a convolution, and is declared everywhere else.
    """

    scaling_impl = RuntimeDynamicGroupStatsScaling


class MXInt8Weight(
    MXWeightMixin, GroupwiseWeightProxyMixin, IntQuant, MaxStatsScaling, WeightQuantSolver
):
    """8-bit weight, a power-of-two scale per group: the largest magnitude, rounded down, is 128.

    Magnitudes above ``127 * scale`` saturate. With ``int_scaling_impl=IntScaling`` and
    ``narrow_range=True`` that power of two is 64, as in the specification, where integers are
    multiples of 1/64 and no magnitude saturates by a whole step.

    The scale of a group whose magnitudes are all below ``scaling_min_val`` (1e-10) is that value
    over 128; infinities and NaN make their whole group NaN.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(64, 4, weight_quant=MXInt8Weight)
        >>> layer.quant_weight().scale_.shape
        torch.Size([4, 2, 1])
    """

    bit_width = 8


class MXInt8Act(MXActMixin, GroupwiseActProxyMixin, IntQuant, MaxStatsScaling, ActQuantSolver):
    """8-bit activation, a power-of-two scale per group; see ``MXInt8Weight``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> layer = QuantIdentity(MXInt8Act, group_dim=-1, return_quant_tensor=True)
        >>> layer(torch.ones(5, 40)).scale_.shape
        torch.Size([5, 2, 1])
    """

    bit_width = 8


class ShiftedMXUInt8Weight(
    MXWeightMixin,
    GroupwiseWeightProxyMixin,
    ShiftedMinUintQuant,
    MinMaxStatsScaling,
    WeightQuantSolver,
):
    """8-bit unsigned weight, a power-of-two scale and a zero point per group."""

    bit_width = 8


class MXFloat8e4m3Weight(
    MXWeightMixin, GroupwiseWeightFloatProxyMixin, FpOCPWeight, ScaledFloatWeightBase
):
    """8-bit minifloat weight (4 exponent and 3 mantissa bits), a power-of-two scale per group.

    ``exponent_bit_width`` and ``mantissa_bit_width`` give the other formats of the specification:
    5 and 2 (MXFP8 e5m2), 3 and 2, 2 and 3 (MXFP6), 2 and 1 (MXFP4).

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> fp4 = {"weight_exponent_bit_width": 2, "weight_mantissa_bit_width": 1}
        >>> layer = QuantLinear(64, 4, weight_quant=MXFloat8e4m3Weight, **fp4)
        >>> layer.quant_weight().minifloat().unique().abs().max()
        tensor(6.)
    """

    bit_width = 8
    exponent_bit_width = 4
    mantissa_bit_width = 3


class MXFloat8e4m3Act(MXActMixin, GroupwiseActFloatProxyMixin, FpOCPAct, ScaledFloatActBase):
    """8-bit minifloat activation, a power-of-two scale per group; see ``MXFloat8e4m3Weight``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> layer = QuantIdentity(MXFloat8e4m3Act, group_dim=1, return_quant_tensor=True)
        >>> layer(torch.ones(2, 40, 5)).scale_.shape
        torch.Size([2, 2, 1, 5])
    """

    bit_width = 8
    exponent_bit_width = 4
    mantissa_bit_width = 3


class MXFloat8e4m3WeightMSE(MSESymmetricScale, MXFloat8e4m3Weight):
    """8-bit minifloat weight, a learned scale per group that starts from a search."""


class MXInt8WeightMSE(MSESymmetricScale, MXInt8Weight):
    """8-bit weight, a learned power-of-two scale per group that starts from a search."""


class ShiftedMXUInt8WeightMSE(MSEAsymmetricScale, MSEWeightZeroPoint, ShiftedMXUInt8Weight):
    """8-bit unsigned weight, learned scale and zero point per group that start from a search."""
