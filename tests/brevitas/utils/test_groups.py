"""Tests of splitting a dimension into groups and merging it again."""

from __future__ import annotations

import pytest
import torch

from brevitas.utils.groups import expand_over_groups, grouped_shape, merge_groups, split_groups


@pytest.mark.parametrize("size", [1, 3, 4, 7, 9])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_merging_undoes_splitting(dim, size):
    x = torch.arange(105.0).reshape(3, 5, 7) + 1
    groups = split_groups(x, size, dim)
    assert groups.shape == grouped_shape(x.shape, size, dim)
    assert torch.equal(merge_groups(groups, dim, x.shape[dim]), x)
    # What fills up the last group is zero.
    assert (groups == 0).sum() == groups.numel() - x.numel()
    field = groups.narrow(dim + 1, 0, 1)
    spread = expand_over_groups(field, groups.shape, dim, x.shape[dim])
    assert torch.equal(split_groups(spread, size, dim).narrow(dim + 1, 0, 1), field)
    for first, row in zip(field.unbind(dim), spread.split(size, dim), strict=True):
        assert torch.equal(first.expand_as(row), row)


def test_one_number_stays_one():
    number = torch.tensor([0.5])
    assert expand_over_groups(number, (2, 3, 4), 1, 10) is number
    assert expand_over_groups(number.reshape(1, 1), (1, 4), 0, 3).shape == (3,)
