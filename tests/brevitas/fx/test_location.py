"""Errors carry the layer and the line of the model, and keep their type."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Tracer

from brevitas.fx._location import explain, user_line


def failing(message: object) -> Exception:
    try:
        raise KeyError(message) if message else AssertionError
    except (KeyError, AssertionError) as error:
        return error


@pytest.mark.parametrize("message", ["text", None])
def test_explain(message: object) -> None:
    tracer = Tracer()
    tracer.root = torch.nn.Linear(1, 1)
    error = failing(message)
    explain(error, tracer, "Remedy: none.")
    text = str(error.args[0])
    assert "Layer: the root (Linear)" in text and "test_location.py:" in text
    assert text.endswith("Remedy: none.")
    tracer.module_stack["a.b"] = ("a.b", torch.nn.ReLU)
    error = failing(message)
    explain(error, tracer)
    assert "Layer: a.b (ReLU) of Linear" in str(error.args[0])


def test_an_error_without_text_keeps_its_arguments() -> None:
    tracer = Tracer()
    tracer.root = torch.nn.ReLU()
    error = failing(3)
    explain(error, tracer)
    assert error.args == (3,)


def test_user_line() -> None:
    assert "test_location.py:" in user_line()
