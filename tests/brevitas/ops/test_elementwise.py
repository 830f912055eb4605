"""Tests of what fused elementwise operations share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from brevitas.ops._elementwise import batch_first, is_expandable, needs_autograd, reduced_to


def test_autograd_is_needed_for_gradients_and_transforms():
    leaf = torch.ones(2, requires_grad=True)
    assert needs_autograd((None, 1.0, leaf))
    with torch.no_grad():
        assert not needs_autograd((leaf,))
    seen = []
    torch.vmap(lambda x: seen.append(needs_autograd((x,))) or x)(torch.ones(2))
    with torch.autograd.forward_ad.dual_level():
        seen.append(needs_autograd((torch.ones(2),)))
    assert seen == [True, True]


@pytest.mark.parametrize(
    ("own", "shape", "fits"),
    [((), (2, 3), True), ((2, 1), (2, 3), True), ((2, 3), (3,), False), ((4, 1), (1, 3), False)],
)
def test_what_broadcasts_to_a_shape(own, shape, fits):
    assert is_expandable(torch.ones(own), torch.ones(shape)) is fits


def test_gradients_are_summed_where_operands_were_broadcast():
    grad = torch.arange(6.0).reshape(2, 3)
    for shape in ((), (3,), (2, 1), (1, 3), (2, 3)):
        operand = torch.ones(shape, dtype=torch.float64, requires_grad=True)
        (expected,) = torch.autograd.grad((operand * grad).sum(), operand)
        assert torch.equal(reduced_to(operand, grad), expected)


@pytest.mark.parametrize("dims", [(0, None), (1, 0), (None, 0), (2, 1)])
def test_batches_come_first_and_broadcast(dims):
    x, scale = torch.rand(4, 4, 4), torch.rand(4, 4)
    x = x if dims[0] is not None else x[0]
    scale = scale if dims[1] is not None else scale[0]
    expected = torch.vmap(torch.mul, in_dims=dims)(x, scale)
    aligned = batch_first(SimpleNamespace(batch_size=4), dims, (x, scale))
    assert torch.equal(torch.mul(*aligned), expected)
