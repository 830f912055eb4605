"""Predefined quantizers: declarations only, to be given to layers. Layer: quant (L5)."""

from brevitas.quant.binary import (
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
)
from brevitas.quant.fixed_point import (
    Int8ActPerTensorFixedPoint,
    Int8ActPerTensorFixedPointMinMaxInit,
    Int8BiasPerTensorFixedPointInternalScaling,
    Int8WeightPerChannelFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
    Uint8ActPerTensorFixedPointMaxInit,
)
from brevitas.quant.none import (
    NoneActQuant,
    NoneBiasQuant,
    NoneWeightQuant,
)
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatBatchQuant1d,
    Int8ActPerTensorFloatBatchQuant2d,
    Int8ActPerTensorFloatMinMaxInit,
    Int8Bias,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    Int16Bias,
    Int24Bias,
    Int32Bias,
    IntBias,
    Uint8ActPerTensorFloat,
    Uint8ActPerTensorFloatBatchQuant1d,
    Uint8ActPerTensorFloatBatchQuant2d,
    Uint8ActPerTensorFloatMaxInit,
)
from brevitas.quant.shifted_scaled_int import (
    ShiftedUint8ActPerTensorFixedPoint,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerChannelFloat,
    ShiftedUint8WeightPerTensorFloat,
)
from brevitas.quant.solver import ActQuantSolver, BiasQuantSolver, WeightQuantSolver
from brevitas.quant.ternary import (
    SignedTernaryActPerTensorConst,
    SignedTernaryWeightPerTensorConst,
)

__all__ = [
    "ActQuantSolver",
    "BiasQuantSolver",
    "Int16Bias",
    "Int24Bias",
    "Int32Bias",
    "Int8ActPerTensorFixedPoint",
    "Int8ActPerTensorFixedPointMinMaxInit",
    "Int8ActPerTensorFloat",
    "Int8ActPerTensorFloatBatchQuant1d",
    "Int8ActPerTensorFloatBatchQuant2d",
    "Int8ActPerTensorFloatMinMaxInit",
    "Int8Bias",
    "Int8BiasPerTensorFixedPointInternalScaling",
    "Int8BiasPerTensorFloatInternalScaling",
    "Int8WeightPerChannelFixedPoint",
    "Int8WeightPerChannelFloat",
    "Int8WeightPerTensorFixedPoint",
    "Int8WeightPerTensorFloat",
    "IntBias",
    "NoneActQuant",
    "NoneBiasQuant",
    "NoneWeightQuant",
    "ShiftedUint8ActPerTensorFixedPoint",
    "ShiftedUint8ActPerTensorFloat",
    "ShiftedUint8WeightPerChannelFloat",
    "ShiftedUint8WeightPerTensorFloat",
    "SignedBinaryActPerTensorConst",
    "SignedBinaryWeightPerTensorConst",
    "SignedTernaryActPerTensorConst",
    "SignedTernaryWeightPerTensorConst",
    "Uint8ActPerTensorFixedPoint",
    "Uint8ActPerTensorFixedPointMaxInit",
    "Uint8ActPerTensorFloat",
    "Uint8ActPerTensorFloatBatchQuant1d",
    "Uint8ActPerTensorFloatBatchQuant2d",
    "Uint8ActPerTensorFloatMaxInit",
    "WeightQuantSolver",
]
