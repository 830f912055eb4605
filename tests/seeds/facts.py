"""What the five tutorials state, as data, and how a printed number is compared with a tensor.

A test belongs to a row by its name: `test_s0_05_...` checks row `S0-05`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DATA = Path(__file__).parent / "data"
ROW_IN_NAME = re.compile(r"\btest_s(\d)_(\d\d)_")


@cache
def load(name: str) -> Any:
    """Read one of the files in `data`."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def rows() -> dict[str, dict[str, str]]:
    """Map the id of each row to its statement, and to the reason where it cannot be checked."""
    return load("rows.json")["rows"]


def checkable_rows() -> list[str]:
    """List the rows that a test can check."""
    return [row for row, entry in rows().items() if "unchecked" not in entry]


def row_of_test(node: str) -> str | None:
    """Return the row that a test checks by its name, None for a test of something else.

    Example:
        >>> row_of_test("tests/seeds/test_tvmcon.py::test_s0_05_default_weight")
        'S0-05'
    """
    match = ROW_IN_NAME.search(node)
    return f"S{match[1]}-{match[2]}" if match else None


def printed(row: str, name: str) -> dict[str, Any]:
    """Return what a tutorial printed: the texts of the numbers and the shape."""
    return load("numbers.json")[row][name]


def _digits_after_point(text: str) -> int:
    mantissa, _, exponent = text.partition("e")
    return len(mantissa.partition(".")[2]) - int(exponent or 0)


def assert_prints(actual: Tensor | float, row: str, name: str) -> None:
    """Fail unless every number agrees with the printed one in each printed digit.

    Half a unit of the last printed digit is what printing itself rounds away; a millionth of the
    value more is the rounding of float32 at the edge between two printed numbers. A number far
    below the others of its tensor is what is left of a sum of terms as large as they are, and is
    off by one rounding of those: processors add them up in different orders.

    Args:
        actual: What the library gives.
        row: Row whose number was printed.
        name: Name of the number in the row.
    """
    expected = printed(row, name)
    numbers = torch.as_tensor(actual).detach().double()
    if expected["shape"] is not None:
        assert list(numbers.shape) == expected["shape"], f"{row} {name}: {list(numbers.shape)}"
    flat = numbers.flatten().tolist()
    assert len(flat) == len(expected["printed"])
    rounding = torch.finfo(torch.float32).eps * max(map(abs, flat))
    for index, (number, text) in enumerate(zip(flat, expected["printed"], strict=True)):
        tolerance = 0.5 * 10.0 ** -_digits_after_point(text) + 1e-6 * abs(number)
        tolerance = max(tolerance, rounding)
        message = f"{row} {name}[{index}]: printed {text}, found {number!r}"
        assert abs(number - float(text)) <= tolerance, message
