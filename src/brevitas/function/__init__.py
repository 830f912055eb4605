"""Pure tensor maths of quantization and its straight-through versions.

Layer: function (L1).
"""

from __future__ import annotations

from brevitas.function.ops import (
    binary_sign,
    calculate_midmax_bias,
    compute_max_mantissa,
    dpu_round,
    get_upper_bound_on_l1_norm,
    identity,
    max_float,
    max_int,
    min_int,
    round_to_zero,
    tensor_clamp,
    tensor_clamp_,
)
from brevitas.function.ops_ste import (
    abs_binary_sign_grad,
    binary_sign_ste,
    ceil_ste,
    dpu_round_ste,
    floor_ste,
    round_ste,
    round_to_zero_ste,
    scalar_clamp_min_ste,
    scalar_clamp_ste,
    scalar_signed_clamp_min_ste,
    tensor_clamp_ste,
    tensor_clamp_ste_,
    ternary_sign_ste,
)

__all__ = [
    "abs_binary_sign_grad",
    "binary_sign",
    "binary_sign_ste",
    "calculate_midmax_bias",
    "ceil_ste",
    "compute_max_mantissa",
    "dpu_round",
    "dpu_round_ste",
    "floor_ste",
    "get_upper_bound_on_l1_norm",
    "identity",
    "max_float",
    "max_int",
    "min_int",
    "round_ste",
    "round_to_zero",
    "round_to_zero_ste",
    "scalar_clamp_min_ste",
    "scalar_clamp_ste",
    "scalar_signed_clamp_min_ste",
    "tensor_clamp",
    "tensor_clamp_",
    "tensor_clamp_ste",
    "tensor_clamp_ste_",
    "ternary_sign_ste",
]
