"""The older path of ``brevitas.quant.mx_quant_ocp``. Layer: quant (L5)."""

from brevitas.quant.mx_quant_ocp import (
    GroupwiseActFloatProxyMixin,
    GroupwiseActProxyMixin,
    GroupwiseWeightFloatProxyMixin,
    GroupwiseWeightProxyMixin,
    MXActMixin,
    MXFloat8e4m3Act,
    MXFloat8e4m3Weight,
    MXFloat8e4m3WeightMSE,
    MXInt8Act,
    MXInt8Weight,
    MXInt8WeightMSE,
    MXMixin,
    MXWeightMixin,
    RestrictThresholdMixin,
    ShiftedMXUInt8Weight,
    ShiftedMXUInt8WeightMSE,
)

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
