"""Integer quantizers that find their own scale, zero point and bit width. Layer: core (L3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from brevitas import config
from brevitas.core.bit_width.const import BitWidthConst
from brevitas.core.quant._direct import (
    quantize_directly,
    source_before_rectified,
    value_on_scale,
)
from brevitas.core.quant._fused import (
    bounds,
    constant_bounds,
    is_zero,
    number_of,
    quantize_program,
    value_in_region,
)
from brevitas.core.quant._parts import check_parts
from brevitas.core.quant._plan import fake_quant_plan, is_plain, viewed
from brevitas.core.quant._recipe import Recipe, recipe_of
from brevitas.core.quant._region import quantize_in_region
from brevitas.core.quant._trunc import TruncIntQuant
from brevitas.core.quant.int_base import DecoupledIntQuant, IntQuant
from brevitas.core.scaling._restriction import ScaleSource
from brevitas.core.utils import StatelessBuffer
from brevitas.ops._elementwise import is_plain_eager
from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.region import can_run_region

__all__ = [
    "DecoupledRescalingIntQuant",
    "DecoupledRescalingIntQuantWithInput",
    "PrescaledRestrictIntQuant",
    "PrescaledRestrictIntQuantWithInputBitWidth",
    "RescalingIntQuant",
    "TruncIntQuant",
]

QuantOutput = tuple[Tensor, Tensor, Tensor, Tensor]
DecoupledOutput = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _plan_of(int_quant: nn.Module, kind: type[nn.Module] = IntQuant) -> FakeQuantPlan | None:
    if type(int_quant) is kind and is_plain(int_quant):
        return fake_quant_plan(int_quant)
    return None


def _fused_value(
    plan: FakeQuantPlan,
    int_quant: Any,
    bit_width_impl: nn.Module,
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bit_width: Tensor,
    *output_grid: Tensor | None,
) -> Tensor:
    """Quantize in one operation, compiled where asked for; zero point None stands for zero."""
    x = viewed(int_quant, x)
    if config.JIT_ENABLED and can_run_region(x):
        key = (plan, int_quant.signed, int_quant.narrow_range)
        arguments = (x, scale, zero_point, bit_width, *output_grid)
        value = value_in_region(key, lambda: quantize_program(*key), *arguments)
        if value is not None:
            return value
    # Tracers know the operation by its name in this file.
    lower, upper = bounds(int_quant, bit_width_impl, bit_width)
    return fake_quant(x, scale, zero_point, lower, upper, plan, *output_grid)


def _check_range(int_quant: Any, bit_width_impl: nn.Module) -> None:
    """Refuse a constant bit width at which zero is the only integer."""
    is_ours = type(int_quant) in (IntQuant, DecoupledIntQuant)
    if is_ours and type(bit_width_impl) is BitWidthConst:
        bits = bit_width_impl.number
        lower, upper = constant_bounds(int_quant.signed, int_quant.narrow_range, bits)
        if lower == upper:
            raise ValueError(
                f"bit_width={bits}: a narrow range leaves only the integer 0; expected at least "
                "2 bits, narrow_range=False, or a binary quantizer."
            )


class RescalingIntQuant(nn.Module):
    """Integer quantizer whose parts give scale, zero point and bit width at each call.

    ``scale = scaling_impl(x, int_scaling_impl(bit_width))``, then
    ``y = (clamp(round(x / scale + zero_point)) - zero_point) * scale``.

    The parts declare; a plan derived from them executes one fused operation, under
    ``BREVITAS_JIT=1`` one compiled region with the scale in it. A part that is not ours by exact
    type, or carries a hook, makes the quantizer run module by module, with equal values.

    Args:
        int_quant: rounds and clamps, see ``IntQuant``.
        scaling_impl: ``(x, threshold) -> scale``.
        int_scaling_impl: ``bit_width -> threshold``, the integer that the statistic maps to.
        zero_point_impl: ``(x, scale, bit_width) -> zero point``.
        bit_width_impl: ``() -> bit width``.

    Example:
        >>> from brevitas.core.scaling import ConstScaling, IntScaling
        >>> from brevitas.core.zero_point import ZeroZeroPoint
        >>> tensor_quant = RescalingIntQuant(
        ...     int_quant=IntQuant(narrow_range=False, signed=True),
        ...     scaling_impl=ConstScaling(1.0),
        ...     int_scaling_impl=IntScaling(signed=True, narrow_range=False),
        ...     zero_point_impl=ZeroZeroPoint(),
        ...     bit_width_impl=BitWidthConst(3))
        >>> value, scale, zero_point, bit_width = tensor_quant(torch.tensor([0.6, -9.0]))
        >>> value, scale
        (tensor([ 0.5000, -1.0000]), tensor(0.2500))
    """

    def __init__(
        self,
        int_quant: nn.Module,
        scaling_impl: nn.Module,
        int_scaling_impl: nn.Module,
        zero_point_impl: nn.Module,
        bit_width_impl: nn.Module,
    ) -> None:
        super().__init__()
        check_parts(
            int_quant=int_quant,
            scaling_impl=scaling_impl,
            int_scaling_impl=int_scaling_impl,
            zero_point_impl=zero_point_impl,
            bit_width_impl=bit_width_impl,
        )
        _check_range(int_quant, bit_width_impl)
        self.int_quant = int_quant
        self.scaling_impl = scaling_impl
        self.int_scaling_impl = int_scaling_impl
        self.zero_point_impl = zero_point_impl
        # The attribute's name is a checkpoint key and older than the part's.
        self.msb_clamp_bit_width_impl = bit_width_impl
        #: How the parts run, kept by `recipe_of`; copies find their own.
        self.recipe: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "recipe": None}

    @property
    def is_fused(self) -> bool:
        """True where the parts, as they are now, run as one operation."""
        return _plan_of(self.int_quant) is not None

    def quantize_rectified(self, x: Tensor) -> QuantOutput | None:
        """Return the outputs for ``max(x, 0)``, with one look at ``x``; None where that needs two.

        It does where the scale depends on ``max(x, 0)``, or where the integers start below zero.
        """
        if not is_plain_eager(x):
            return None
        recipe = recipe_of(self)
        plan = recipe.direct_plan(rectifies=True)
        source = None if plan is None else source_before_rectified(recipe.scaling, x)
        if plan is None or source is None:
            return None
        return self._quantize(x, recipe, plan, source)

    def _quantize(
        self, x: Tensor, recipe: Recipe, plan: FakeQuantPlan, source: ScaleSource | None = None
    ) -> QuantOutput:
        """Quantize without calling the parts, compiled where asked for."""
        if config.JIT_ENABLED and can_run_region(x):
            outputs = quantize_in_region(self, x, plan, source)
            if outputs is not None:
                value, scale, zero_point, bit_width = outputs
                value = value_on_scale(recipe, x, scale, plan) if value is None else value
                return value, scale, zero_point, bit_width
        return quantize_directly(recipe, x, plan, source)

    def forward(self, x: Tensor) -> QuantOutput:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x``."""
        if is_plain_eager(x):
            recipe = recipe_of(self)
            plan = recipe.direct_plan()
            if plan is not None:
                return self._quantize(x, recipe, plan)
        parts: dict[str, Any] = self._modules
        int_quant, bit_width_impl = parts["int_quant"], parts["msb_clamp_bit_width_impl"]
        zero_point_impl = parts["zero_point_impl"]
        plan = _plan_of(int_quant)
        outputs = None
        if plan is not None and config.JIT_ENABLED and can_run_region(x):
            outputs = quantize_in_region(self, x, plan)
        if outputs is None:
            bit_width = bit_width_impl()
            scale = parts["scaling_impl"](x, parts["int_scaling_impl"](bit_width))
            zero_point = zero_point_impl(x, scale, bit_width)
            outputs = (None, scale, zero_point, bit_width)
        value, scale, zero_point, bit_width = outputs
        if plan is None:
            value = int_quant(scale, zero_point, bit_width, x)
        elif value is None:
            shift = None if is_zero(zero_point_impl) else zero_point
            value = _fused_value(plan, int_quant, bit_width_impl, x, scale, shift, bit_width)
        return value, scale, zero_point, bit_width


