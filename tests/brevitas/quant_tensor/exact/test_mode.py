"""Tests of the mode: what it changes, when it is left, what it leaves alone."""

from __future__ import annotations

import itertools
import operator
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import BaseTorchFunctionMode

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor, exact
from quant_tensors import make


def between(scale=0.25, zero_point=0.5, seed=0, shape=(3, 3), training=False):
    """A tensor of which the integers have a fraction, so that the default rules differ."""
    value = torch.randint(0, 40, shape, generator=torch.Generator().manual_seed(seed)) * scale
    return IntQuantTensor(value, scale, zero_point, 8, False, training)


X, Y = between(), between(seed=1)
WHOLE = X.set(zero_point=3.0), Y.set(zero_point=0.0)


def same(first, second):
    assert type(first) is type(second) is IntQuantTensor
    for name in ("value", "scale", "zero_point", "bit_width"):
        a, b = getattr(first, name), getattr(second, name)
        assert torch.equal(*torch.broadcast_tensors(a, b)), name
    assert (first.signed, first.training) == (second.signed, second.training)
    return True


PAIRS = {
    "+": (lambda a, b: a + b, exact.add, (X, Y)),
    "torch.add": (torch.add, exact.add, (X, Y)),
    ".add": (lambda a, b: a.add(b), exact.add, (X, Y)),
    "operator": (operator.add, exact.add, (X, Y)),
    "input=": (lambda a, b: torch.add(input=a, other=b), exact.add, (X, Y)),
    "-": (lambda a, b: a - b, exact.sub, (X, Y)),
    "torch.sub": (torch.sub, exact.sub, (X, Y)),
    "torch.rsub": (lambda a, b: torch.rsub(b, a), exact.sub, (X, Y)),
    "*": (lambda a, b: a * b, exact.mul, WHOLE),
    "torch.mul": (torch.mul, exact.mul, WHOLE),
    "@": (lambda a, b: a @ b, exact.matmul, WHOLE),
    "torch.matmul": (torch.matmul, exact.matmul, WHOLE),
    "torch.mm": (torch.mm, exact.matmul, WHOLE),
    "torch.cat": (lambda a, b: torch.cat([a, b], 1), lambda a, b: exact.cat([a, b], 1), (X, Y)),
    "torch.cat(dim=)": (
        lambda a, b: torch.cat((a, b), dim=1),
        lambda a, b: exact.cat([a, b], 1),
        (X, Y),
    ),
    "cat": (lambda a, b: IntQuantTensor.cat([a, b]), lambda a, b: exact.cat([a, b]), (X, Y)),
    "-x": (lambda a, b: -a, lambda a, b: exact.neg(a), (X, Y)),
    "torch.neg": (lambda a, b: torch.neg(a), lambda a, b: exact.neg(a), (X, Y)),
    "<<": (lambda a, b: a << 2, lambda a, b: exact.left_shift(a, 2), WHOLE),
    ">>": (lambda a, b: a >> 2, lambda a, b: exact.right_shift(a, 2), WHOLE),
    "torch shift": (
        lambda a, b: torch.bitwise_left_shift(a, 2),
        lambda a, b: exact.left_shift(a, 2),
        WHOLE,
    ),
    "torch right": (
        lambda a, b: torch.bitwise_right_shift(a, 2),
        lambda a, b: exact.right_shift(a, 2),
        WHOLE,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_operators_and_functions_are_the_exact_ones(name):
    function, expected, operands = PAIRS[name]
    with exact.integer_arithmetic():
        result = function(*operands)
    assert same(result, expected(*operands))


@pytest.mark.parametrize("name", ["+", "torch.add", "-", "torch.cat", "cat", "-x", "@"])
def test_nothing_changes_outside(name):
    function, _, operands = PAIRS[name]
    before = function(*operands)
    with exact.integer_arithmetic():
        function(*operands)
    assert same(function(*operands), before)


def test_the_default_rules_differ():
    with exact.integer_arithmetic():
        assert not torch.equal((X + Y).value, torch.add(X.value, Y.value))
    assert torch.equal((X + Y).value, X.value + Y.value)


def test_keywords_hold_for_every_operation():
    keywords = {"rounding": "FLOOR", "overflow": "wrap", "bit_width": 4, "signed": True}
    x, y = WHOLE
    with exact.integer_arithmetic(**keywords):
        assert same(x + x, exact.add(x, x, **keywords))
        assert same(x * y, exact.mul(x, y, **keywords))
        assert same(x >> 1, exact.right_shift(x, 1, **keywords))
    with exact.integer_arithmetic(as_integers=True):
        assert (x + x).scale == 1
        # A function of the module takes its own keywords.
        assert same(exact.add(x, x), exact.add(x.set(), x))


def test_wrong_keywords_are_refused_where_the_mode_is_made():
    with pytest.raises(ValueError, match="overflow='clip'"):
        exact.integer_arithmetic(overflow="clip")


def is_exact():
    return not torch.equal((X + Y).value, X.value + Y.value)


def bits():
    return (X + X).bit_width.item()


def test_modes_nest_and_are_left_on_exceptions():
    mode = exact.integer_arithmetic(bit_width=10)
    with mode:
        with exact.integer_arithmetic(bit_width=12):
            assert bits() == 12
        assert bits() == 10
        with mode:
            assert bits() == 10
        assert bits() == 10
        with pytest.raises(TypeError, match="expected an IntQuantTensor"):
            with exact.integer_arithmetic(bit_width=14):
                X + 1.0
        assert bits() == 10 and is_exact()
    assert not is_exact() and bits() == 9


def test_the_mode_is_of_its_thread():
    seen = []
    entered, checked = threading.Event(), threading.Event()

    def other():
        seen.append(is_exact())
        with exact.integer_arithmetic(bit_width=13):
            entered.set()
            assert checked.wait(10)
            seen.append(bits())

    with exact.integer_arithmetic(bit_width=11):
        thread = threading.Thread(target=other)
        thread.start()
        assert entered.wait(10)
        assert bits() == 11
        checked.set()
        thread.join()
    assert seen == [False, 13]


@pytest.mark.parametrize("other", [lambda: torch.device("cpu"), BaseTorchFunctionMode])
def test_other_modes_of_torch_do_not_interfere(other):
    with other():
        assert not is_exact() and torch.equal(torch.add(X, Y).value, X.value + Y.value)
        with exact.integer_arithmetic():
            assert is_exact() and same(torch.add(X, Y), exact.add(X, Y))
    with exact.integer_arithmetic(), other():
        assert is_exact() and same(torch.add(X, Y), exact.add(X, Y))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x + 1.0,
        lambda x: 1.0 - x,
        lambda x: torch.ones(3, 3) + x,
        lambda x: torch.mul(x, 2),
        lambda x: torch.cat([x, torch.ones(3, 3)]),
        lambda x: x << x,
    ],
)
def test_operands_that_are_no_integers_are_refused(operation):
    x = WHOLE[0]
    operation_error = (TypeError, ValueError)
    with exact.integer_arithmetic(), pytest.raises(operation_error, match="expected an"):
        operation(x)


