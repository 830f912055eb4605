"""Minifloat quantizers that find their own scale. Layer: core (L3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas import config
from brevitas.core.bit_width.float import ComputeMaxMantissa
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.function_wrapper.ops_ste import RoundSte
from brevitas.core.quant._float_plan import minifloat_plan
from brevitas.core.quant._fused import value_in_region
from brevitas.core.quant._parts import check_parts
from brevitas.core.scaling.standalone import ConstScaling
from brevitas.core.utils import StatelessBuffer
from brevitas.ops.minifloat import MinifloatPlan, minifloat_quant
from brevitas.ops.region import Program, can_run_region
from brevitas.utils.torch_utils import float_internal_scale, widened

__all__ = ["FloatQuant", "min_internal_scale"]

Codes = tuple[str, ...] | None
FloatQuantOutput = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, bool, Codes, Codes]


def min_internal_scale(exponent_bias: Tensor, mantissa_bit_width: Tensor) -> Tensor:
    """Exponent of the step between subnormal minifloats, ``1 - bias - m``.

    Args:
        exponent_bias: offset subtracted from the exponent code.
        mantissa_bit_width: m, stored bits of the mantissa.

    Example:
        >>> min_internal_scale(torch.tensor(7.0), torch.tensor(3.0))
        tensor(-9.)
    """
    return 1.0 - exponent_bias - mantissa_bit_width


def _fused_value(plan: MinifloatPlan, x: Tensor, scale: Tensor) -> Tensor:
    """Quantize in one operation, compiled where asked for."""
    if config.JIT_ENABLED and can_run_region(x):
        value = value_in_region(plan, lambda: _program(plan), x, scale)
        if value is not None:
            return value
    # Tracers know the operation by its name in this file.
    return minifloat_quant(x, scale, plan)


def _program(plan: MinifloatPlan) -> Program:
    return lambda x, scale: (minifloat_quant(x, scale, plan),)


class FloatQuant(nn.Module):
    """Minifloat quantizer whose parts give the scale and the format at each call.

    With ``u = x / scale`` and ``step = 2**(max(floor(log2|u|), 1 - bias) - m)``,
    ``y = clamp(round(u / step) * step) * scale``, and
    ``scale = scaling_impl(x, float_scaling_impl(e, max_mantissa, bias))``.

    The parts declare; a plan derived from them executes one fused operation, under
    ``BREVITAS_JIT=1`` one compiled kernel. A part that is not ours by exact type, carries a hook
    or learns the format makes the quantizer run part by part, with equal values.

    Args:
        signed: whether the format has negative numbers.
        exponent_bit_width_impl: ``() -> e``, bits of the exponent.
        mantissa_bit_width_impl: ``() -> m``, stored bits of the mantissa.
        exponent_bias_impl: ``() -> bias``, offset subtracted from the exponent code.
        float_clamp_impl: limits rounded values to the range, see ``FloatClamp``.
        input_view_impl: reshapes ``x`` before it is quantized (groups); the identity by default.
        compute_max_mantissa: ``m -> largest significand``.
        scaling_impl: ``(x, threshold) -> scale``; constant 1 by default.
        float_scaling_impl: ``(e, max_mantissa, bias) -> threshold``, the minifloat that the
            statistic maps to; None for a scale that is not divided by one.
        float_to_int_impl: rounding with a straight-through gradient, to nearest by default.
        device: device of the default scale.
        dtype: dtype of the default scale.

    Example:
        >>> from brevitas.core.bit_width import BitWidthConst
        >>> from brevitas.core.bit_width.float import StaticExponentBias
        >>> from brevitas.core.function_wrapper import FloatClamp, TensorClamp
        >>> e4m3 = FloatQuant(
        ...     signed=True,
        ...     exponent_bit_width_impl=BitWidthConst(4),
        ...     mantissa_bit_width_impl=BitWidthConst(3),
        ...     exponent_bias_impl=StaticExponentBias(7),
        ...     float_clamp_impl=FloatClamp(TensorClamp(), True, max_available_float=448.0))
        >>> e4m3(torch.tensor([17.0, 20.1, -900.0]))[0]
        tensor([  16.,   20., -448.])

    Reference: Micikevicius et al., "FP8 Formats for Deep Learning", 2022.
    """

    def __init__(
        self,
        signed: bool,
        exponent_bit_width_impl: nn.Module,
        mantissa_bit_width_impl: nn.Module,
        exponent_bias_impl: nn.Module,
        float_clamp_impl: nn.Module,
        input_view_impl: nn.Module | None = None,
        compute_max_mantissa: nn.Module | None = None,
        scaling_impl: nn.Module | None = None,
        float_scaling_impl: nn.Module | None = None,
        float_to_int_impl: nn.Module | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if scaling_impl is None:
            scaling_impl = ConstScaling(torch.ones(1, device="cpu"), dtype=dtype, device=device)
        check_parts(
            exponent_bit_width_impl=exponent_bit_width_impl,
            mantissa_bit_width_impl=mantissa_bit_width_impl,
            exponent_bias_impl=exponent_bias_impl,
            float_clamp_impl=float_clamp_impl,
            scaling_impl=scaling_impl,
        )
        self.float_to_int_impl = float_to_int_impl or RoundSte()
        self.exponent_bias_impl = exponent_bias_impl
        self.exponent_bit_width_impl = exponent_bit_width_impl
        self.mantissa_bit_width_impl = mantissa_bit_width_impl
        self.input_view_impl = input_view_impl or Identity()
        self.zero_point_impl = StatelessBuffer(0.0, dtype, device)
        self.float_scaling_impl = float_scaling_impl
        self.scaling_impl = scaling_impl
        self.float_clamp_impl = float_clamp_impl
        self.compute_max_mantissa = compute_max_mantissa or ComputeMaxMantissa()
        self.signed = signed

    @property
    def is_fused(self) -> bool:
        """True where the parts, as they are now, run as one operation."""
        return self._plan() is not None

    def _plan(self) -> MinifloatPlan | None:
        return minifloat_plan(self) if type(self) is FloatQuant else None

    def quantize(self, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Round ``x`` to minifloats of unlimited range, through the parts.

        Args:
            x: real values.
            scale: real value of 1, broadcastable to ``x``.

        Returns:
            Rounded values in units of the scale, and the scale.
        """
        ratio = widened(x) / scale
        mantissa_bit_width = self.mantissa_bit_width_impl()
        smallest = min_internal_scale(self.exponent_bias_impl(), mantissa_bit_width)
        step = float_internal_scale(ratio, mantissa_bit_width, smallest, 0.0)
        return self.float_to_int_impl(ratio / step) * step, scale

    def dequantize(self, y: Tensor, scale: Tensor) -> Tensor:
        """Return the real values of ``y``, which is in units of the scale."""
        return y * scale

    def forward(self, x: Tensor) -> FloatQuantOutput:
        """Quantize ``x``.

        Returns:
            ``(value, scale, zero_point, exponent_bit_width, mantissa_bit_width, exponent_bias,
            saturating, inf_values, nan_values)``.
        """
        parts: dict[str, Any] = self._modules
        exponent_bit_width = parts["exponent_bit_width_impl"]()
        mantissa_bit_width = parts["mantissa_bit_width_impl"]()
        exponent_bias = parts["exponent_bias_impl"]()
        max_mantissa = parts["compute_max_mantissa"](mantissa_bit_width)
        threshold, scaling = None, parts.get("float_scaling_impl")
        if scaling is not None:
            threshold = scaling(exponent_bit_width, max_mantissa, exponent_bias)
        scale = parts["scaling_impl"](x, threshold)
        x = parts["input_view_impl"](x if x.is_floating_point() else x.to(scale.dtype))
        clamp, plan = parts["float_clamp_impl"], self._plan()
        if plan is not None:
            value = _fused_value(plan, x, scale)
            codes = clamp.saturating, clamp.inf_values, clamp.nan_values
        else:
            rounded, scale = self.quantize(x, scale)
            limited, *codes = clamp(rounded, exponent_bit_width, max_mantissa, exponent_bias)
            value = self.dequantize(limited, scale).to(x.dtype)
        zero_point = parts["zero_point_impl"]()
        numbers = (zero_point, exponent_bit_width, mantissa_bit_width, exponent_bias)
        return value, scale, *numbers, *codes  # pyright: ignore[reportReturnType]
