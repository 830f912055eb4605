"""A traced model gives the outputs and gradients of the model, for the example and for others."""

from __future__ import annotations

import copy
import math
import operator
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils._pytree import tree_flatten

from brevitas.fx import brevitas_value_trace, value_trace
from brevitas.fx.value_tracer import UnsetValueException, ValueTracer


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Layered(nn.Module):
    """A base for the models of the table: what most of them use."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.linspace(-1, 1, 4))
        self.register_buffer("offset", torch.arange(4.0))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.plain = torch.full((4,), 0.5)


class BranchOnValue(Layered):
    def forward(self, x: Tensor) -> Tensor:
        if x.abs().mean() > 0:
            x = self.linear(x)
        return x if (x == x).all() else -x


class BranchOnShape(Layered):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and x.shape[-1] == self.linear.in_features and isinstance(x, Tensor):
            return self.linear(x)
        raise ValueError(f"shape {x.shape}")


class LoopOverRows(Layered):
    def forward(self, x: Tensor) -> Tensor:
        rows = [self.linear(row) for row in x]
        return torch.stack(rows) * len(rows)


class LoopOverSize(Layered):
    def forward(self, x: Tensor) -> Tensor:
        for i in range(x.size(1)):
            x = x + i * self.weight
        return x


class Unpack(Layered):
    def forward(self, x: Tensor) -> Tensor:
        batch, features = x.shape
        left, right = x.chunk(2, dim=1)
        head, *rest = torch.split(x, 1, dim=1)
        values, indices = torch.max(x, dim=1)
        joined = torch.cat([left, right, head, *rest], 1).view(batch, 2 * features)
        return joined * values[:, None] + indices[:, None]


class SizeArithmetic(Layered):
    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        x = x.reshape(x.shape[0], half, -1).transpose(1, 2).flatten(1)
        x = x[:, : x.size(1) - 1]
        return x / math.sqrt(x.shape[0]) + torch.arange(x.shape[1], dtype=x.dtype)


class MakesTensors(Layered):
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[0], 4, device=x.device, dtype=x.dtype)
        mask[:, 1:] += x[:, 1:]
        steps = torch.tensor([0.0, 1.0, 2.0, 3.0])
        steps += x.detach().sum(0)
        return mask * steps + x.new_ones(4) + torch.finfo(x.dtype).eps


class Functions(Layered):
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.linear(x, self.linear.weight, bias=self.offset), inplace=True)
        x = F.layer_norm(x, x.shape[1:], weight=self.weight)
        return torch.where(x > 0, x, 0.1 * x).clamp(max=3.0).softmax(dim=-1)


class InPlace(Layered):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        alias = y
        y += x
        y.mul_(2.0)
        y[:, 0] = self.weight[0]
        z = y.view(-1)
        z -= 1
        return alias + y


class Residual(Layered):
    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        y += x
        return y


class TensorAttributes(Layered):
    def forward(self, x: Tensor) -> Tensor:
        scaled = self.weight * self.offset + self.hidden
        return x.T.T * scaled + self.plain - self.offset.mean() if x.requires_grad else x * 0


class Shared(Layered):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.linear(x).tanh()
        return x


class NestedOutput(Layered):
    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.linear(x)
        return {"a": (x, [y, y + 1]), "pair": Pair(x, y), "none": None, "n": len(x)}


class Container(Layered):
    def forward(self, x: Tensor) -> Tensor:
        parts = {"x": x, "y": self.linear(x)}
        total = sum(part.sum() for part in parts.values())
        return x * total + Pair(x, x).second


class Gradients(Layered):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = self.linear(x).abs().max()
        return self.linear(x) / scale


class Conversions(Layered):
    def forward(self, x: Tensor) -> Tensor:
        width = int(x.shape[1] * 0.5)
        scale = float(self.offset.sum())
        name = f"{x.shape[1]}"
        table = {4: 2.0}
        return x[:, :width] * scale * table[x.shape[1]] + {"4": 1, "5": 2}[name] + bool(x.any())


class RoundSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * 2


class AutogradFunction(Layered):
    def forward(self, x: Tensor) -> Tensor:
        return RoundSTE.apply(self.linear(x) * 4)


class SavesState(Layered):
    def forward(self, x: Tensor) -> Tensor:
        self.saved = self.linear(x)
        return self.saved * 2


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Residual(), BranchOnShape()])
        self.head = nn.Sequential(nn.Linear(4, 2), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x) * (i + 1)
        return self.head(x)


MODELS: list[type[nn.Module]] = [
    AutogradFunction, Blocks, BranchOnShape, BranchOnValue, Container, Conversions, Functions,
    Gradients, InPlace, LoopOverRows, LoopOverSize, MakesTensors, NestedOutput, Residual,
    SavesState, Shared, SizeArithmetic, TensorAttributes, Unpack,
]  # fmt: skip
# These take the number of rows for granted.
FIXED_BATCH = {LoopOverRows, NestedOutput}


def run(model: nn.Module, x: Tensor) -> tuple[list[Any], Any, list[Tensor | None]]:
    """Return output leaves, output structure, and gradients of the input and the parameters."""
    x = x.clone().requires_grad_()
    parameters = [x, *model.parameters()]
    leaves, structure = tree_flatten(model(x))
    total = sum(
        (leaf * torch.arange(1.0, leaf.numel() + 1).view_as(leaf)).sum()
        for leaf in leaves
        if isinstance(leaf, Tensor)
    )
    return leaves, structure, list(torch.autograd.grad(total, parameters, allow_unused=True))


def assert_equal_runs(model: nn.Module, traced: nn.Module, x: Tensor) -> None:
    expected, structure, gradients = run(model, x)
    outputs, traced_structure, traced_gradients = run(traced, x)
    assert structure == traced_structure
    # The same kernels on the same operands: bit for bit.
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)
    by_name = {n: g for (n, _), g in zip(model.named_parameters(), gradients[1:], strict=True)}
    assert (gradients[0] is None) == (traced_gradients[0] is None)
    for (name, _), gradient in zip(traced.named_parameters(), traced_gradients[1:], strict=True):
        expected_gradient = by_name.pop(name)
        assert (gradient is None) == (expected_gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=0)
    assert all(gradient is None for gradient in by_name.values())


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_equals_the_model(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    keys, attributes = set(model.state_dict()), set(vars(model))
    example = torch.rand(3, 4, requires_grad=True)
    traced = value_trace(model, value_args={"x": example})
    assert isinstance(traced, GraphModule)
    traced.graph.lint()
    for batch in (3, 3) if kind in FIXED_BATCH else (3, 1, 5):
        assert_equal_runs(model, traced, torch.rand(batch, 4) + 0.1)
    # What is used of the state, under the same names, and the same objects.
    state = model.state_dict(keep_vars=True)
    assert all(state[name] is item for name, item in traced.state_dict(keep_vars=True).items())
    # Nothing stays behind in the model.
    assert set(model.state_dict()) == keys
    assert set(vars(model)) - attributes <= {"saved"}


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_a_traced_model_can_be_traced_again_copied_and_pickled(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    x = torch.rand(3, 4)
    traced = value_trace(model, value_args=(x.clone().requires_grad_(),))
    again = value_trace(traced, value_args=(x.clone().requires_grad_(),))
    assert_equal_runs(model, again, x + 0.1)
    copied = copy.deepcopy(traced)
    copied.recompile()
    assert_equal_runs(model, copied, x + 0.1)
    assert_equal_runs(model, pickle.loads(pickle.dumps(traced)), x + 0.1)


def test_random_numbers_are_drawn_at_every_call() -> None:
    traced = value_trace(lambda x: x + torch.rand(3), value_args=(torch.zeros(3),))
    assert not torch.equal(traced(torch.zeros(3)), traced(torch.zeros(3)))


def test_buffers_are_updated_by_the_traced_model() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("mean", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.mean = 0.5 * self.mean + 0.5 * x.mean(0)
            return x * self.count + self.mean

    model, reference = Counting(), Counting()
    x = torch.tensor([[1.0, 3.0]])
    traced = value_trace(model, value_args=(x,))
    reference(x)
    assert type(model.mean) is Tensor
    torch.testing.assert_close(traced(2 * x), reference(2 * x), rtol=0, atol=0)
    torch.testing.assert_close(traced.state_dict(), reference.state_dict(), rtol=0, atol=0)


def test_a_residual_addition_is_recorded_out_of_place_and_an_aliased_one_is_not() -> None:
    for kind, operation in ((Residual, operator.add), (InPlace, operator.iadd)):
        traced = value_trace(kind(), value_args=(torch.ones(1, 4),))
        targets = [node.target for node in traced.graph.nodes]
        assert operation in targets
        assert (operator.iadd in targets) == (operation is operator.iadd)


def test_questions_leave_no_node_and_are_listed() -> None:
    traced = value_trace(BranchOnValue(), value_args=(torch.ones(1, 4),))
    assert [str(node) for node in traced.graph.nodes] == ["x", "linear", "output"]
    assert [(q, answer) for _, q, _, answer in traced.meta["specialized"]] == [
        ("bool", True), ("bool", True)]  # fmt: skip
    assert all("test_value_tracer.py:" in line for line, *_ in traced.meta["specialized"])


class Signature(nn.Module):
    def forward(
        self, x: Tensor, y: Tensor | None = None, *more: Tensor, k: int = 2, flag: bool = False,
        **named: Tensor,
    ) -> Tensor:  # fmt: skip
        x = x * k if y is None else x * k + y
        for item in (*more, *named.values()):
            x = x + item
        return -x if flag else x


@pytest.mark.parametrize(
    ("value_args", "concrete_args", "keywords"),
    [
        ({}, None, {}),
        ({"y": torch.tensor(2.0)}, None, {"y": torch.tensor(3.0)}),
        ({"k": 3}, None, {"k": 5}),
        ({"flag": True}, None, {}),
        ({}, {"k": 4}, {"k": 4}),
        ({}, {"k": 4, "flag": True}, {}),
        ({"extra": torch.tensor(1.0)}, None, {"extra": torch.tensor(7.0)}),
    ],
)
def test_arguments(value_args: dict, concrete_args: dict | None, keywords: dict) -> None:
    model, x = Signature(), torch.tensor(1.5)
    traced = value_trace(model, concrete_args, {"x": x, **value_args})
    fixed = {**(concrete_args or {}), **{k: v for k, v in value_args.items() if k == "flag"}}
    expected = model(2 * x, **{**fixed, **keywords})
    given = dict(keywords)
    if value_args.get("flag"):
        given["flag"] = True
    torch.testing.assert_close(traced(2 * x, **given), expected, rtol=0, atol=0)


def test_variadic_arguments_by_position() -> None:
    values = (torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0), torch.tensor(4.0))
    traced = value_trace(Signature(), value_args=values)
    others = tuple(2 * value for value in values)
    assert traced(*others) == Signature()(*others)


def test_a_fixed_argument_cannot_be_changed() -> None:
    x = torch.tensor(1.0)
    traced = value_trace(Signature(), {"k": 3}, {"x": x})
    with pytest.raises(ValueError, match=r"k=2: this model was traced with k=3"):
        traced(x, k=2)
    with pytest.raises(ValueError, match=r"y=tensor\(1.\): .* y=None"):
        traced(x, x)


@pytest.mark.parametrize(
    ("value_args", "error", "message"),
    [
        (None, UnsetValueException, r"no value for the argument 'x' of Signature.forward"),
        ({}, UnsetValueException, r"'x'"),
        (torch.ones(1), TypeError, r"value_args: got Tensor, expected a dict"),
    ],
)
def test_bad_arguments(value_args: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        value_trace(Signature(), value_args=value_args)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match=r"'z' is no argument of .*forward. Accepted: \['x'\]"):
        value_trace(Residual(), value_args={"z": 1})
    with pytest.raises(TypeError, match=r"got 2 values, expected at most 1"):
        value_trace(Residual(), value_args=(1, 2))
    with pytest.raises(TypeError, match=r"root=3: cannot be traced"):
        value_trace(3, value_args=())  # pyright: ignore[reportArgumentType]


def test_nested_inputs() -> None:
    def forward(batch: dict[str, Any]) -> Tensor:
        total = batch["x"]
        for name, item in batch.items():
            total = total + (item[0] if name == "pair" else item)
        return total

    one = torch.ones(2)
    traced = value_trace(forward, value_args={"batch": {"x": one, "pair": (one, one)}})
    given = {"x": 2 * one, "pair": (3 * one, one)}
    torch.testing.assert_close(traced(given), forward(given), rtol=0, atol=0)


def test_an_error_of_the_model_names_layer_and_line() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x @ torch.ones(5, 5)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.ModuleDict({"fc": Inner()})

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder["fc"](x)

    with pytest.raises(RuntimeError) as caught:
        value_trace(Outer(), value_args=(torch.ones(2, 3),))
    text = str(caught.value)
    assert "Layer: encoder.fc (Inner) of Outer" in text
    assert "test_value_tracer.py:" in text and "return x @ torch.ones(5, 5)" in text
    # Nothing stays patched after an error.
    assert torch.ones(2).sum() == 2 and "wrapped" not in repr(torch.zeros)
    assert type(nn.Linear(2, 2)(torch.ones(1, 2))) is Tensor


def test_a_module_outside_of_the_model_is_refused() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(2, 2)]

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x)

    with pytest.raises(NameError, match=r"Linear: called in the model, but not registered"):
        value_trace(Hidden(), value_args=(torch.ones(2),))


def test_hooks_of_leaves_and_training_mode_are_kept() -> None:
    calls = []
    model = Residual().eval()
    model.linear.register_forward_hook(lambda *_: calls.append(1))
    traced = value_trace(model, value_args=(torch.ones(1, 4),))
    traced(torch.ones(1, 4))
    assert len(calls) == 2 and not traced.training


def test_a_tracer_can_be_used_twice() -> None:
    tracer = ValueTracer()
    for scale in (1.0, -1.0):
        graph = tracer.trace(lambda x: x if x > 0 else -x, value_args=(torch.tensor(scale),))
        assert len(graph.nodes) == (2 if scale > 0 else 3)


def test_compiled_leaf_runs_during_a_trace() -> None:
    compiled: Callable[..., Any] = torch.compile(nn.Linear(2, 2), backend="eager")

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = compiled

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) + 1

    class KeepsInner(ValueTracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
            return True

    root, x = Root(), torch.ones(1, 2)
    tracer = KeepsInner()
    graph = tracer.trace(root, value_args=(x,))
    traced = GraphModule(tracer.root, graph)
    torch.testing.assert_close(traced(2 * x), root(2 * x), rtol=0, atol=0)


def test_brevitas_value_trace_is_the_same_for_float_models() -> None:
    model = Blocks()
    traced = brevitas_value_trace(model, value_args=(torch.ones(1, 4),))
    assert_equal_runs(model, traced, torch.rand(2, 4))
    assert list(traced.state_dict()) != [] and set(traced.state_dict()) <= set(model.state_dict())
