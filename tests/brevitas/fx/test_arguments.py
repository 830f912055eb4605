"""Example inputs find their parameters, and defaults stay valid Python."""

from __future__ import annotations

from typing import Any

import pytest
from torch.fx import PH

from brevitas.fx._arguments import (
    UnsetValueException,
    assert_specialized,
    bind_values,
    default_of,
)


def function(a: Any, b: Any = 1, *rest: Any, c: bool = False, **named: Any) -> None: ...


def bound(concrete: Any, values: Any) -> dict[str, tuple[Any, bool]]:
    return {p.name: (v, f) for p, v, f in bind_values(function, 0, concrete, values)}


def test_by_name_and_by_position() -> None:
    expected = {"a": (1, False), "b": (2, False), "rest": ((3, 4), False), "c": (False, True),
                "named": ({}, False)}  # fmt: skip
    assert bound(None, (1, 2, 3, 4)) == expected
    assert bound({"c": False}, {"a": 1, "b": 2, "rest": (3, 4)}) == expected


def test_concrete_values_win_over_defaults_and_placeholders_do_not_count() -> None:
    found = bound({"b": 5, "a": PH}, {"a": None, "d": 7})
    assert found["b"] == (5, True) and found["a"] == (None, True)
    assert found["named"] == ({"d": 7}, False)


def test_missing_value() -> None:
    with pytest.raises(UnsetValueException, match=r"'a' of function. Accepted: a value for each"):
        bind_values(function, 0, None, {"b": 1})


def test_a_default_never_stands_before_a_required_argument() -> None:
    def required(a: Any, b: Any, c: Any = 3) -> None: ...

    first = bind_values(required, 0, {"a": 1}, {"b": 2})
    assert [default_of(first, i) for i in range(3)] == [(), (), (3,)]
    second = bind_values(required, 0, {"b": 2}, {"a": 1})
    assert [default_of(second, i) for i in range(3)] == [(), (2,), (3,)]


@pytest.mark.parametrize(("value", "expected"), [(1, 2), (1, True), (0, False), ("a", None)])
def test_specialized_values_are_compared_with_their_type(value: Any, expected: Any) -> None:
    with pytest.raises(ValueError, match="name="):
        assert_specialized(value, expected, "name")
    assert_specialized(expected, expected, "name")
