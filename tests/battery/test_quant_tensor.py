"""What every kind of quantized tensor does, whatever its fields are."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from brevitas.fx import value_trace
from brevitas.quant_tensor import (
    FloatQuantTensor,
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    IntQuantTensor,
    QuantTensor,
    plain,
)
from brevitas.quant_tensor.exact import integer_arithmetic
from quant_tensors import KINDS, numbers

GROUPWISE = (GroupwiseIntQuantTensor, GroupwiseFloatQuantTensor)
SHAPE = (2, 6, 4, 4)  # groups of 4 along 6: the last one is filled up

all_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def example(kind: type, shape=SHAPE, **options: Any) -> Any:
    return KINDS[kind](shape, **options)[0]


def same(actual: Any, expected: Any) -> None:
    """Equal fields, or equal tensors."""
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        assert torch.equal(actual, expected)
        return
    for name in expected._argument_names:
        field, other = getattr(actual, name), getattr(expected, name)
        if isinstance(other, Tensor):
            assert torch.equal(field, other) and field.dtype == other.dtype, name
        else:
            assert field == other and type(field) is type(other), name


@all_kinds
def test_fields_iterate_in_order_and_values_index(kind):
    x = example(kind)
    assert len(x) == len(x._fields) == len(list(x))
    for name, field in zip(x._fields, x, strict=True):
        own = getattr(x, name)
        assert own is field or torch.equal(own, field) if isinstance(own, Tensor) else own == field
    assert torch.equal(x[0].value if isinstance(x[0], QuantTensor) else x[0], x.value[0])
    assert x.shape == x.value.shape == SHAPE and x.dim() == 4 and x.size(1) == 6


@all_kinds
def test_flags_are_booleans_with_tensor_twins(kind):
    x = example(kind, training=True)
    for name in kind._flags:
        twin = getattr(x, f"{name}_t")
        assert getattr(x, name) is True
        assert twin.dtype == torch.bool and twin.shape == () and bool(twin) is True
    tensors = {name: torch.tensor(False) for name in kind._flags}
    y = x.set(**tensors)
    assert all(getattr(y, name) is False for name in kind._flags)
    same(y.set(**{f"{name}_t": True for name in kind._flags}), x)


@all_kinds
def test_nothing_changes_after_construction(kind):
    x = example(kind)
    for name in (*x._argument_names, "value", "scale", "other"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(x, name, 1)
    for change in (
        lambda: x.add_(1),
        lambda: x.zero_(),
        lambda: torch.relu_(x),
        lambda: F.relu_(x),
        lambda: x.copy_(torch.ones(SHAPE)),
    ):
        with pytest.raises(TypeError, match="immutable"):
            change()
    before = x.value.clone()
    x += 1
    assert torch.equal(torch.add(before, 1), x.value if isinstance(x, QuantTensor) else x)
    y = example(kind)
    plain = torch.zeros(SHAPE)
    plain.add_(y)
    assert torch.equal(plain, y.value)


@all_kinds
def test_set_takes_fields_and_refuses_others(kind):
    x = example(kind)
    stored = kind._tensor_fields[0]
    y = x.set(**{stored: getattr(x, stored) * 2})
    assert type(y) is kind and torch.equal(y.value, 2 * x.value)
    same(x._replace(**{stored: getattr(x, stored) * 2}), y)
    same(x.set(value=x.value * 2), y)
    assert x.set(value=None).value is None
    with pytest.raises(ValueError, match=r"Got unexpected field names: \['color'\]"):
        x.set(color=1)


@all_kinds
def test_copies(kind):
    x = example(kind, training=True)
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), kind(*x)):
        same(other, x)
    same(kind._make(tuple(x)), x)
    stored = kind._tensor_fields[0]
    assert getattr(copy.deepcopy(x), stored) is not getattr(x, stored)


@all_kinds
def test_tree_functions_keep_what_is_no_tensor(kind):
    x = example(kind, training=True)
    leaves, spec = pytree.tree_flatten(x)
    assert len(leaves) == len(kind._tensor_fields)
    same(pytree.tree_unflatten(leaves, spec), x)
    doubled = pytree.tree_map(lambda leaf: leaf * 2, x)
    assert doubled.training and torch.equal(doubled.value, 2 * x.value)
    # While a transform is under way, leaves are placeholders.
    husk = pytree.tree_unflatten([object()] * len(leaves), spec)
    assert husk.signed is True and pytree.tree_flatten(husk)[1] == spec
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec
    # The number of samples is no part of the structure.
    assert pytree.tree_flatten(example(kind, (5, *SHAPE[1:]), training=True))[1] == spec


@all_kinds
def test_text_names_every_field(kind):
    x = example(kind)
    for text in (repr(x), str(x)):
        assert text.startswith(f"{kind.__name__}(")
        assert all(f"{name}=" in text for name in x._fields)
    assert "scale" in str(x) and "grad_fn" not in str(x)


@all_kinds
def test_equality_is_elementwise_and_hash_by_identity(kind):
    x = example(kind)
    assert torch.equal(x == x.value, torch.ones(SHAPE, dtype=torch.bool))
    assert {x: 1}[x] == 1 and hash(x) != hash(copy.copy(x))
    assert torch.equal(x < 0, x.value < 0)


@all_kinds
@pytest.mark.parametrize("cast", ["half", "bfloat16", "double", "float"])
def test_casts_are_for_the_value_only(kind, cast):
    x = example(kind)
    y = getattr(x, cast)()
    assert type(y) is kind and y.dtype == getattr(x.value, cast)().dtype
    assert all(getattr(y, n) is getattr(x, n) for n in kind._tensor_fields[1:])
    assert y.is_valid
    torch.testing.assert_close(numbers(y), numbers(x), rtol=0, atol=0)


@all_kinds
def test_moving_takes_all_fields(kind):
    x = example(kind).to("meta")
    assert {getattr(x, name).device.type for name in kind._tensor_fields} == {"meta"}
    assert x.device.type == "meta" and x.shape == SHAPE
    y = example(kind)
    same(y.cpu(), y)


@all_kinds
def test_detaching_and_copying_values(kind):
    leaf = torch.rand(()).requires_grad_()
    x = example(kind)
    x = x.set(**{name: getattr(x, name) * leaf for name in kind._tensor_fields[:2]})
    y = x.detach()
    assert x.value.requires_grad and not y.value.requires_grad and not y.scale.requires_grad
    for z in (y.clone(), y.contiguous()):
        same(z, y)
    assert y.clone().value.data_ptr() != y.value.data_ptr()
    assert torch.autograd.grad(x.value.sum(), leaf)[0].isfinite()


@all_kinds
def test_numbers_are_found_again(kind):
    x, expected = KINDS[kind](SHAPE)
    assert x.is_valid is True
    assert torch.equal(numbers(x), expected)


@all_kinds
def test_values_off_the_grid_are_not_valid(kind):
    x, found = KINDS[kind](SHAPE)
    stored = kind._tensor_fields[0]
    scale = getattr(x, kind._broadcast_fields[0])
    for wrong in (float("nan"), float("inf"), 1e9, 1.4375):
        value = getattr(x, stored).clone()
        value[0, 0] = wrong * (scale if scale.dim() == 0 else scale[0, 0])
        is_valid = wrong != wrong and x.nan_values if "nan_values" in x._fields else False
        y = x.set(**{stored: value})
        assert y.is_valid is bool(is_valid), wrong
        if not is_valid:
            with pytest.raises(RuntimeError, match="QuantTensor not valid"):
                numbers(y)


MOVES = {
    "transpose": lambda x: x.transpose(1, 2),
    "torch.transpose": lambda x: torch.transpose(x, 0, -1),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "movedim": lambda x: torch.movedim(x, 1, 3),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "view": lambda x: x.view(2, 6, 16),
    "reshape": lambda x: x.reshape(2, 6, 2, 8),
    "flatten": lambda x: torch.flatten(x, 2),
    "flatten all": lambda x: x.flatten(),
    "view samples": lambda x: x.view(1, 2, 6, 4, 4),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(1),
    "to back and out": lambda x: x.permute(0, 2, 3, 1).reshape(2, 16, 6),
    "index": lambda x: x[0],
    "slices": lambda x: x[:, 1:3],
    "flip": lambda x: x.flip(1),
    "expand": lambda x: x.expand(3, 2, 6, 4, 4),
    "chunk": lambda x: torch.chunk(x, 2)[0],
    "positive": lambda x: +x,
    "contiguous": lambda x: x.contiguous(),
}
STAY_GROUPED = (
    *("transpose", "torch.transpose", "permute", "movedim", "swapaxes", "view", "reshape"),
    *("flatten", "view samples", "unsqueeze", "squeeze", "to back and out", "positive"),
    *("contiguous",),
)


@all_kinds
@pytest.mark.parametrize("name", MOVES)
def test_functions_that_move_elements(kind, name):
    x, found = KINDS[kind](SHAPE)
    move = MOVES[name]
    y, value = move(x), move(x.value.contiguous())
    if kind in GROUPWISE and name not in STAY_GROUPED:
        assert type(y) is Tensor
    elif name != "chunk":
        assert type(y) is kind and y.shape == value.shape
        assert y.is_valid and torch.equal(numbers(y), move(found))
    assert torch.equal(y.value if isinstance(y, QuantTensor) else y, value)


@all_kinds
@pytest.mark.parametrize(
    "select",
    [
        torch.relu,
        F.relu,
        F.relu6,
        nn.ReLU(inplace=True),
        lambda x: x.relu(),
        lambda x: F.hardtanh(x, -1e9, 1e9),
        nn.Dropout().eval(),
    ],
)
def test_functions_of_each_element_keep_the_scales(kind, select):
    x = example(kind)
    y = select(x)
    assert type(y) is kind and torch.equal(y.value, select(x.value.clone()))
    assert torch.equal(y.scale, x.scale)


@all_kinds
def test_dropout_in_training_widens_the_scale(kind):
    x, found = KINDS[kind](SHAPE)
    torch.manual_seed(0)
    y = F.dropout(x, 0.75, training=True)
    # 1 / (1 - 0.75) = 4 is exact.
    assert type(y) is kind and y.is_valid and torch.equal(y.scale, 4 * x.scale)
    kept = numbers(y)
    assert torch.equal(kept, torch.where(kept == 0, 0.0, found)) and (kept == 0).any()


@all_kinds
def test_changes_of_sign(kind):
    x, found = KINDS[kind](SHAPE, seed=3)
    for y, change, signed in ((-x, torch.neg, True), (abs(x), torch.abs, False)):
        assert type(y) is kind and y.signed is signed
        assert torch.equal(y.value, change(x.value))
        if (found > found.min()).all() or kind not in (IntQuantTensor, GroupwiseIntQuantTensor):
            assert torch.equal(numbers(y), change(found))
    assert (-x).is_valid or kind in (IntQuantTensor, GroupwiseIntQuantTensor)  # -128
    assert torch.equal(torch.neg(abs(x)).value, -x.value.abs())
    assert (-abs(x)).signed


ARITHMETIC = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "torch.add": lambda x, y: torch.add(x, y, alpha=2),
    "matmul": lambda x, y: x @ y,
    "linear": lambda x, y: F.linear(x, y[0, 0]),
    "conv": lambda x, y: F.conv2d(x, y, padding=1),
    "conv with bias": lambda x, y: F.conv2d(x, y, y[:, 0, 0, 0]),
    "transposed conv": lambda x, y: F.conv_transpose2d(x, y.transpose(0, 1)),
    "pow": lambda x, y: x**2,
    "max": lambda x, y: torch.maximum(x, y),
    "cat": lambda x, y: torch.cat([x, y], 2),
    "softmax": lambda x, y: torch.softmax(x, -1) + y,
    "pool": lambda x, y: F.avg_pool2d(x, 2) + F.avg_pool2d(y, 2),
    "adaptive pool": lambda x, y: F.adaptive_avg_pool2d(x, 1) * F.max_pool2d(y, 4),
}


OF_ONE_KIND = (
    *("add", "sub", "mul", "div", "torch.add", "matmul", "linear", "conv", "conv with bias"),
    *("transposed conv", "cat"),
)


@all_kinds
@pytest.mark.parametrize("partner", [*KINDS, Tensor], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_that_of_the_values(kind, partner, name):
    """Sums and products of minifloats, and of groups, are plain; nothing refuses another kind."""
    x = example(kind)
    y = torch.randn(SHAPE) if partner is Tensor else example(partner)
    rule = ARITHMETIC[name]
    for first, second in ((x, y), (y, x)):
        actual = rule(first, second)
        expected = rule(plain(first).contiguous(), plain(second).contiguous())
        assert torch.equal(plain(actual), expected) or torch.allclose(
            plain(actual), expected, rtol=1e-5, atol=1e-4, equal_nan=True
        )
        kinds = {kind, partner}
        if IntQuantTensor not in kinds:
            stays = name == "cat" and kinds == {FloatQuantTensor}
            assert type(actual) is (FloatQuantTensor if stays else Tensor)
        elif len(kinds - {Tensor}) > 1 and name in OF_ONE_KIND:
            assert type(actual) is Tensor


@all_kinds
def test_integer_arithmetic_refuses_what_has_no_integers(kind):
    x = example(kind)
    with integer_arithmetic(bit_width=24):
        for add in (lambda: x + x, lambda: torch.add(x, x), lambda: x.add(x)):
            if kind is IntQuantTensor:
                assert type(add()) is IntQuantTensor
            else:
                with pytest.raises(TypeError, match="expected an IntQuantTensor"):
                    add()
        assert torch.equal(F.relu(x).value, F.relu(x.value))


def rebuilt(x: Any, t: Tensor) -> Any:
    """A tensor like `x` of values that depend on `t`."""
    stored = type(x)._tensor_fields[0]
    value = getattr(x, stored)
    return x.set(**{stored: value + (t - t.detach())})


COMPILED = {
    "views": lambda q: q.transpose(1, 2).flatten(2).unsqueeze(0).clone(),
    "signs": lambda q: abs(-q),
    "relu": lambda q: F.relu(q).permute(0, 2, 3, 1),
    "sums": lambda q: (q + 1.0) * 2 + torch.ones(4),
    "conv": lambda q: F.conv2d(q, torch.ones(5, 6, 3, 3), torch.ones(5)),
    "products": lambda q: q.value * q.value,
    "fields": lambda q: q._replace(training=True).set(signed=True).scale * q.value,
    "flags": lambda q: q.to(torch.float64) if q.signed and not q.training else q.value,
    "numbers": lambda q: q.int().float() * 2,
    "valid": lambda q: torch.where(torch.as_tensor(q.is_valid), q.value, 0.0),
    "dropout": lambda q: F.dropout(q, 0.5, training=False),
    "scale": lambda q: q.scale * 2 + q.zero_point,
}


def of_all(q: Any) -> dict[str, Any]:
    """What every function of the table gives."""
    return {name: function(q) for name, function in COMPILED.items()}


def same_of_all(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, result in expected.items():
        same(actual[name], result)
        assert plain(actual[name]).requires_grad is plain(result).requires_grad, name


@all_kinds
def test_compiles_as_one_graph(kind):
    torch._dynamo.reset()
    x = example(kind)
    same_of_all(torch.compile(of_all, fullgraph=True, backend="aot_eager")(x), of_all(x))


@all_kinds
def test_gradients_pass_through_a_compiled_graph(kind):
    torch._dynamo.reset()
    x = example(kind)
    inputs = [torch.ones((), requires_grad=True) for _ in range(2)]
    program = torch.compile(lambda t: of_all(rebuilt(x, t)), fullgraph=True, backend="aot_eager")
    actual, expected = program(inputs[0]), of_all(rebuilt(x, inputs[1]))
    same_of_all(actual, expected)
    for found in (actual, expected):
        values = map(plain, found.values())
        # Weights tell the functions apart in their one sum.
        sums = enumerate((v.sum() for v in values if v.requires_grad), 1)
        sum(weight * one for weight, one in sums).backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


@all_kinds
def test_compiled_numbers_are_asserted(kind):
    torch._dynamo.reset()
    x = example(kind)
    stored = kind._tensor_fields[0]
    number = torch.compile(lambda q: q.int(), fullgraph=True, backend="eager")
    assert torch.equal(number(x).double(), x.int().double())
    moved = getattr(x, stored) + 0.4375 * getattr(x, kind._broadcast_fields[0])
    with pytest.raises(RuntimeError, match="not valid"):
        number(x.set(**{stored: moved}))


class Block(nn.Module):
    """Takes and gives a quantized tensor."""

    def forward(self, q):
        return F.relu(q).transpose(2, 3)


class Ends(nn.Module):
    """Takes a plain tensor and gives a plain one."""

    def __init__(self, kind):
        super().__init__()
        self.quantize = Quantize(kind)

    def forward(self, t):
        return torch.tanh(self.quantize(t) * 0.1)


@all_kinds
@pytest.mark.parametrize("strict", [False, True])
def test_exports(kind, strict):
    x = example(kind)
    same(torch.export.export(Block(), (x,), strict=strict).module()(x), Block()(x))
    t = torch.rand(3, 6, 5)
    module = Ends(kind)
    same(torch.export.export(module, (t,), strict=strict).module()(t), module(t))


class Quantize(nn.Module):
    """Makes a quantized tensor of as many samples as it is given, in groups of 4 out of 6."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, t):
        fields = {"scale": 0.5, "zero_point": 0.0, "signed": True, "training": False}
        if self.kind in GROUPWISE:
            t, shape = self.kind.from_expanded(t, 4, 1), t.shape
            fields |= {"group_size": 4, "group_dim": 1, "dequant_shape": shape}
        if "bit_width" in self.kind._fields:
            fields["bit_width"] = 8
        else:
            fields |= {"exponent_bit_width": 4, "mantissa_bit_width": 3, "exponent_bias": 7}
            fields |= {"saturating": True, "inf_values": None, "nan_values": ("111",)}
        return self.kind(value=t, **fields).permute(0, 2, 1)


