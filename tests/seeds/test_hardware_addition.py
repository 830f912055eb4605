"""The hardware tutorial: sums of quantized tensors against sums of their integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from seeds.facts import printed
from seeds.hardware import quant_add, quant_tensor


def int_tensor(value: Tensor, scale: float, zero_point: float, bit_width: int) -> IntQuantTensor:
    """An unsigned tensor outside training, as cells 19 and 20 build it."""
    return IntQuantTensor(
        value=value,
        scale=scale,
        zero_point=zero_point,
        bit_width=bit_width,
        signed=False,
        training=False,
    )


value_1 = torch.arange(1, 5, dtype=torch.float32)
value_2 = torch.arange(2, 6, dtype=torch.float32)


@pytest.fixture
def operands() -> tuple[IntQuantTensor, IntQuantTensor]:
    """The two tensors of cell 20: one scale, two zero points, two bit widths."""
    scale = 0.2
    zero_point_1, zero_point_2 = 2.5, 3.5
    bit_width_1, bit_width_2 = 6, 8

    int_tensor_1 = int_tensor(value_1, scale, zero_point_1, bit_width_1)
    int_tensor_2 = int_tensor(value_2, scale, zero_point_2, bit_width_2)
    return int_tensor_1, int_tensor_2


def test_s4_17_a_sum_of_different_scales_is_an_error() -> None:
    int_tensor_1 = int_tensor(value_1, scale=0.2, zero_point=2.5, bit_width=6)
    int_tensor_2 = int_tensor(value_2, scale=0.5, zero_point=3.5, bit_width=8)

    with pytest.raises(RuntimeError) as error:
        int_tensor_1 + int_tensor_2
    assert str(error.value).splitlines()[0] == "Scaling factors are different"


def test_s4_18_a_sum_of_equal_scales(operands: tuple[IntQuantTensor, IntQuantTensor]) -> None:
    int_tensor_1, int_tensor_2 = operands
    int_tensor_result = int_tensor_1 + int_tensor_2

    common = "bit_width={}.0, signed_t=False, training_t=False)"
    scale = "scale=0.20000000298023224"
    assert str(int_tensor_1) == (
        f"IntQuantTensor(value=tensor([1., 2., 3., 4.]), {scale}, zero_point=2.5, "
        + common.format(6)
    )
    assert str(int_tensor_2) == (
        f"IntQuantTensor(value=tensor([2., 3., 4., 5.]), {scale}, zero_point=3.5, "
        + common.format(8)
    )
    assert str(int_tensor_result) == printed("S4-18", "str")


def test_s4_19_rounding_first_gives_another_sum(
    operands: tuple[IntQuantTensor, IntQuantTensor],
) -> None:
    int_tensor_1, int_tensor_2 = operands
    rounded_int_tensor_1 = quant_tensor(int_tensor_1)
    rounded_int_tensor_2 = quant_tensor(int_tensor_2)
    rounded_int_tensor_result = rounded_int_tensor_1 + rounded_int_tensor_2
    rounded_old_int_tensor_result = quant_tensor(int_tensor_1 + int_tensor_2)

    assert rounded_int_tensor_1.tolist() == printed("S4-19", "a")
    assert rounded_int_tensor_2.tolist() == printed("S4-19", "b")
    assert rounded_int_tensor_result.tolist() == printed("S4-19", "sum")
    assert rounded_old_int_tensor_result.tolist() == printed("S4-19", "quantized_sum")


def test_s4_20_the_sum_is_that_of_the_integers_before_rounding(
    operands: tuple[IntQuantTensor, IntQuantTensor],
) -> None:
    int_tensor_1, int_tensor_2 = operands
    unround_int_tensor_1 = int_tensor_1.value / int_tensor_1.scale + int_tensor_1.zero_point
    unround_int_tensor_2 = int_tensor_2.value / int_tensor_2.scale + int_tensor_2.zero_point
    unround_int_tensor_sum = unround_int_tensor_1 + unround_int_tensor_2
    simulated_int_tensor_sum = torch.round(unround_int_tensor_sum)

    assert unround_int_tensor_1.tolist() == printed("S4-20", "a")
    assert unround_int_tensor_2.tolist() == printed("S4-20", "b")
    assert unround_int_tensor_sum.tolist() == printed("S4-20", "sum")
    assert simulated_int_tensor_sum.tolist() == printed("S4-20", "sum")
    assert torch.equal(simulated_int_tensor_sum, quant_tensor(int_tensor_1 + int_tensor_2))


def test_s4_21_addition_by_hand_is_that_of_the_rounded_integers(
    operands: tuple[IntQuantTensor, IntQuantTensor],
) -> None:
    int_tensor_1, int_tensor_2 = operands
    result = quant_add(int_tensor_1, int_tensor_2, quant_type=True)

    assert str(result) == printed("S4-21", "str")
    assert result.is_valid
    assert torch.equal(quant_add(int_tensor_1, int_tensor_2), result.value)


def test_s4_21_addition_by_hand_takes_the_wider_format(
    operands: tuple[IntQuantTensor, IntQuantTensor],
) -> None:
    int_tensor_1, int_tensor_2 = operands
    signed_in_training = int_tensor_1.set(signed=True, training=True)
    result = quant_add(signed_in_training, int_tensor_2, quant_type=True)

    assert result.signed is True
    assert result.training is True
    assert result.bit_width == 9
    assert result.int().tolist() == printed("S4-19", "sum")