def test_options_of_torch_functions_are_refused():
    x = WHOLE[0]
    with exact.integer_arithmetic():
        assert same(torch.add(x, x, alpha=1), exact.add(x, x))
        for call in (
            lambda: torch.add(x, x, alpha=2),
            lambda: torch.sub(x, x, out=torch.ones(3, 3)),
            lambda: torch.cat([x, x], out=torch.ones(6, 3)),
            lambda: torch.neg(x, out=torch.ones(3, 3)),
        ):
            with pytest.raises(ValueError, match="on integers: expected no (alpha|out)"):
                call()


def test_the_rest_keeps_its_default_rules():
    x = WHOLE[1]
    plain = torch.randn(3, 3)
    calls = (
        lambda: F.relu(x),
        lambda: x.reshape(9),
        lambda: x[0],
        lambda: x / x.set(value=x.value + 1),
        lambda: torch.tanh(x),
        lambda: x.value + plain,
        lambda: plain @ plain,
        lambda: torch.stack([plain, plain]),
    )
    for call in calls:
        default = call()
        with exact.integer_arithmetic():
            result = call()
        assert type(result) is type(default)
        first, second = (getattr(y, "value", y) for y in (result, default))
        assert torch.equal(first, second)


class Residual(nn.Module):
    """A layer, a residual sum over one quantizer, an activation."""

    def __init__(self):
        super().__init__()
        keywords = {"act_quant": Int8ActPerTensorFloat, "return_quant_tensor": True}
        self.quantize = qnn.QuantIdentity(**keywords)
        self.linear = qnn.QuantLinear(6, 6, bias=True, weight_bit_width=4)
        self.relu = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)

    def forward(self, x):
        x = self.quantize(x)
        return self.relu(x + self.quantize(self.linear(x)))


def test_a_model_of_layers_runs_in_the_mode():
    model, x = Residual(), torch.randn(5, 6)
    model(x)
    model.eval()
    default = model(x)
    with exact.integer_arithmetic():
        result = model(x)
        result.value.sum().backward()
    # Valid tensors without zero points: the default rules give the integers of hardware.
    assert torch.equal(result.int(), default.int())
    assert model.linear.weight.grad.abs().sum() > 0


def inside(a, b):
    with exact.integer_arithmetic(rounding="FLOOR", bit_width=12, signed=True):
        return torch.add(((a + b) - a) << 1, b) >> 1