class DecoupledRescalingIntQuant(nn.Module):
    """Integer quantizer that finds integers on one grid and places them on another.

    ``y = (clamp(round(x / pre_scale + pre_zero_point)) - zero_point) * scale`` with
    ``pre_scale = pre_scaling_impl(x) / threshold``, ``scale = scaling_impl(x, threshold)`` and
    ``threshold = int_scaling_impl(bit_width)``. It runs as ``RescalingIntQuant`` does: fused where
    the parts are ours, module by module elsewhere, with equal values.

    Args:
        decoupled_int_quant: rounds and clamps, see ``DecoupledIntQuant``.
        pre_scaling_impl: ``x -> pre-scale``, before it is divided by the threshold.
        scaling_impl: ``(x, threshold) -> scale``.
        int_scaling_impl: ``bit_width -> threshold``, the integer that the statistic maps to.
        pre_zero_point_impl: ``(x, pre-scale, bit_width) -> zero point`` of the integers' grid.
        zero_point_impl: ``(x, scale, bit_width) -> zero point`` of the result.
        bit_width_impl: ``() -> bit width``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8WeightPerChannelFloatDecoupled
        >>> layer = QuantLinear(2, 4, weight_quant=Int8WeightPerChannelFloatDecoupled)
        >>> value, scale, zero_point, bit_width, pre_scale, pre_zero_point = (
        ...     layer.weight_quant.tensor_quant(layer.weight))
        >>> pre_scale.shape, bit_width
        (torch.Size([4, 1]), tensor(8.))
    """

    def __init__(
        self,
        decoupled_int_quant: nn.Module,
        pre_scaling_impl: nn.Module,
        scaling_impl: nn.Module,
        int_scaling_impl: nn.Module,
        pre_zero_point_impl: nn.Module,
        zero_point_impl: nn.Module,
        bit_width_impl: nn.Module,
    ) -> None:
        super().__init__()
        check_parts(
            decoupled_int_quant=decoupled_int_quant,
            pre_scaling_impl=pre_scaling_impl,
            scaling_impl=scaling_impl,
            int_scaling_impl=int_scaling_impl,
            pre_zero_point_impl=pre_zero_point_impl,
            zero_point_impl=zero_point_impl,
            bit_width_impl=bit_width_impl,
        )
        _check_range(decoupled_int_quant, bit_width_impl)
        self.decoupled_int_quant = decoupled_int_quant
        self.pre_scaling_impl = pre_scaling_impl
        self.scaling_impl = scaling_impl
        self.int_scaling_impl = int_scaling_impl
        self.pre_zero_point_impl = pre_zero_point_impl
        self.zero_point_impl = zero_point_impl
        self.msb_clamp_bit_width_impl = bit_width_impl

    @property
    def is_fused(self) -> bool:
        """True where the parts, as they are now, run as one operation."""
        return _plan_of(self.decoupled_int_quant, DecoupledIntQuant) is not None

    def _quantize(
        self, x: Tensor, pre_scale: Tensor, threshold: Tensor, bit_width: Tensor
    ) -> DecoupledOutput:
        pre_zero_point_impl, zero_point_impl = self.pre_zero_point_impl, self.zero_point_impl
        pre_zero_point = pre_zero_point_impl(x, pre_scale, bit_width)
        scale = self.scaling_impl(x, threshold)
        zero_point = zero_point_impl(x, scale, bit_width)
        int_quant = self.decoupled_int_quant
        plan = _plan_of(int_quant, DecoupledIntQuant)
        if plan is None:
            value = int_quant(pre_scale, pre_zero_point, scale, zero_point, bit_width, x)
        else:
            shift = None if is_zero(pre_zero_point_impl) else pre_zero_point
            output = (scale, None if is_zero(zero_point_impl) else zero_point)
            operands = (x, pre_scale, shift, bit_width, *output)
            value = _fused_value(plan, int_quant, self.msb_clamp_bit_width_impl, *operands)
        return value, scale, zero_point, bit_width, pre_scale, pre_zero_point

    def forward(self, x: Tensor) -> DecoupledOutput:
        """Return ``(value, scale, zero_point, bit_width, pre_scale, pre_zero_point)`` of ``x``."""
        bit_width = self.msb_clamp_bit_width_impl()
        threshold = self.int_scaling_impl(bit_width)
        pre_scale = self.pre_scaling_impl(x) / threshold
        return self._quantize(x, pre_scale, threshold, bit_width)


