"""The ways to give example inputs, and plain tensors in place of quantized ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.inputs import plain_signature, plain_values, solve_inputs
from brevitas.export.common.spec import ExportError
from brevitas.quant_tensor import IntQuantTensor


def quantized(value: Tensor) -> IntQuantTensor:
    return IntQuantTensor(value, 1.0, 0.0, 8.0, True, False)


def test_inputs() -> None:
    model, x = nn.Linear(2, 2), torch.ones(2)
    assert solve_inputs(model, x, None, None) == (x,)
    assert solve_inputs(model, (x, x), None, None) == (x, x)
    assert solve_inputs(model, {"a": x}, None, None) == ({"a": x},)
    assert solve_inputs(model, None, None, x) == (x,)
    (random,) = solve_inputs(model, None, (3, 2), None)
    assert random.shape == (3, 2)
    with pytest.raises(ExportError, match="no input given"):
        solve_inputs(model, None, None, None)
    with pytest.raises(ExportError, match="args and input_t given"):
        solve_inputs(model, x, None, x)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((1, 3, 8, 8), r"args=\(1, 3, 8, 8\): expected inputs; pass input_shape=\(1, 3, 8, 8\)"),
        (torch.Size([2, 4]), r"pass input_shape=\(2, 4\)"),
        ("model.onnx", "expected a tensor or a tuple of inputs, got str"),
        (np.ones(2), "got ndarray"),
    ],
)
def test_what_is_no_input_is_named(args: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        solve_inputs(nn.ReLU(), args, None, None)


def test_plain_values_keep_the_structure() -> None:
    q = quantized(torch.ones(2))
    tree = plain_values({"a": (q, [q, 3]), "b": None})
    assert tree["a"][0] is q.value
    assert tree["a"][1][1] == 3
    assert tree["b"] is None


def test_a_model_takes_and_gives_plain_values_meanwhile() -> None:
    model, q = nn.Identity(), quantized(torch.ones(2))
    with plain_signature(model, (q,)):
        assert model(q.value) is q.value
    assert model(q) is q
