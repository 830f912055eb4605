"""Every row of the tutorials has a test, and the page that lists them is the one in `docs`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from seeds.facts import checkable_rows, row_of_test, rows
from seeds.report import TABLE, render

FOLDER = Path(__file__).parent


def _tests() -> list[str]:
    """Node ids of the tests of rows, without parameters."""
    return [
        f"tests/seeds/{path.name}::{node.name}"
        for path in sorted(FOLDER.glob("test_*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and row_of_test(node.name + "_")
    ]


def test_every_row_that_can_be_checked_has_a_test() -> None:
    tested = {row_of_test(test) for test in _tests()}
    assert sorted(set(checkable_rows()) - tested) == []


def test_every_test_belongs_to_a_row_that_can_be_checked() -> None:
    unknown = [test for test in _tests() if row_of_test(test) not in checkable_rows()]
    assert unknown == []


def test_the_page_lists_every_row_as_passing() -> None:
    if not TABLE.exists():
        pytest.fail(f"{TABLE.name} is missing; it is written at the end of a full run: commit it")
    expected = render(dict.fromkeys(_tests(), True))
    assert TABLE.read_text(encoding="utf-8") == expected, "out of date: commit it after a full run"


def test_a_failing_test_shows_in_the_page() -> None:
    passed = dict.fromkeys(_tests(), True)
    row = checkable_rows()[0]
    passed[next(test for test in passed if row_of_test(test) == row)] = False
    lines = render(passed).splitlines()
    assert [line for line in lines if "| fails |" in line] == [
        line for line in lines if line.startswith(f"| {row} |")
    ]
    assert len(rows()) == sum(line.startswith("| S") for line in lines)
