"""The expectations of the digits example notice what they are there for."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest

for name in ("matplotlib", "sklearn", "onnxruntime", "qonnx.core.modelwrapper"):
    pytest.importorskip(name)

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("digits")


@pytest.mark.parametrize(("steps_apart", "count"), [(0.0, 0), (1.0, 0), (2.0, 1), (math.nan, 1)])
def test_outputs_more_than_a_step_apart_or_not_comparable(
    digits: ModuleType, steps_apart: float, count: int
) -> None:
    found = digits.RuntimeResult(98.0, 0, 0.0, steps_apart, 1)
    result = digits.Result("PTQ", 8, 98.0, runtimes={"ONNX Runtime": found})
    assert len(digits.failures(digits.Result("float", 32, 98.0), [result])) == count


def test_an_accuracy_that_is_no_number_fails(digits: ModuleType) -> None:
    result = digits.Result("PTQ", 8, math.nan)
    assert len(digits.failures(digits.Result("float", 32, 98.0), [result])) == 1
