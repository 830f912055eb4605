"""The hardware tutorial: integers that do not fit the bit width, and limiting them by hand."""

from __future__ import annotations

import pytest
import torch

from brevitas.function.ops_ste import round_ste
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from seeds.facts import printed
from seeds.hardware import quant_tensor


@pytest.fixture
def new_quant_tensor() -> IntQuantTensor:
    """The tensor of cell 12: integers of 0 to 91 in unsigned 4 bits."""
    value_1d = torch.arange(0, 10, dtype=torch.float32)
    scale_1d = 0.1
    zero_point_1d = 1
    bit_width = 4
    signed = False

    return IntQuantTensor(
        value=value_1d,
        scale=scale_1d,
        zero_point=zero_point_1d,
        bit_width=bit_width,
        signed=signed,
        training=False,
    )


@pytest.fixture
def signed_quant_tensor() -> IntQuantTensor:
    """The tensor of cell 16: negative values, a zero point of 15, signed 4 bits."""
    value_1d = -1.0 * torch.arange(0, 10, dtype=torch.float32)
    scale_1d = 0.1
    zero_point_1d = 15
    bit_width = 4
    signed = True

    return IntQuantTensor(
        value=value_1d,
        scale=scale_1d,
        zero_point=zero_point_1d,
        bit_width=bit_width,
        signed=signed,
        training=False,
    )


@pytest.fixture
def int_tensors() -> dict[str, IntQuantTensor]:
    """The three tensors of cell 18."""
    value_1d = torch.arange(0, 10, dtype=torch.float32)
    value_2d = -1.0 * torch.arange(0, 16, dtype=torch.float32).reshape(4, 4)
    value_3d = torch.arange(0, 32, dtype=torch.float32).reshape(2, 4, 4)
    rows = {
        "1d": (value_1d, 0.5, 1.5, False),
        "2d": (value_2d, 0.2, 2.5, True),
        "3d": (value_3d, 0.1, 3.5, False),
    }
    return {
        name: IntQuantTensor(
            value=value,
            scale=scale,
            zero_point=zero_point,
            bit_width=4,
            signed=signed,
            training=False,
        )
        for name, (value, scale, zero_point, signed) in rows.items()
    }


def test_s4_11_a_tensor_out_of_range_can_be_built_and_printed(
    new_quant_tensor: IntQuantTensor,
) -> None:
    assert str(new_quant_tensor) == printed("S4-11", "str")
    assert not new_quant_tensor.is_valid


@pytest.mark.parametrize("float_datatype", [True, False])
def test_s4_12_int_of_a_tensor_out_of_range_is_an_error(
    new_quant_tensor: IntQuantTensor, float_datatype: bool
) -> None:
    with pytest.raises(RuntimeError) as caught:
        new_quant_tensor.int(float_datatype=float_datatype)
    first_line, details = str(caught.value).splitlines()
    assert first_line == "IntQuantTensor not valid."
    assert details.startswith("8 of 10 integers are out of range: found 1 to 91, accepted 0 to 15")


@pytest.mark.parametrize("rounding", [torch.round, round_ste])
def test_s4_13_rounding_by_hand_does_not_limit(new_quant_tensor: IntQuantTensor, rounding) -> None:
    manual_round_int_tensor = rounding(new_quant_tensor._pre_round_int_value)
    assert manual_round_int_tensor.tolist() == printed("S4-13", "values")


@pytest.mark.parametrize("rounding", [torch.round, round_ste])
def test_s4_14_the_bit_width_limits_integers_by_hand(
    new_quant_tensor: IntQuantTensor, rounding
) -> None:
    manual_round_int_tensor_1d = rounding(new_quant_tensor._pre_round_int_value)
    limited_round_int_tensor_1d = torch.where(
        manual_round_int_tensor_1d >= ((2**new_quant_tensor.bit_width) - 1),
        torch.full_like(manual_round_int_tensor_1d, ((2**new_quant_tensor.bit_width) - 1)),
        manual_round_int_tensor_1d,
    )
    assert limited_round_int_tensor_1d.tolist() == printed("S4-14", "values")


@pytest.mark.parametrize("rounding", [torch.round, round_ste])
def test_s4_15_signed_integers_are_limited_on_both_sides(
    signed_quant_tensor: IntQuantTensor, rounding
) -> None:
    assert str(signed_quant_tensor) == printed("S4-15", "str")

    manual_round_int_tensor_1d = rounding(signed_quant_tensor._pre_round_int_value)
    assert manual_round_int_tensor_1d.tolist() == printed("S4-15", "unclamped")

    highest = (2 ** (signed_quant_tensor.bit_width - 1)) - 1
    lowest = -1.0 * (2 ** (signed_quant_tensor.bit_width - 1))
    limited_round_int_tensor_1d = torch.where(
        manual_round_int_tensor_1d >= highest,
        torch.full_like(manual_round_int_tensor_1d, highest),
        torch.where(
            manual_round_int_tensor_1d <= lowest,
            torch.full_like(manual_round_int_tensor_1d, lowest),
            manual_round_int_tensor_1d,
        ),
    )
    assert limited_round_int_tensor_1d.tolist() == printed("S4-15", "clamped")


def test_s4_16_a_function_by_hand_rounds_and_limits(
    int_tensors: dict[str, IntQuantTensor],
) -> None:
    quantized_int_tensor_1d = quant_tensor(int_tensors["1d"], quant_type=True)

    assert isinstance(quantized_int_tensor_1d, IntQuantTensor)
    integers = quantized_int_tensor_1d.value.tolist()
    assert integers[:4] == printed("S4-16", "first_values")
    # The rest of the print is lost: every half rounds to the even integer, up to the limit.
    halves = [2 * value + 1.5 for value in range(10)]
    assert integers == [min(round(half), 15) for half in halves]
    assert quantized_int_tensor_1d.bit_width == 4
    assert quantized_int_tensor_1d.is_valid


def test_s4_16_the_function_serves_training_too(
    int_tensors: dict[str, IntQuantTensor],
) -> None:
    for test_int_tensor in int_tensors.values():
        in_training = test_int_tensor.set(training=True)
        assert torch.equal(quant_tensor(in_training), quant_tensor(test_int_tensor))


def test_s4_23_printed_text_of_halves_in_zero_points(
    int_tensors: dict[str, IntQuantTensor],
) -> None:
    tails = {
        "1d": "scale=0.5, zero_point=1.5, bit_width=4.0, signed_t=False, training_t=False)",
        "2d": "scale=0.20000000298023224, zero_point=2.5, bit_width=4.0, signed_t=True, "
        "training_t=False)",
        "3d": "scale=0.10000000149011612, zero_point=3.5, bit_width=4.0, signed_t=False, "
        "training_t=False)",
    }
    for name, tail in tails.items():
        test_int_tensor = int_tensors[name]
        assert str(test_int_tensor) == f"IntQuantTensor(value={test_int_tensor.value}, {tail}"
