"""Tests of groups: how they are stored, and the shape of the tensor that they make."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import GroupwiseFloatQuantTensor, GroupwiseIntQuantTensor
from brevitas.quant_tensor import _group_mixin as module
from brevitas.utils.groups import merge_groups
from quant_tensors import make_groups

KINDS = (GroupwiseIntQuantTensor, GroupwiseFloatQuantTensor)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
# Shape, group size, dimension, shape of the groups.
CASES = [
    ((2, 8), 4, 1, (2, 2, 4)),
    ((2, 8), 4, -1, (2, 2, 4)),
    ((2, 6), 4, 1, (2, 2, 4)),
    ((2, 3), 4, -1, (2, 1, 4)),
    ((7, 2), 3, 0, (3, 3, 2)),
    ((7, 2), 3, -2, (3, 3, 2)),
    ((5,), 2, 0, (3, 2)),
    ((4, 10, 3, 3), 4, 1, (4, 3, 4, 3, 3)),
    ((4, 10, 3, 3), 4, -3, (4, 3, 4, 3, 3)),
    ((2, 5, 1, 4), 4, 3, (2, 5, 1, 1, 4)),
    ((3, 6), 1, 1, (3, 6, 1)),
]
cases = pytest.mark.parametrize(("shape", "size", "dim", "grouped"), CASES)


def test_doctests():
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0


@kinds
@cases
def test_values_have_the_shape_of_the_tensor(kind, shape, size, dim, grouped):
    x, numbers = make_groups(kind, shape, size, dim)
    assert x.value_.shape == grouped and x.shape == x.value.shape == shape
    assert (x.group_size, x.group_dim, x.dequant_shape) == (size, dim, torch.Size(shape))
    scales = x.scale_.expand(grouped)
    # Each element has the scale of the group that it is in.
    index = torch.arange(shape[dim])
    stored = scales.movedim((dim % len(shape), dim % len(shape) + 1), (0, 1))
    expected = stored[index // size, index % size].movedim(0, dim)
    assert torch.equal(x.scale, expected)
    assert torch.equal(x.value.double(), (numbers * expected).float().double())
    assert x.zero_point.shape == () and x.is_valid


@kinds
@cases
def test_filling_up_is_zero_and_does_not_count(kind, shape, size, dim, grouped):
    x, _ = make_groups(kind, shape, size, dim)
    merged = x.value_.flatten(dim % len(shape), dim % len(shape) + 1)
    tail = merged.narrow(dim, shape[dim], merged.shape[dim] - shape[dim])
    assert torch.equal(tail, torch.zeros_like(tail))
    # What fills up a group is no value of the tensor.
    filled = x.value_.clone().flatten(dim % len(shape), dim % len(shape) + 1)
    filled.narrow(dim, shape[dim], filled.shape[dim] - shape[dim]).fill_(float("inf"))
    y = x.set(value_=filled.reshape(grouped))
    assert torch.equal(y.value, x.value) and y.is_valid is True


@cases
def test_groups_of_a_tensor(shape, size, dim, grouped):
    t = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for kind in KINDS:
        groups = kind.from_expanded(t, size, dim)
        assert groups.shape == grouped
        assert torch.equal(merge_groups(groups, dim % len(shape), shape[dim]), t)
        first = kind.from_expanded(t, size, dim, compress=True)
        assert torch.equal(first, groups.narrow(dim % len(shape) + 1, 0, 1))


@kinds
def test_scales_come_back_from_the_shape_of_the_tensor(kind):
    x, _ = make_groups(kind, (2, 6, 3), 4, 1)
    assert torch.equal(kind.from_expanded(x.scale, 4, 1, compress=True), x.scale_)


@kinds
def test_expand(kind):
    x, _ = make_groups(kind, (2, 6), 4, 1)
    value, scale, zero_point = x.expand()
    assert torch.equal(value, x.value) and torch.equal(scale, x.scale) and zero_point.shape == ()
    value, scale, zero_point = x.expand(expand_metadata=False)
    assert torch.equal(value, x.value) and scale is x.scale_ and zero_point is x.zero_point_
    assert torch.equal(x.expand(3, 2, 6), x.value.expand(3, 2, 6))


@kinds
def test_zero_points_of_groups(kind):
    x, _ = make_groups(kind, (2, 6), 4, 1)
    y = x.set(zero_point_=torch.ones_like(x.scale_), value_=x.value_ - x.scale_)
    assert y.zero_point.shape == (2, 6) and (y.zero_point == 1).all()
    assert y.is_valid and torch.equal(y.int(), x.int())


@kinds
def test_a_shape_that_is_not_given_has_full_groups(kind):
    x, _ = make_groups(kind, (2, 8), 4, -1)
    assert x.set(dequant_shape=None).dequant_shape == torch.Size((2, 8))
    y, _ = make_groups(kind, (2, 6), 4, -1)
    assert y.set(dequant_shape=None).shape == (2, 8)


def test_group_data_may_come_as_tensors():
    x, _ = make_groups(GroupwiseIntQuantTensor, (2, 6), 4, 1)
    y = x.set(group_size=torch.tensor(4), group_dim=torch.tensor(1), dequant_shape=[2, 6])
    assert (y.group_size, y.group_dim) == (4, 1)
    assert type(y.group_size) is int and type(y.dequant_shape) is torch.Size


@kinds
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"group_size": 3},
            r"group_size=3, value of shape \(2, 2, 4\)\): expected values in",
        ),
        ({"group_dim": 2}, r"group_dim=2.* from -2 to 1"),
        ({"group_dim": -3}, r"group_dim=-3"),
        ({"dequant_shape": (2, 9)}, r"dequant_shape=\(2, 9\)\): expected the shape \(2, 8\)"),
        ({"dequant_shape": (2, 4)}, r"without what fills up the last one, in dimension 1"),
        ({"dequant_shape": (3, 6)}, "expected the shape"),
        ({"dequant_shape": (6,)}, "expected the shape"),
        ({"value_": torch.ones(4)}, "group_dim=1, value of shape"),
    ],
)
def test_wrong_groups_are_refused(kind, change, message):
    x, _ = make_groups(kind, (2, 6), 4, 1)
    with pytest.raises(ValueError, match=message):
        x.set(**change)


@kinds
def test_gradients_reach_values_and_scales(kind):
    numbers = torch.randint(-8, 8, (2, 6)).float()
    scale = torch.rand(2, 2, 1, requires_grad=True)
    x, _ = make_groups(kind, (2, 6), 4, 1)
    x = x.set(value_=kind.from_expanded(numbers, 4, 1) * scale, scale_=scale)
    weights = torch.randn(2, 6)
    (x.value * weights + x.scale).sum().backward()
    own = torch.nn.functional.pad(numbers * weights + 1, (0, 2)).reshape(2, 2, 4).sum(-1)
    torch.testing.assert_close(scale.grad[..., 0], own)


@kinds
def test_a_batch_taken_off_leaves_the_groups_at_their_place(kind):
    x, _ = make_groups(kind, (3, 2, 6), 4, 2)
    shared = {name: None for name in kind._tensor_fields}
    made = kind._from_context({**_fields(x), "value_": x.value_[0]})
    assert made["group_dim"] == -1 and made["dequant_shape"] == torch.Size((2, 6))
    assert set(shared) <= set(made)


def _fields(x):
    fields = x._constructor_arguments()
    return {**fields, **dict(zip(x._constants, x._context(), strict=True))}
