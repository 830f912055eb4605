"""The older path of ``brevitas.quant.float``. Layer: quant (L5)."""

from brevitas.quant.float import (
    Fp8e4m3Act,
    Fp8e4m3ActPerChannelFloat2d,
    Fp8e4m3ActPerTensorFloat,
    Fp8e4m3Weight,
    Fp8e4m3WeightPerChannelFloat,
    Fp8e4m3WeightPerTensorFloat,
    Fp8e5m2Act,
    Fp8e5m2ActPerChannelFloat2d,
    Fp8e5m2ActPerTensorFloat,
    Fp8e5m2Weight,
    Fp8e5m2WeightPerChannelFloat,
    Fp8e5m2WeightPerTensorFloat,
)

__all__ = [
    "Fp8e4m3Act",
    "Fp8e4m3ActPerChannelFloat2d",
    "Fp8e4m3ActPerTensorFloat",
    "Fp8e4m3Weight",
    "Fp8e4m3WeightPerChannelFloat",
    "Fp8e4m3WeightPerTensorFloat",
    "Fp8e5m2Act",
    "Fp8e5m2ActPerChannelFloat2d",
    "Fp8e5m2ActPerTensorFloat",
    "Fp8e5m2Weight",
    "Fp8e5m2WeightPerChannelFloat",
    "Fp8e5m2WeightPerTensorFloat",
]
