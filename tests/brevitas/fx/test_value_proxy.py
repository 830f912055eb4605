"""Proxies answer Python by their value and record everything else."""

from __future__ import annotations

import copy
import operator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from brevitas.fx import value_trace
from brevitas.fx._value_proxy import concrete, is_instance, unpacked
from brevitas.fx.value_tracer import ValueProxy
from brevitas.quant_tensor import IntQuantTensor, QuantTensor


def trace_with(function: Any, *values: Any) -> Any:
    return value_trace(function, value_args=values)


def test_python_gets_the_value() -> None:
    def check(x: Any, n: Any, ratio: Any, name: Any) -> Any:
        assert isinstance(x, ValueProxy) and isinstance(n, int) and isinstance(x.shape, tuple)
        assert isinstance(x, Tensor) and not isinstance(x, QuantTensor)
        assert (len(x), int(n), float(ratio), complex(ratio)) == (2, 3, 0.5, 0.5 + 0j)
        assert [1, 2, 3, 4][n] == 4 and list(range(n)) == [0, 1, 2]
        assert f"{n:02d}{name}" == "03a" and str(n) == "3" and {3: "x"}[n] == "x"
        assert 3 in x.new_tensor([1, 3]) and n.value == 3 and concrete(n) == 3
        assert repr(x) == str(x) == "Proxy(x)"
        assert x.dtype == torch.float32 and x.grad is None and x.device.type == "cpu"
        return x * round(ratio, 1) + n

    x = torch.ones(2, 3)
    traced = trace_with(check, x, 3, 0.5, "a")
    assert torch.equal(traced(x, 4, 2.0, "a"), x * 2 + 4)


def test_operators_are_recorded_from_both_sides() -> None:
    def operate(x: Any, y: Any) -> Any:
        z = 2 - x + (1 + x) * (3 / x) @ y - (-x) ** 2 + (+x) // 2 % 3
        return abs(z) + (x > y) + (x == y) + (x[0] != 1) + (~(x <= y)) + (2**x)

    x, y = torch.rand(3, 3) + 0.5, torch.rand(3, 3)
    traced = trace_with(operate, x, y)
    assert torch.equal(traced(y + 1, x), operate(y + 1, x))


@pytest.mark.parametrize("name", ["iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow"])
def test_inplace_operators_keep_aliases(name: str) -> None:
    function = getattr(operator, name)

    def forward(x: Any, y: Any) -> Any:
        z = x * 1
        alias = z.view(-1)
        z = function(z, y)
        return alias, z

    x, y = torch.rand(3), torch.rand(3) + 1
    traced = trace_with(forward, x, y)
    torch.testing.assert_close(traced(y, x + 1), forward(y, x + 1), rtol=0, atol=0)


def test_inplace_on_numbers_and_quant_tensors_makes_new_values() -> None:
    def forward(n: Any, q: Any) -> Any:
        before = n
        n += 1
        old = q
        q += q
        return before, n, old.value, q.value

    q = IntQuantTensor(torch.ones(2), 0.5, 0.0, 8, signed=True, training=False)
    traced = trace_with(forward, 1, q)
    torch.testing.assert_close(traced(5, q), forward(5, q), rtol=0, atol=0)


def test_items_are_set_and_deleted() -> None:
    def forward(x: Any, table: Any) -> Any:
        x = x.clone()
        x[1:, 0] = 5
        y = copy.copy(table)
        y["b"] = x
        del y["a"]
        return copy.deepcopy(x), y

    x = torch.zeros(2, 2)
    traced = trace_with(forward, x, {"a": x})
    torch.testing.assert_close(traced(x + 1, {"a": x}), forward(x + 1, {"a": x}))


def test_fields_of_quant_tensors() -> None:
    def forward(q: Any) -> Any:
        assert isinstance(q, QuantTensor) and isinstance(q.value, ValueProxy)
        value, scale, zero_point, bit_width, signed, training = q
        assert bool(signed) and not bool(training)
        return q.int() * 2, value / scale + zero_point, bit_width, q.set(scale=q.scale * 2), q[0]

    q = IntQuantTensor(torch.ones(2), 0.5, 0.0, 8, signed=True, training=False)
    other = IntQuantTensor(torch.ones(2) * 3, 0.25, 0.0, 8, signed=True, training=False)
    traced = trace_with(forward, q)
    torch.testing.assert_close(traced(other)[:3], forward_plain(other))
    assert torch.equal(traced(other)[3].scale, torch.tensor(0.5))


def forward_plain(q: QuantTensor) -> tuple[Tensor, Tensor, Tensor]:
    return q.int() * 2, q.value / q.scale, q.bit_width


def test_methods_can_be_passed_around() -> None:
    def forward(x: Any) -> Any:
        method = x.add
        return method(1), x.size(), x.sum()

    x = torch.ones(2)
    torch.testing.assert_close(trace_with(forward, x)(2 * x), (x * 3, x.size(), 2 * x.sum()))


def test_is_instance() -> None:
    assert is_instance(1, int) and not is_instance(1, (str, Tensor))


def test_unpacked_reaches_every_container() -> None:
    def forward(x: Any) -> Any:
        named = torch.max(x, 0)
        given = {"a": [x, (x, slice(x.shape[0], None))], "b": named}
        plain = unpacked(given)
        assert type(plain["a"][0]) is Tensor and plain["a"][1][1] == slice(2, None)
        return x

    trace_with(forward, torch.ones(2))


def test_quant_tensors_can_be_built_from_proxies() -> None:
    def forward(x: Any) -> Any:
        scale = x.abs().max() / 127
        q = IntQuantTensor((x / scale).round() * scale, scale, 0.0, 8, signed=True, training=True)
        return q, q.value + 1, torch.relu(q.reshape(-1)), q + q

    x = torch.randn(2, 3)
    traced = trace_with(forward, x)
    for result, expected in zip(traced(2 * x), forward(2 * x), strict=True):
        assert type(result) is type(expected)
        torch.testing.assert_close(tree_leaves(result), tree_leaves(expected), rtol=0, atol=0)


def test_views_of_a_mapping() -> None:
    def forward(table: Any) -> Any:
        assert list(table) == list(table.keys()) == ["a", "b"] and "a" in table
        pairs = dict(**table)
        return [key + "1" for key, _ in table.items()], sum(table.values()), pairs["b"]

    table = {"a": torch.ones(1), "b": torch.ones(1) * 2}
    traced = trace_with(forward, table)
    other = {"a": torch.ones(1) * 5, "b": torch.ones(1) * 3}
    assert traced(other) == (["a1", "b1"], torch.tensor([8.0]), torch.tensor([3.0]))