@all_kinds
def test_exports_for_any_number_of_samples(kind):
    samples = torch.export.Dim("samples", min=2, max=100)
    first, second = torch.arange(30.0).reshape(1, 6, 5).repeat(3, 1, 1), torch.ones(7, 6, 5)
    program = torch.export.export(Quantize(kind), (first,), dynamic_shapes=({0: samples},))
    for x in (first, second):
        same(program.module()(x), Quantize(kind)(x))


@all_kinds
def test_compiles_for_any_number_of_samples(kind):
    torch._dynamo.reset()
    compiled = torch.compile(Quantize(kind), fullgraph=True, backend="eager", dynamic=True)
    for samples in (2, 3, 7):
        x = torch.arange(samples * 30.0).reshape(samples, 6, 5)
        same(compiled(x), Quantize(kind)(x))


@all_kinds
def test_checkpointing(kind):
    x, t = example(kind), torch.ones((), requires_grad=True)
    output = checkpoint(lambda q: -F.relu(q), rebuilt(x, t), use_reentrant=False)
    assert type(output) is kind
    expected = torch.autograd.grad((-F.relu(rebuilt(x, t))).sum(), t)[0]
    assert torch.equal(torch.autograd.grad(output.sum(), t)[0], expected)


@all_kinds
def test_full_backward_hooks(kind):
    module, seen = Ends(kind), []
    module.quantize.register_full_backward_hook(lambda *arguments: seen.append(arguments))
    module.quantize.register_full_backward_pre_hook(lambda *arguments: None)
    t = torch.rand(3, 6, 5, requires_grad=True)
    module(t).sum().backward()
    assert len(seen) == 1 and torch.equal(seen[0][1][0], t.grad)


