"""The older path of ``brevitas.quant.float_base``. Layer: quant (L5)."""

from brevitas.quant.float_base import (
    FloatActBase,
    FloatBase,
    FloatWeightBase,
    Fp4e2m1Mixin,
    Fp6e2m3Mixin,
    Fp6e3m2Mixin,
    Fp8e4m3Mixin,
    Fp8e5m2Mixin,
    ScaledFloatActBase,
    ScaledFloatWeightBase,
)

__all__ = [
    "FloatActBase",
    "FloatBase",
    "FloatWeightBase",
    "Fp4e2m1Mixin",
    "Fp6e2m3Mixin",
    "Fp6e3m2Mixin",
    "Fp8e4m3Mixin",
    "Fp8e5m2Mixin",
    "ScaledFloatActBase",
    "ScaledFloatWeightBase",
]