COMPILED = {
    "add": exact.add,
    "sub unsigned": lambda a, b: exact.sub(a, b, signed=False),
    "wrap": lambda a, b: exact.add(a, b, bit_width=6, overflow="wrap"),
    "error": lambda a, b: exact.add(a, b, bit_width=12, overflow="error"),
    "mul": exact.mul,
    "matmul": exact.matmul,
    "cat": lambda a, b: exact.cat([a, b], 1),
    "shift": lambda a, b: exact.right_shift(exact.left_shift(a, 3), 2, rounding="FLOOR"),
    "rescale": lambda a, b: exact.rescale(a, 0.3, 2.0, bit_width=8),
    "integers": lambda a, b: exact.as_integers(exact.neg(a)),
    "chain": lambda a, b: exact.add(exact.add(a, b), b),
    "mode inside": inside,
}


def quantized(leaf, zero_point):
    return IntQuantTensor(leaf, 0.25, zero_point, 8, True, False)


def compiled_as_eager(functions, backend, zero_point):
    """All functions in one graph give the values and gradients of eager code."""
    torch._dynamo.reset()
    values = [make((4, 4), 0.25, seed=seed)[0].value for seed in (0, 1)]
    leaves = [[v.clone().requires_grad_() for v in values] for _ in range(2)]

    def all_of(a, b):
        return [function(a, b) for function in functions]

    compiled = torch.compile(all_of, backend=backend, fullgraph=True)
    results = [
        run(*(quantized(leaf, zero_point) for leaf in own))
        for run, own in zip((compiled, all_of), leaves, strict=True)
    ]
    assert all(itertools.starmap(same, zip(*results, strict=True)))
    for outcome in results:
        sum(result.value.square().sum() for result in outcome).backward()
    for first, second in zip(*leaves, strict=True):
        # Sums in another order.
        torch.testing.assert_close(first.grad, second.grad, rtol=1e-5, atol=1e-5)


def test_compiles_as_one_graph():
    names = ("mul", "rescale", "mode inside")
    compiled_as_eager([COMPILED[name] for name in names], "eager", torch.tensor(3.0))


# 2026-11: PyTorch's own code generator calls a function that PyTorch deprecated.
COMPILER = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@COMPILER
@pytest.mark.long
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("zero_point", [0.0, torch.tensor(3.0)], ids=["none", "one"])
@pytest.mark.parametrize("name", COMPILED)
def test_each_compiles_with_equal_results(name, zero_point, backend):
    compiled_as_eager([COMPILED[name], exact.add], backend, zero_point)


@COMPILER
@pytest.mark.long
def test_a_number_is_its_nearest_float32_in_compiled_code():
    """0.3 as it is, folded into float64 arithmetic, would move the ties of 0.25 / 0.3."""
    torch._dynamo.reset()
    x = IntQuantTensor(torch.arange(-128, 128) * 0.25, 0.25, 0.0, 8, True, False)
    compiled = torch.compile(lambda x: exact.rescale(x, 0.3), fullgraph=True)
    assert same(compiled(x), exact.rescale(x, 0.3))


def test_a_compiled_function_follows_the_mode_around_it():
    torch._dynamo.reset()
    function = torch.compile(lambda a, b: a + b, backend="eager", fullgraph=True)
    assert same(function(X, Y), X + Y)
    for keywords in ({"bit_width": 6}, {"bit_width": 7, "overflow": "wrap"}):
        with exact.integer_arithmetic(**keywords):
            assert same(function(X, Y), exact.add(X, Y, **keywords))
    assert same(function(X, Y), X + Y)


def test_a_compiled_graph_counts_an_unknown_zero_point_as_one():
    """The one difference: where zero points cannot be read, a product is signed."""
    torch._dynamo.reset()
    x = WHOLE[1].set(zero_point=torch.tensor(0.0))
    compiled = torch.compile(exact.mul, backend="eager", fullgraph=True)(x, x)
    eager = exact.mul(x, x)
    assert torch.equal(compiled.value, eager.value)
    assert (eager.signed, eager.bit_width) == (False, 16)
    assert (compiled.signed, compiled.bit_width) == (True, 17)


def test_a_compiled_graph_asserts_what_eager_code_checks():
    torch._dynamo.reset()
    add = torch.compile(exact.add, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="Scaling factors are different"):
        add(X, Y.set(scale=0.5))
    torch._dynamo.reset()
    mul = torch.compile(exact.mul, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="no integers"):
        mul(*(x.set(zero_point=torch.tensor(0.5)) for x in (X, Y)))


def test_exported_programs_compute_on_integers():
    class Add(nn.Module):
        def forward(self, a, b):
            with exact.integer_arithmetic():
                return (a + b).value

    program = torch.export.export(Add(), (X, Y))
    assert torch.equal(program.module()(X, Y), exact.add(X, Y).value)
