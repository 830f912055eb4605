"""Tests that a quantized tensor answers what a tensor answers."""

from __future__ import annotations

import numpy
import pytest
import torch

from brevitas.quant_tensor import QuantTensor
from brevitas.quant_tensor import _tensor_interface as interface
from quant_tensors import make


def test_every_public_name_of_a_tensor_is_there():
    missing = [n for n in dir(torch.Tensor) if not n.startswith("_") and n not in dir(QuantTensor)]
    assert missing == []


@pytest.mark.parametrize(
    "expression",
    [
        "x.shape x.dtype x.device x.ndim x.requires_grad x.is_leaf x.grad_fn x.layout".split(),
        "x.dim() x.size() x.size(1) x.numel() x.is_floating_point() x.stride()".split(),
    ],
    ids=["attributes", "queries"],
)
def test_attributes_are_those_of_the_value(expression):
    x, _ = make((3, 4))
    for text in expression:
        assert eval(text) == eval(text.replace("x.", "x.value.", 1)), text


@pytest.mark.parametrize(
    "expression",
    [
        *("torch.tanh(x)", "x.tanh()", "x.mean()", "x.sum(1)", "x.softmax(-1)", "x * 2.0"),
        *("2.0 * x", "x / 2.0", "2.0 / x", "x ** 2", "2 ** x", "x > 0", "x % 3", "x // 2"),
        *("x @ torch.ones(4, 2)", "torch.ones(2, 3) @ x", "torch.stack([x, x])", "x.T"),
        *("x.norm(dim=1)", "torch.where(x > 0, x, x * 0)", "torch.zeros_like(x)"),
    ],
)
def test_operations_without_a_rule_give_plain_tensors(expression):
    x, _ = make((3, 4))
    actual = eval(expression, {"x": x, "torch": torch})
    assert type(actual) is torch.Tensor
    # Infinite where a value is zero: equality is asked for, not closeness.
    assert torch.equal(actual, eval(expression, {"x": x.value, "torch": torch}))


def test_numpy_reads_the_value():
    x, _ = make((3, 4))
    assert numpy.array_equal(numpy.asarray(x), x.value.numpy())


def test_truth_and_numbers_of_one_element():
    x, integers = make((1,))
    assert bool(x) == bool(integers.item())
    assert float(x) == x.value.item()


def test_in_place_names():
    assert interface.is_in_place("add_") and not interface.is_in_place("__iadd__")
    assert torch.Tensor.add_ in interface.in_place_functions()
    assert torch.relu_ in interface.in_place_functions()


class Doubling(interface.QuantTensorMode):
    """A mode with a rule for sums, which gives the number of modes that the rule sees."""

    def find_rule(self, function):
        is_sum = function in interface.tensor_functions("add", "__add__")
        return (lambda a, b: torch._C._is_torch_function_mode_enabled()) if is_sum else None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Plain(interface.QuantTensorMode):
    """A mode without rules."""

    def find_rule(self, function):
        return None

    __torch_function__ = Doubling.__torch_function__


def test_operators_ask_the_innermost_mode_for_its_rule():
    x, _ = make((3,))
    total = (x + x).value
    with Doubling():
        # The rule computes without modes; functions without a rule keep the default.
        assert (x + x) is False and x.add(x) is False
        assert torch.equal((x - x).value, total * 0)
        with torch.device("cpu"):
            assert (x + x) is False
        with Plain():
            assert torch.equal((x + x).value, total)
    assert torch.equal((x + x).value, total)


def test_a_mode_states_its_rules():
    with pytest.raises(NotImplementedError):
        interface.QuantTensorMode().find_rule(torch.add)
