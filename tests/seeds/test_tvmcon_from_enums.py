"""TVMCon tutorial, cells 25 to 28: quantizers defined from scratch with enums."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject import enum
from brevitas.inject.enum import (
    BitWidthImplType,
    FloatToIntImplType,
    QuantType,
    RestrictValueType,
    ScalingImplType,
    StatsOp,
)
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from brevitas.quant.solver import ActQuantSolver, WeightQuantSolver
from seeds.facts import assert_prints
from seeds.learned_quantizers import LearnedIntActPerTensorFloat, LearnedIntWeightPerChannelFloat

CELL_25_IMPORTS = """
from brevitas.inject.enum import *
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.quant.solver import WeightQuantSolver, ActQuantSolver
"""
ENUM_MEMBERS = {
    "QuantType": "INT",
    "BitWidthImplType": "CONST",
    "FloatToIntImplType": "ROUND",
    "ScalingImplType": "STATS",
    "StatsOp": "MAX",
    "RestrictValueType": "FP",
}


def test_s0_40_imports_of_the_enum_driven_interface() -> None:
    space: dict[str, Any] = {}
    exec(CELL_25_IMPORTS, space)
    for name, member in ENUM_MEMBERS.items():
        assert space[name] is getattr(enum, name) and member in space[name].__members__
    assert space["ZeroZeroPoint"] is ZeroZeroPoint
    assert space["WeightQuantSolver"] is WeightQuantSolver
    assert space["ActQuantSolver"] is ActQuantSolver


def cell_25() -> Any:
    class Int8WeightPerTensorFloat(WeightQuantSolver):
        quant_type = QuantType.INT  # integer quantization
        bit_width_impl_type = BitWidthImplType.CONST  # constant bit width
        float_to_int_impl_type = FloatToIntImplType.ROUND  # round to nearest
        scaling_impl_type = ScalingImplType.STATS  # scale based on statistics
        scaling_stats_op = StatsOp.MAX  # scale statistics is the absmax value
        restrict_scaling_type = RestrictValueType.FP  # scale factor is a floating point value
        scaling_per_output_channel = False  # scale is per tensor
        bit_width = 8  # bit width is 8
        signed = True  # quantization range is signed
        narrow_range = True  # quantization range is [-127,127] rather than [-128, 127]
        zero_point_impl = ZeroZeroPoint  # zero point is 0.

    return Int8WeightPerTensorFloat


def cell_26() -> Any:
    class Int8ActPerTensorFloat(ActQuantSolver):
        quant_type = QuantType.INT  # integer quantization
        bit_width_impl_type = BitWidthImplType.CONST  # constant bit width
        float_to_int_impl_type = FloatToIntImplType.ROUND  # round to nearest
        # scale is a parameter initialized from statistics
        scaling_impl_type = ScalingImplType.PARAMETER_FROM_STATS
        scaling_stats_op = StatsOp.PERCENTILE  # scale statistics is a percentile of the abs value
        high_percentile_q = 99.999  # percentile is 99.999
        # statistics are collected for 300 forward steps before switching to a learned parameter
        collect_stats_steps = 300
        restrict_scaling_type = RestrictValueType.FP  # scale is a floating-point value
        scaling_per_output_channel = False  # scale is per tensor
        bit_width = 8  # bit width is 8
        signed = True  # quantization range is signed
        narrow_range = False  # quantization range is [-128, 127] rather than [-127, 127]
        zero_point_impl = ZeroZeroPoint  # zero point is 0.

    return Int8ActPerTensorFloat


def _weight(quantizer: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    return QuantLinear(2, 4, bias=False, weight_quant=quantizer, **options)


def test_s0_41_a_weight_quantizer_from_enums_is_the_predefined_one() -> None:
    written = _weight(cell_25()).quant_weight()
    predefined = _weight(Int8WeightPerTensorFloat).quant_weight()
    assert torch.equal(written.value, predefined.value)
    assert torch.equal(written.scale, predefined.scale)
    layer = _weight(cell_25())
    layer.weight.data = torch.tensor([[-1.0, 1.0]])
    assert layer.quant_weight().int().tolist() == [[-127, 127]]


def test_s0_42_an_activation_quantizer_from_enums_is_the_predefined_one() -> None:
    written, predefined = (
        QuantIdentity(act_quant=quantizer, return_quant_tensor=True)
        for quantizer in (cell_26(), Int8ActPerTensorFloat)
    )
    for _ in range(301):  # through the collection of statistics, into the learned phase
        x = torch.randn(8)
        ours, expected = written(x), predefined(x)
        assert torch.equal(ours.value, expected.value) and torch.equal(ours.scale, expected.scale)
    layer = QuantIdentity(act_quant=cell_26(), return_quant_tensor=True)
    assert layer(torch.tensor([-1.0, 1.0])).int().tolist() == [-128, 127]


def test_s0_43_keywords_have_priority_over_the_quantizer() -> None:
    layer = _weight(cell_25(), weight_bit_width=4, weight_narrow_range=False)
    assert layer.quant_weight().bit_width == 4
    assert layer.weight_quant.is_narrow_range is False
    layer = QuantIdentity(act_quant=cell_26(), bit_width=4, signed=False, return_quant_tensor=True)
    output = layer(torch.tensor([0.0, 1.0]))
    assert output.bit_width == 4 and not output.signed and output.int().tolist() == [0, 15]
    assert cell_25().bit_width == 8, "the class stays what it is"


def cell_27() -> Any:
    torch.manual_seed(0)

    quant_linear = QuantLinear(2, 4, weight_quant=LearnedIntWeightPerChannelFloat, bias=False)
    return quant_linear


def test_s0_44_learned_scale_per_channel_and_learned_bit_width() -> None:
    quant_linear = cell_27()
    quant_weight = quant_linear.quant_weight()
    assert_prints(quant_weight.value, "S0-44", "value")
    assert_prints(quant_weight.scale, "S0-44", "scale")
    assert_prints(quant_weight.bit_width, "S0-44", "bit_width")
    # Learned in the logarithmic domain, from the largest weight of each channel.
    learned = quant_linear.weight_quant.tensor_quant.scaling_impl.value
    assert isinstance(learned, torch.nn.Parameter)
    expected = quant_linear.weight.abs().amax(1, keepdim=True).log2()
    torch.testing.assert_close(learned.detach(), expected.detach())


def test_s0_45_the_bit_width_can_be_learned_through_a_loss() -> None:
    quant_linear = cell_27()
    bit_width = quant_linear.quant_weight().bit_width
    assert bit_width.grad_fn is not None
    optimizer = torch.optim.SGD(quant_linear.parameters(), lr=3.0)
    bit_width.backward()  # a loss that asks for fewer bits
    optimizer.step()
    # The rounding passes the gradient 1 on, so a step of 3 takes away 3 of the 8 bits.
    quant_weight = quant_linear.quant_weight()
    assert quant_weight.bit_width == 5
    assert quant_weight.int().abs().max() == 15


def cell_28() -> Any:
    torch.manual_seed(0)

    float_inp = torch.randn(3, 2)
    quant_linear = QuantLinear(
        2, 4,
        input_quant=LearnedIntActPerTensorFloat,
        weight_quant=LearnedIntWeightPerChannelFloat,
        return_quant_tensor=True, bias=False)  # fmt: skip

    return quant_linear, quant_linear(float_inp)


def test_s0_46_learned_quantizers_of_input_and_weight() -> None:
    _, quant_output = cell_28()
    assert_prints(quant_output.value, "S0-46", "value")
    assert_prints(quant_output.scale, "S0-46", "scale")
    assert_prints(quant_output.bit_width, "S0-46", "bit_width")
    assert quant_output.scale.grad_fn is not None and quant_output.zero_point == 0


def test_s0_47_the_size_of_the_accumulator_reaches_both_bit_widths() -> None:
    quant_linear, quant_output = cell_28()
    quant_output.bit_width.backward()
    offsets = {n: p for n, p in quant_linear.named_parameters() if n.endswith("bit_width_offset")}
    assert sorted(name.partition(".")[0] for name in offsets) == ["input_quant", "weight_quant"]
    for name, offset in offsets.items():
        # One bit more of an operand is about one bit more of a product.
        assert float(offset.grad) == pytest.approx(1.0, abs=0.05), name
        offset.data -= 2 * offset.grad
    smaller = quant_linear(torch.randn(3, 2)).bit_width
    assert smaller == 13, "two bits less of each operand"


def test_s0_64_parameter_from_stats_is_a_parameter_that_starts_from_the_statistic() -> None:
    layer = _weight(Int8WeightPerTensorFloat.let(scaling_impl_type="PARAMETER_FROM_STATS"))
    learned = layer.weight_quant.tensor_quant.scaling_impl.value
    largest = layer.weight.abs().max().item()
    layer.quant_weight()
    assert isinstance(learned, torch.nn.Parameter) and learned.item() == pytest.approx(largest)
    with torch.no_grad():
        layer.weight.mul_(2.0)
    assert layer.quant_weight().scale.item() == pytest.approx(largest / 127), "learned, not taken"
    layer.quant_weight().scale.backward()
    assert learned.grad.item() == pytest.approx(1 / 127)
    with torch.no_grad():
        learned.mul_(3.0)
    assert layer.quant_weight().scale.item() == pytest.approx(3 * largest / 127)
