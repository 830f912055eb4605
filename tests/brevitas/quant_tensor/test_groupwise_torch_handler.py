"""Tests of the torch functions that keep groups whole, and of those that take them apart."""

from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
import torch.nn.functional as F

from brevitas.quant_tensor import GroupwiseIntQuantTensor
from quant_tensors import make_groups


def groups(shape, size=4, dim=1):
    return make_groups(GroupwiseIntQuantTensor, shape, size, dim)


@pytest.mark.parametrize("dim", [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permutations_move_the_groups(dim, order):
    x, integers = groups((3, 6, 5), 4, dim)
    y = x.permute(order)
    assert type(y) is GroupwiseIntQuantTensor and y.group_size == 4
    assert torch.equal(y.int().double(), integers.permute(order))
    assert (y.group_dim < 0) is (dim < 0)
    assert order[y.group_dim % 3] == dim % 3
    same = y.set()  # the constructor checks that the fields belong together
    assert same.shape == integers.permute(order).shape


@pytest.mark.parametrize(
    "permute",
    [
        lambda x: x.transpose(-1, 0),
        lambda x: torch.transpose(x, dim0=0, dim1=2),
        lambda x: x.swapaxes(axis0=1, axis1=-1),
        lambda x: torch.swapdims(x, 1, 1),
        lambda x: x.permute((2, 0, -2)),
        lambda x: x.permute(dims=[1, 2, 0]),
        lambda x: torch.permute(x, (-1, 0, 1)),
        lambda x: x.movedim(0, -1),
        lambda x: torch.moveaxis(x, (0, 1), (2, 0)),
        lambda x: torch.movedim(x, source=(2, 0), destination=(0, 1)),
    ],
)
def test_every_way_to_permute(permute):
    x, integers = groups((3, 6, 5))
    y = permute(x)
    assert type(y) is GroupwiseIntQuantTensor
    assert torch.equal(y.set().int().double(), permute(integers))


def test_transposition_of_a_matrix():
    x, integers = groups((3, 6))
    for y in (x.t(), torch.t(x)):
        assert y.group_dim == 0 and torch.equal(y.set().int().double(), integers.t())


# Shape, group size and dimension, new shape, dimension of the groups or None.
RESHAPES = [
    ((2, 8), 4, 1, (16,), 0),
    ((2, 8), 4, 1, (4, 4), 1),
    ((2, 8), 4, 1, (2, 2, 4), 2),
    ((2, 8), 4, 1, (8, 2), None),
    ((2, 8), 4, -1, (2, 1, 8), -1),
    ((2, 6), 4, 1, (12,), None),
    ((2, 6), 4, 1, (1, 2, 6, 1), 2),
    ((2, 6), 4, 1, (2, 2, 3), None),
    ((2, 3, 6), 4, 2, (6, 6), 1),
    ((2, 3, 6), 4, 2, (18, 2), None),
    ((4, 8, 3, 3), 4, 1, (4, 8, 9), 1),
    ((4, 8, 3, 3), 4, 1, (32, 3, 3), 0),
    ((4, 8, 3, 3), 4, 1, (4, 2, 4, 9), 2),
    ((4, 8, 3, 3), 4, 1, (4, 72), None),
    ((4, 8, 3, 3), 4, -3, (4, 8, 9), -2),
    ((8, 5), 4, 0, (2, 4, 5), 1),
    ((8, 5), 4, 0, (4, 2, 5), None),
    ((3, 1), 4, 1, (3,), None),
    ((6,), 4, 0, (6,), 0),
]


@pytest.mark.parametrize(("shape", "size", "dim", "new", "new_dim"), RESHAPES)
def test_reshapes(shape, size, dim, new, new_dim):
    x, integers = groups(shape, size, dim)
    y = x.reshape(new)
    assert y.shape == new
    if new_dim is None:
        assert type(y) is torch.Tensor and torch.equal(y, x.value.reshape(new))
    else:
        assert type(y) is GroupwiseIntQuantTensor and y.group_dim == new_dim
        assert torch.equal(y.set().int().double(), integers.reshape(new))
        assert torch.equal(y.value, x.value.reshape(new))


def _factors(generator, product):
    """A random shape of so many elements."""
    shape = []
    while product > 1:
        divisors = [d for d in range(1, product + 1) if product % d == 0]
        shape.append(generator.choice(divisors))
        product //= shape[-1]
    return tuple(shape) or (1,)


def _scale_runs_in_groups(scale, dim, size):
    """Whether there is one scale for every `size` elements along a dimension."""
    rows = scale.movedim(dim, -1).reshape(-1, scale.shape[dim])
    return all(bool((part == part[:, :1]).all()) for part in rows.split(size, -1))


@pytest.mark.parametrize("seed", range(60))
def test_any_reshape_keeps_the_groups_or_is_plain(seed):
    generator = random.Random(seed)
    elements, size = generator.choice([24, 36, 64]), generator.choice([2, 3, 4])
    shape, new = _factors(generator, elements), _factors(generator, elements)
    dim = generator.randrange(len(shape))
    x, integers = groups(shape, size, dim)
    y = x.reshape(new)
    expected = x.scale.reshape(new)
    if type(y) is torch.Tensor:
        whole = shape[dim] % size == 0 and math.prod(x.scale_.shape) > 1
        last = [d for d, n in enumerate(new) if n != 1][-1]
        # A tensor of whole groups whose elements are in line could not have been kept.
        if whole and dim == len(shape) - 1 and new[last] % size == 0:
            assert not _scale_runs_in_groups(expected, last, size)
        assert torch.equal(y, x.value.reshape(new))
    else:
        assert torch.equal(y.set().scale, expected) and y.is_valid
        assert torch.equal(y.int().double(), integers.reshape(new))


def test_scales_stay_small():
    x, _ = groups((2, 8, 6, 6))
    shared = x.set(scale_=x.scale_[:, :, :, :1, :1], value_=torch.zeros_like(x.value_))
    assert shared.flatten(2).scale_.shape == (2, 2, 1, 1)
    assert shared.permute(0, 2, 3, 1).scale_.shape == (2, 1, 1, 2, 1)
    one = shared.set(scale_=0.5)
    assert one.flatten(2).scale_.shape == () and one.permute(0, 2, 3, 1).scale_.shape == ()


def test_views_of_a_filled_up_group():
    x, integers = groups((2, 3, 6), 4, 2)
    assert not x.value.is_contiguous()
    assert torch.equal(x.view(6, 6).int().double(), integers.view(6, 6))
    assert torch.equal(x.view(-1), x.value.reshape(-1))


def test_an_empty_tensor_is_plain():
    x, _ = groups((0, 8))
    assert type(x.reshape(8, 0)) is torch.Tensor and x.shape == (0, 8)


def test_windows_would_mix_scales():
    x, _ = groups((2, 8, 4, 4))
    for y in (F.max_pool2d(x, 3, 1, 1), F.pad(x, (1, 1)), F.interpolate(x, scale_factor=2)):
        assert type(y) is torch.Tensor


def test_selections_fill_up_the_last_group():
    x, integers = groups((2, 6))
    y = F.hardtanh(x, 0.0, 1e9)
    assert type(y) is GroupwiseIntQuantTensor
    assert torch.equal(y.int().double(), integers.clamp(min=0))
    assert torch.equal(y.value_.reshape(2, 8)[:, 6:], torch.zeros(2, 2))
