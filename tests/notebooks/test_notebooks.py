"""Every notebook runs, and what is stored in it is what it prints today."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for name in ("matplotlib", "nbclient", "sklearn", "onnxruntime", "qonnx.core.modelwrapper"):
    pytest.importorskip(name)

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))

# A number as notebooks print it: 8, -0.25, 3.1e-05.
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
# Cells with this tag print what a training reached: the last digits depend on the processor, so
# that only their words and the number of their numbers are compared. What the text around them
# claims is asserted in the cell.
TRAINED = "trained"


@pytest.fixture
def refresh(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("refresh")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: Any) -> str:
    """The text of all outputs of a cell."""
    return "".join(
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in cell.outputs
    )


def kinds(cell: Any) -> list[str]:
    """What sorts of output a cell has."""
    return [
        output.get("name") or ", ".join(sorted(output.get("data", {}))) for output in cell.outputs
    ]


def same_text(stored: str, fresh: str, trained: bool) -> bool:
    """Equal words, and numbers equal up to one unit of the last printed digit."""
    words = [NUMBER.sub("#", re.sub(r" +", " ", text)) for text in (stored, fresh)]
    numbers = [NUMBER.findall(text) for text in (stored, fresh)]
    if words[0] != words[1] or len(numbers[0]) != len(numbers[1]):
        return False
    return trained or all(map(_close, *numbers))


def _close(first: str, second: str) -> bool:
    return abs(float(first) - float(second)) <= 1.001 * max(_unit(first), _unit(second))


def _unit(number: str) -> float:
    """What one unit of the last digit is worth; integers must be equal."""
    mantissa, _, exponent = number.partition("e")
    digits = len(mantissa.partition(".")[2])
    return 0.0 if digits == 0 and not exponent else 10.0 ** (int(exponent or 0) - digits)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_prints_what_is_stored(refresh: ModuleType, name: str) -> None:
    stored = refresh.read(FOLDER / name)
    fresh = refresh.execute(FOLDER / name)

    for old, new in zip(code_cells(stored), code_cells(fresh), strict=True):
        at = f"{name}, {new.id}"
        assert "stderr" not in kinds(new), f"{at} warns:\n{printed(new)}"
        assert kinds(old) == kinds(new), f"{at}: run `make notebooks` and commit the notebook"
        trained = TRAINED in new.metadata.get("tags", [])
        assert same_text(printed(old), printed(new), trained), (
            f"{at}: run `make notebooks` and commit it.\nStored:\n{printed(old)}\n"
            f"Now:\n{printed(new)}"
        )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_stored_notebook_holds_nothing_of_the_machine(refresh: ModuleType, name: str) -> None:
    path = FOLDER / name
    text = path.read_text(encoding="utf-8")
    assert text == refresh.text_of(refresh.clean(refresh.read(path))), "run `make notebooks`"
    everything_printed = "".join(map(printed, code_cells(refresh.read(path))))
    assert not re.search(r"/\w+/\w+|\w:\\|0x[0-9a-f]{6}", everything_printed)
    assert [cell.execution_count for cell in code_cells(refresh.read(path))] == [
        *range(1, 1 + len(code_cells(refresh.read(path))))
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_asserts_its_claims(refresh: ModuleType, name: str) -> None:
    cells = code_cells(refresh.read(FOLDER / name))
    asserts = [node for cell in cells for node in ast.walk(ast.parse(cell.source))]
    assert sum(isinstance(node, ast.Assert) for node in asserts) >= 10


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_a_notebook_links_to_exists(refresh: ModuleType, name: str) -> None:
    notebook = refresh.read(FOLDER / name)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_there_are_notebooks_and_the_folder_lists_them() -> None:
    listed = re.findall(r"\]\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert sorted(listed) == NOTEBOOKS != []


@pytest.mark.parametrize(
    ("stored", "fresh", "trained", "same"),
    [
        ("scale 0.25", "scale 0.25", False, True),
        ("scale 0.25", "scale 0.26", False, True),  # one unit of the last digit
        ("scale 0.25", "scale 0.27", False, False),
        ("scale 0.25", "scale 0.27", True, True),
        ("scale 2.5e-03", "scale 2.6e-03", False, True),
        ("scale 2.5e-03", "scale 2.5e-02", False, False),
        ("8 bits", "7 bits", False, False),
        ("8 bits", "8 bytes", True, False),
        ("1 2", "1 2 3", True, False),
        ("error  0.1", "error 0.1", False, True),  # columns move with the width of a number
    ],
)
def test_the_comparison_of_printed_text(stored: str, fresh: str, trained: bool, same: bool) -> None:
    assert same_text(stored, fresh, trained) is same
