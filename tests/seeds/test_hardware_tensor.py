"""The hardware tutorial: building quantized tensors by hand, printing them, reading integers."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from brevitas.function.ops_ste import round_ste
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor
from seeds.facts import printed

value_1d = torch.arange(0, 10, dtype=torch.float32)
value_2d = torch.arange(0, 16, dtype=torch.float32).reshape(4, 4)
value_3d = torch.arange(0, 32, dtype=torch.float32).reshape(2, 4, 4)

scale_1d, scale_2d, scale_3d = 0.1, 0.2, 0.5
zero_point_1d, zero_point_2d, zero_point_3d = 1.0, 2.0, 3.0
bit_width = 8
signed = False
training = False

shared = {"bit_width": bit_width, "signed": signed, "training": training}


@pytest.fixture
def int_tensor_1d() -> IntQuantTensor:
    return IntQuantTensor(value=value_1d, scale=scale_1d, zero_point=zero_point_1d, **shared)


@pytest.fixture
def int_tensor_2d() -> IntQuantTensor:
    return IntQuantTensor(value=value_2d, scale=scale_2d, zero_point=zero_point_2d, **shared)


@pytest.fixture
def int_tensor_3d() -> IntQuantTensor:
    return IntQuantTensor(value=value_3d, scale=scale_3d, zero_point=zero_point_3d, **shared)


@pytest.fixture
def int_tensors(
    int_tensor_1d: IntQuantTensor, int_tensor_2d: IntQuantTensor, int_tensor_3d: IntQuantTensor
) -> dict[str, IntQuantTensor]:
    """The three tensors of cell 5, by the name under which their integers are printed."""
    return {"1d": int_tensor_1d, "2d": int_tensor_2d, "3d": int_tensor_3d}


def assert_integers(tensor: Tensor, row: str, name: str) -> None:
    """Every integer is the one that the tutorial prints."""
    assert tensor.flatten().tolist() == printed(row, name)


def test_s4_01_imports() -> None:
    qnn = importlib.import_module("brevitas.nn")
    int_quant_tensor = importlib.import_module("brevitas.quant_tensor.int_quant_tensor")

    assert issubclass(qnn.QuantLinear, torch.nn.Linear)
    assert int_quant_tensor.IntQuantTensor is IntQuantTensor


def test_s4_02_plain_numbers_become_tensors(int_tensor_1d: IntQuantTensor) -> None:
    for field in ("value", "scale", "zero_point", "bit_width"):
        assert isinstance(getattr(int_tensor_1d, field), Tensor)
        assert getattr(int_tensor_1d, field).dtype == torch.float32
    assert int_tensor_1d.value is value_1d
    assert int_tensor_1d.scale == torch.tensor(0.1)
    assert int_tensor_1d.zero_point == 1.0
    assert int_tensor_1d.bit_width == 8


def test_s4_03_printed_text(
    int_tensor_1d: IntQuantTensor, int_tensor_2d: IntQuantTensor, int_tensor_3d: IntQuantTensor
) -> None:
    assert str(int_tensor_1d) == printed("S4-03", "str_1d")
    for int_tensor, name in ((int_tensor_2d, "str_2d_tail"), (int_tensor_3d, "str_3d_tail")):
        expected = f"IntQuantTensor(value={int_tensor.value}, {printed('S4-03', name)}"
        assert str(int_tensor) == expected


def test_s4_04_flags_as_booleans_and_as_tensors(int_tensor_3d: IntQuantTensor) -> None:
    assert int_tensor_3d.signed is False
    assert str(int_tensor_3d.signed_t) == "tensor(False)"
    assert int_tensor_3d.training is False
    assert str(int_tensor_3d.training_t) == "tensor(False)"


def test_s4_05_integers_are_value_over_scale_plus_zero_point(
    int_tensors: dict[str, IntQuantTensor],
) -> None:
    for raw_in in int_tensors.values():
        # In float64, where the quotient of the two float32 numbers is as good as exact.
        quotient = raw_in.value.double() / raw_in.scale.double() + raw_in.zero_point.double()
        assert torch.equal(raw_in.int().double(), torch.round(quotient))


@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_s4_06_int_gives_the_smallest_integer_type(
    int_tensors: dict[str, IntQuantTensor], name: str
) -> None:
    real_int_tensor = int_tensors[name].int()

    assert_integers(real_int_tensor, "S4-06", name)
    assert str(real_int_tensor.dtype) == printed("S4-06", "dtype")
    assert real_int_tensor.shape == int_tensors[name].shape


@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_s4_07_int_gives_the_integers_as_floats(
    int_tensors: dict[str, IntQuantTensor], name: str
) -> None:
    real_int_tensor = int_tensors[name].int(float_datatype=True)

    assert_integers(real_int_tensor, "S4-07", name)
    assert str(real_int_tensor.dtype) == printed("S4-07", "dtype")
    assert real_int_tensor.shape == int_tensors[name].shape


@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_s4_08_the_fields_give_the_integers_by_hand(
    int_tensors: dict[str, IntQuantTensor], name: str
) -> None:
    int_tensor = int_tensors[name]
    manual_int_tensor = torch.round((int_tensor.value / int_tensor.scale) + int_tensor.zero_point)
    assert_integers(manual_int_tensor, "S4-07", name)


@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_s4_09_integers_before_rounding(int_tensors: dict[str, IntQuantTensor], name: str) -> None:
    int_tensor = int_tensors[name]
    manual_int_tensor = torch.round(int_tensor._pre_round_int_value)

    assert_integers(manual_int_tensor, "S4-07", name)
    by_hand = int_tensor.value / int_tensor.scale + int_tensor.zero_point
    assert torch.equal(int_tensor._pre_round_int_value, by_hand)
    # Nothing is rounded yet.
    halves = int_tensor.set(zero_point=int_tensor.zero_point + 0.5)
    assert torch.equal(halves._pre_round_int_value, by_hand + 0.5)


@pytest.mark.parametrize("name", ["1d", "2d", "3d"])
def test_s4_10_round_ste_rounds_and_passes_the_gradient(
    int_tensors: dict[str, IntQuantTensor], name: str
) -> None:
    round_ste_int_tensor = round_ste(int_tensors[name]._pre_round_int_value)
    assert_integers(round_ste_int_tensor, "S4-07", name)

    x = torch.tensor([-0.5, 0.4, 1.5, 2.5], requires_grad=True)
    rounded = round_ste(x)
    assert torch.equal(rounded, torch.round(x))
    rounded.backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 4.0]
