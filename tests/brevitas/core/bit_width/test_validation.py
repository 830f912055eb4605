"""What may be passed as a number of bits."""

from __future__ import annotations

import pytest
import torch

from brevitas.core.bit_width._validation import check_bit_width


@pytest.mark.parametrize("value", [8, 8.0, torch.tensor(8), torch.tensor(8.0)])
def test_integers_of_every_kind(value: object) -> None:
    result = check_bit_width(value, "bit_width", 1)
    assert result == 8 and type(result) is int


@pytest.mark.parametrize("value", [0, -1, 3.5, float("nan"), float("inf"), torch.tensor(2.5)])
def test_wrong_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="bit_width=.*: expected an int >= 1"):
        check_bit_width(value, "bit_width", 1)


@pytest.mark.parametrize("value", [True, "4", None, [4], torch.tensor([4, 4])])
def test_no_numbers(value: object) -> None:
    with pytest.raises(TypeError, match="bit_width=.*: expected an int >= 1"):
        check_bit_width(value, "bit_width", 1)


def test_more_bits_than_any_integer_type_has():
    assert check_bit_width(64, "bit_width", 1) == 64
    with pytest.raises(ValueError, match="bit_width=65: expected an int <= 64"):
        check_bit_width(65, "bit_width", 1)
