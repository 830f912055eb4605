"""Every kind of binary and ternary quantizer, built as a layer builds it: the rows of batteries."""

from __future__ import annotations

from typing import Any

from brevitas.core.quant import ClampedBinaryQuant
from brevitas.inject.enum import (
    QuantType,
    RestrictValueType,
    ScalingImplType,
    ScalingPerOutputType,
    StatsOp,
)
from brevitas.quant import binary
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from tensor_quants import Row


class _Declared:
    restrict_scaling_type = RestrictValueType.FP
    scaling_per_output_type = ScalingPerOutputType.TENSOR
    scaling_impl_type = ScalingImplType.PARAMETER
    scaling_stats_op = StatsOp.AVE
    narrow_range = True
    signed = True
    threshold = 0.3


def _values(**changed: Any) -> dict[str, Any]:
    declared = {name: value for name, value in vars(_Declared).items() if not name.startswith("_")}
    return {**declared, **changed}


BINARY, TERNARY = {"quant_type": QuantType.BINARY}, {"quant_type": QuantType.TERNARY}
PER_CHANNEL = {
    "scaling_per_output_type": ScalingPerOutputType.CHANNEL,
    "scaling_impl_type": ScalingImplType.STATS,
}
DECLARED: dict[str, Any] = {
    "binary-weight": WeightQuantSolver.let(**_values(**BINARY, scaling_init=0.7)),
    "binary-weight-per-channel": WeightQuantSolver.let(**_values(**BINARY, **PER_CHANNEL)),
    "clamped-weight": WeightQuantSolver.let(
        **_values(tensor_quant=ClampedBinaryQuant, scaling_init=0.7)
    ),
    "binary-act": ActQuantSolver.let(**_values(**BINARY)),
    "binary-act-stats": ActQuantSolver.let(
        **_values(**BINARY, scaling_impl_type=ScalingImplType.STATS)
    ),
    "ternary-weight": WeightQuantSolver.let(**_values(**TERNARY, scaling_init=0.7)),
    "ternary-weight-per-channel": WeightQuantSolver.let(**_values(**TERNARY, **PER_CHANNEL)),
    "ternary-act": ActQuantSolver.let(**_values(**TERNARY)),
}
PREDEFINED = [
    Row(binary.__name__, name, getattr(binary, name), "") for name in sorted(binary.__all__)
]
ROWS = PREDEFINED + [Row("", name, quantizer, "") for name, quantizer in DECLARED.items()]
# Those with a scale that does not change with the input.
STEADY = [row for row in ROWS if not row.name.endswith(("stats", "per-channel"))]
