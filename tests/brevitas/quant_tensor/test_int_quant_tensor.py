"""Tests of affine integer tensors: construction, text, and what PyTorch does with them."""

from __future__ import annotations

import copy
import doctest
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from brevitas.quant_tensor import IntQuantTensor
from brevitas.quant_tensor import int_quant_tensor as module
from quant_tensors import make


def same(actual, expected):
    """Equal fields, or equal tensors."""
    assert type(actual) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
        return
    assert (actual.signed, actual.training) == (expected.signed, expected.training)
    for name in ("value", "scale", "zero_point", "bit_width"):
        field = torch.as_tensor(getattr(actual, name))
        assert torch.equal(*torch.broadcast_tensors(field, getattr(expected, name))), name


def test_doctests():
    names = {"torch": torch, "IntQuantTensor": IntQuantTensor}
    assert doctest.testmod(module, extraglobs=names).failed == 0


def test_python_numbers_become_float32_scalars():
    x = IntQuantTensor(torch.ones(2, dtype=torch.float64), 0.1, 1, 8, signed=False, training=True)
    for field in (x.scale, x.zero_point, x.bit_width):
        assert field.dtype == torch.float32 and field.dim() == 0
    assert x.signed is False and x.training is True
    assert x.signed_t.dtype == torch.bool and not x.signed_t and x.training_t
    assert IntQuantTensor(torch.ones(1), 1.0, 0, 8, torch.tensor(True), torch.tensor(0)).signed


def test_text():
    value = -torch.arange(3.0)
    x = IntQuantTensor(value, 0.1, 15, 4, signed=True, training=False)
    assert str(x) == (
        "IntQuantTensor(value=tensor([-0., -1., -2.]), scale=0.10000000149011612, "
        "zero_point=15.0, bit_width=4.0, signed_t=True, training_t=False)"
    )
    assert repr(x) == (
        "IntQuantTensor(value=tensor([-0., -1., -2.]), scale=tensor(0.1000), "
        "zero_point=tensor(15.), bit_width=tensor(4.), signed_t=tensor(True), "
        "training_t=tensor(False))"
    )
    assert f"{x}" == str(x)
    per_channel = x.set(scale=torch.tensor([0.1, 0.2, 0.3]))
    assert "scale=tensor([0.1000, 0.2000, 0.3000]), zero_point=15.0" in str(per_channel)


def test_copies():
    x, _ = make((3, 4), 0.1, 2.0, 5, signed=False, training=True)
    for other in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x)), x._make(tuple(x))):
        same(other, x)
    assert copy.deepcopy(x).value is not x.value


def test_tree_functions_keep_the_flags():
    x, _ = make((3,), training=True)
    doubled = pytree.tree_map(lambda leaf: leaf * 2, x)
    assert doubled.training and torch.equal(doubled.value, 2 * x.value)
    leaves, spec = pytree.tree_flatten(x)
    assert len(leaves) == 4
    # While a transform is under way, leaves are placeholders.
    assert pytree.tree_unflatten([object()] * 4, spec).signed is True
    assert pytree.treespec_loads(pytree.treespec_dumps(spec)) == spec


def quantize(x, scale=None, training=False):
    """A differentiable quantizer in plain PyTorch."""
    if scale is None:
        scale = x.detach().abs().amax() / 127
    rounded = torch.round(x / scale) * scale
    return IntQuantTensor(x + (rounded - x).detach(), scale, 0.0, 8.0, True, training)


def residual(q):
    """A residual block without parameters."""
    return q + F.max_pool2d(F.relu(q), 3, 1, 1)


FUNCTIONS = {
    "residual": residual,
    "offset": lambda q: (q + q - 1.0).reshape(q.shape[0], -1),
    "cat": lambda q: torch.cat([q, q], 1),
    "product": lambda q: torch.matmul(q * q, q.transpose(-1, -2)),
    "views": lambda q: q[0].flatten(1).unsqueeze(0).clone(),
    "conv": lambda q: F.conv2d(
        q, IntQuantTensor(torch.ones(5, 3, 3, 3), 1.0, 0.0, 8, True, False), torch.ones(5)
    ),
    "pool": lambda q: F.avg_pool2d(abs(-q), 2),
    "plain": lambda q: torch.tanh(q) + q.mean() * torch.ones(8),
    "tensor first": lambda q: torch.ones(8) + q,
    "fields": lambda q: q._replace(value=q.value * 2).set(scale=q.scale * 2),
    "flags": lambda q: q.to(torch.float64) if q.signed and not q.training else q.value,
    "integers": lambda q: q.int(float_datatype=True),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS.keys())
def test_compiles_as_one_graph(function, backend):
    torch._dynamo.reset()
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    same(
        torch.compile(function, fullgraph=True, backend=backend)(quantize(x)), function(quantize(x))
    )

    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    outer = torch.compile(lambda t: function(quantize(t)), fullgraph=True, backend=backend)
    results = outer(inputs[0]), function(quantize(inputs[1]))
    same(*results)
    if results[1].requires_grad:
        for result in results:
            result.sum().backward()
        assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_compiled_sum_asserts_equal_scales():
    add = torch.compile(lambda a, b: a + b, fullgraph=True, backend="eager")
    x, _ = make((3,), 0.1)
    same(add(x, x.set(scale=0.1)), x + x)
    with pytest.raises(RuntimeError, match="Scaling factors are different"):
        add(x, x.set(scale=0.2))


class Inner(nn.Module):
    """Quantizes and gives a quantized tensor."""

    def forward(self, x):
        return residual(quantize(x))


class Outer(nn.Module):
    """Takes a quantized tensor from a submodule and gives a plain one."""

    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return torch.tanh(self.inner(x))


class Block(nn.Module):
    """Takes and gives a quantized tensor."""

    def forward(self, q):
        return residual(q)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("module_class", [Inner, Outer, Block])
def test_exports(module_class, strict):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    argument = quantize(x) if module_class is Block else x
    program = torch.export.export(module_class(), (argument,), strict=strict)
    same(program.module()(argument), module_class()(argument))


def test_full_backward_hooks():
    outer, seen = Outer(), []
    outer.inner.register_full_backward_hook(lambda *arguments: seen.append(arguments))
    outer.inner.register_full_backward_pre_hook(lambda *arguments: None)
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    outer(x).sum().backward()
    assert len(seen) == 1 and torch.equal(seen[0][1][0], x.grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant):
    outer = Outer()
    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(outer(inputs).sum(), inputs)[0]
    checkpoint(outer, inputs, use_reentrant=use_reentrant).sum().backward()
    assert torch.equal(inputs.grad, expected)


def test_checkpointing_of_quantized_tensors():
    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    output = checkpoint(residual, quantize(inputs), use_reentrant=False)
    assert type(output) is IntQuantTensor
    output.sum().backward()
    assert inputs.grad is not None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_script_tracing():
    x = torch.randn(2, 3, 8, 8)
    traced = torch.jit.trace(Outer(), (x,))
    assert torch.equal(traced(x), Outer()(x))
    fields = torch.jit.trace(Inner(), (x,))(x)
    assert len(fields) == 6 and torch.equal(fields[0], Inner()(x).value)


def test_function_transforms():
    x = torch.randn(4, 3)
    fields = (x, torch.ones(4), torch.zeros(4), torch.full((4,), 8.0))
    q = IntQuantTensor._from_fields(*fields, True, True)  # one scale for each row of the batch
    assert torch.equal(torch.vmap(lambda row: row + row)(q).value, 2 * x)
    gradient = torch.func.grad(lambda t: residual(quantize(t[None, None])).sum())(x)
    assert gradient.shape == x.shape
