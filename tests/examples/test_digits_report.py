"""The picture of the digits example: no label lies on the line of the float model."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("matplotlib")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("digits_report")


# Just below the line, on it, above it, far from it.
@pytest.mark.parametrize("gap", [-0.1, 0.0, 0.5, 1.0, 1.3, 2.0, 5.0, 30.0])
@pytest.mark.parametrize("method", ["PTQ", "QAT"])
def test_labels_are_clear_of_the_line(
    report: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gap: float, method: str
) -> None:
    drawn = []
    place = report._label
    monkeypatch.setattr(
        report, "_label", lambda axes, *rest: drawn.append((axes, place(axes, *rest)))
    )
    reference = report.Result("float", 32, 98.3)
    other = {"PTQ": "QAT", "QAT": "PTQ"}[method]
    results = [report.Result(method, 4, 98.3 - gap), report.Result(method, 2, 90.0)]
    results += [report.Result(other, 4, 85.0), report.Result(other, 2, 60.0)]
    file = report.draw_accuracy(reference, results, tmp_path / "accuracy.png")
    assert file.stat().st_size > 0
    ((axes, annotations),) = drawn
    line = axes.transData.transform((0, 98.3))[1]
    assert len(annotations) == 4
    for annotation in annotations:
        box = annotation.get_window_extent()
        assert not box.y0 <= line <= box.y1, annotation.get_text()
        assert axes.bbox.y0 < box.y0 and box.y1 < axes.bbox.y1