@all_kinds
def test_function_transforms(kind):
    x = example(kind)
    first, *others = kind._tensor_fields
    axes = {name: 0 if getattr(x, name).dim() > 1 else None for name in others}
    context = pytree.tree_flatten(x)[1]
    in_dims = pytree.tree_unflatten([0, *axes.values()], context)
    rows = torch.vmap(lambda row: F.relu(row).value, in_dims=(in_dims,))(x)
    assert torch.equal(rows, F.relu(x).value)
    gradient = torch.func.grad(lambda t: F.relu(rebuilt(x, t)).sum())(torch.ones(()))
    assert gradient.shape == ()


@all_kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traces(kind):
    """Both tracers follow values through a tensor that the traced function makes."""
    module, t = Ends(kind), torch.rand(3, 6, 5)
    for traced in (value_trace(module, value_args={"t": t}), torch.jit.trace(module, t)):
        assert torch.equal(traced(2 * t), module(2 * t))


@all_kinds
def test_metadata_alone_keeps_the_fields(kind):
    x = example(kind)
    y = x._without_value()
    assert y.value is None
    assert torch.equal(y.scale, x.scale) and torch.equal(y.zero_point, x.zero_point)
    assert all(getattr(y, name) is getattr(x, name) for name in kind._tensor_fields[1:])


@all_kinds
def test_wrong_fields_are_refused(kind):
    x = example(kind)
    stored, scale = kind._tensor_fields[0], kind._broadcast_fields[0]
    with pytest.raises(TypeError, match=f"{kind.__name__}.*expected a tensor of real values"):
        x.set(**{stored: 1.0})
    with pytest.raises(TypeError, match="expected a tensor or a number"):
        x.set(**{scale: "large"})
    with pytest.raises(ValueError, match="expected one number, or a shape that broadcasts"):
        x.set(**{scale: torch.ones(7)})
    bits = "bit_width" if "bit_width" in x._fields else "mantissa_bit_width"
    with pytest.raises(ValueError, match=f"{bits}=-1.*expected a whole number"):
        x.set(**{bits: -1})