class DecoupledRescalingIntQuantWithInput(DecoupledRescalingIntQuant):
    """As ``DecoupledRescalingIntQuant``, with a pre-scale that depends on the layer's input.

    ``pre_scale = pre_scaling_impl(x, input_bit_width, input_is_signed)`` is the step itself: to
    divide it would loosen the bound that it keeps.

    Args:
        decoupled_int_quant: rounds and clamps, see ``DecoupledIntQuant``.
        pre_scaling_impl: ``(x, input bit width, input sign) -> pre-scale``.
        scaling_impl: ``(x, threshold) -> scale``.
        int_scaling_impl: ``bit_width -> threshold``, the integer that the statistic maps to.
        pre_zero_point_impl: ``(x, pre-scale, bit_width) -> zero point`` of the integers' grid.
        zero_point_impl: ``(x, scale, bit_width) -> zero point`` of the result.
        bit_width_impl: ``() -> bit width``.

    Example:
        >>> from brevitas.nn import QuantLinear
        >>> from brevitas.quant import Int8AccumulatorAwareWeightQuant
        >>> layer = QuantLinear(2, 4, weight_quant=Int8AccumulatorAwareWeightQuant)
        >>> len(layer.weight_quant.tensor_quant(layer.weight, torch.tensor(8.0), True))
        6
    """

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, input_bit_width: Tensor, input_is_signed: bool
    ) -> DecoupledOutput:
        """Return ``(value, scale, zero_point, bit_width, pre_scale, pre_zero_point)`` of ``x``.

        Args:
            x: the weight.
            input_bit_width: bits of the layer's input, 0-d.
            input_is_signed: whether the integers of the layer's input have a sign.
        """
        bit_width = self.msb_clamp_bit_width_impl()
        threshold = self.int_scaling_impl(bit_width)
        pre_scale = self.pre_scaling_impl(x, input_bit_width, input_is_signed)
        return self._quantize(x, pre_scale, threshold, bit_width)


