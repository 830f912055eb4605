"""Folding of batch normalizations and renaming of keys."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.nn.utils import (
    check_tensors_same_ptr,
    merge_bn,
    mul_add_from_bn,
    rename_state_dict_by_postfix,
    rename_state_dict_by_prefix,
)


def batch_norm(dims, channels, affine=True):
    torch.manual_seed(0)
    bn = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dims - 1](channels, affine=affine).eval()
    bn.running_mean.normal_()
    bn.running_var.uniform_(0.5, 2.0)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    return bn


@pytest.mark.parametrize("affine", [True, False])
def test_affine_form(affine):
    bn = batch_norm(1, 4, affine)
    factor, offset = mul_add_from_bn(bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)
    x = torch.randn(5, 4)
    torch.testing.assert_close(x * factor + offset, bn(x))


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [True, False])
def test_merge(dims, bias, groups, transposed):
    torch.manual_seed(0)
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    layer = getattr(nn, name)(4, 6, 3, bias=bias, groups=groups)
    bn = batch_norm(dims, 6)
    x = torch.randn(2, 4, *[4] * dims)
    expected = bn(layer(x))
    merge_bn(layer, bn, output_channel_dim=1 if transposed else 0)
    # Sums of up to 4 * 27 float32 products of either order.
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=2e-5)


def test_merge_needs_statistics():
    with pytest.raises(ValueError, match="expected running statistics"):
        merge_bn(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))


def test_same_storage():
    x = torch.zeros(4)
    assert check_tensors_same_ptr([x, x.view(2, 2)])
    assert not check_tensors_same_ptr([x, x.clone()])


def test_rename():
    state = {"a.w": 1, "ab.w": 2, "a.b": 3}
    rename_state_dict_by_prefix("a.", "new.", state)
    assert state == {"new.w": 1, "ab.w": 2, "new.b": 3}
    rename_state_dict_by_postfix(".w", ".weight", state)
    assert state == {"new.weight": 1, "ab.weight": 2, "new.b": 3}