class PrescaledRestrictIntQuant(nn.Module):
    """Integer quantizer for a given scale, without zero point: the bias of a quantized layer.

    ``y = clamp(round(x / scale)) * scale`` with ``scale = input scale * weight scale``.

    Args:
        int_quant: rounds and clamps, see ``IntQuant``.
        bit_width_impl: ``() -> bit width``.

    Example:
        >>> bias_quant = PrescaledRestrictIntQuant(IntQuant(False, True), BitWidthConst(16))
        >>> bias_quant(torch.tensor([0.26]), torch.tensor(0.1))[0]
        tensor([0.3000])
    """

    def __init__(self, int_quant: nn.Module, bit_width_impl: nn.Module) -> None:
        super().__init__()
        check_parts(int_quant=int_quant, bit_width_impl=bit_width_impl)
        _check_range(int_quant, bit_width_impl)
        self.int_quant = int_quant
        self.msb_clamp_bit_width_impl = bit_width_impl
        self.zero_point = StatelessBuffer(0.0)

    @property
    def is_fused(self) -> bool:
        """True where the parts, as they are now, run as one operation."""
        return _plan_of(self.int_quant) is not None

    def _quantize(self, x: Tensor, scale: Tensor, bit_width: Tensor) -> QuantOutput:
        zero_point = self.zero_point()
        int_quant = self.int_quant
        plan = _plan_of(int_quant)
        if plan is None:
            return int_quant(scale, zero_point, bit_width, x), scale, zero_point, bit_width
        shift = None if number_of(self._modules.get("zero_point")) == 0.0 else zero_point
        bit_width_impl = self.msb_clamp_bit_width_impl
        value = _fused_value(plan, int_quant, bit_width_impl, x, scale, shift, bit_width)
        return value, scale, zero_point, bit_width

    def forward(self, x: Tensor, scale: Tensor) -> QuantOutput:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x`` at the given ``scale``."""
        return self._quantize(x, scale, self.msb_clamp_bit_width_impl())


class PrescaledRestrictIntQuantWithInputBitWidth(PrescaledRestrictIntQuant):
    """As ``PrescaledRestrictIntQuant``, with a bit width that depends on the accumulator's.

    Args:
        int_quant: rounds and clamps, see ``IntQuant``.
        bit_width_impl: ``accumulator bit width -> bit width``.

    Example:
        >>> from brevitas.core.bit_width import MsbClampBitWidth
        >>> removed = MsbClampBitWidth(BitWidthConst(2), 2, 32)
        >>> quant = PrescaledRestrictIntQuantWithInputBitWidth(IntQuant(False, True), removed)
        >>> quant(torch.tensor([0.26]), torch.tensor(0.1), torch.tensor(10.0))[3]
        tensor(8.)
    """

    def forward(self, x: Tensor, scale: Tensor, input_bit_width: Tensor) -> QuantOutput:
        """Return ``(value, scale, zero_point, bit_width)`` of ``x`` at the given ``scale``."""
        return self._quantize(x, scale, self.msb_clamp_bit_width_impl(input_bit_width))
