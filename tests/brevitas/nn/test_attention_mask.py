"""Masks of attention: what they mean, and that no row of a softmax is empty."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from brevitas.nn._attention_mask import (
    additive_mask,
    causal_mask,
    check_mask_dtype,
    extend_mask,
    join_masks,
    open_empty_rows,
    split_blocking,
)

INFINITY = float("inf")


@pytest.mark.parametrize("blocks", [True, False])
def test_boolean_mask_blocks_where_it_says_so(blocks):
    mask = torch.tensor([[True, False, True]])
    added = additive_mask(mask, torch.float64, blocks)
    assert added.dtype == torch.float64
    assert torch.equal(added == -INFINITY, mask == blocks)
    assert torch.equal(added[mask != blocks], torch.zeros(int((mask != blocks).sum())).double())


def test_float_mask_is_cast_only():
    mask = torch.tensor([0.5, -INFINITY])
    assert torch.equal(additive_mask(mask, torch.bfloat16, blocks=True), mask.bfloat16())


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (5, 2)])
def test_causal_mask_is_that_of_torch(shape):
    queries, keys = (torch.randn(1, size, 4) for size in shape)
    mask = causal_mask(*shape, queries)
    torch.testing.assert_close(
        F.scaled_dot_product_attention(queries, keys, keys, mask),
        F.scaled_dot_product_attention(queries, keys, keys, is_causal=True),
    )


def test_masks_join_by_sum():
    first, second = torch.tensor([0.0, -INFINITY]), torch.tensor([1.0, -INFINITY])
    assert join_masks(None, None) is None
    assert join_masks(first, None) is first
    assert join_masks(None, second) is second
    assert torch.equal(join_masks(first, second), torch.tensor([1.0, -INFINITY]))


def test_extended_mask_opens_what_is_new():
    mask = torch.full((2, 3), -INFINITY)
    extended = extend_mask(mask, 2)
    assert extended.shape == (2, 5)
    assert torch.equal(extended[:, 3:], torch.zeros(2, 2))
    assert extend_mask(mask, 0) is mask
    assert extend_mask(None, 2) is None


def test_empty_rows_are_opened_and_named():
    mask = torch.tensor([[-INFINITY, -INFINITY], [0.0, -INFINITY], [0.0, 0.0]])
    opened, empty = open_empty_rows(mask)
    assert empty.flatten().tolist() == [True, False, False]
    assert torch.equal(opened[0], torch.zeros(2))
    assert torch.equal(opened[1:], mask[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_parts_sum_up_to_the_mask(dtype):
    lowest = torch.finfo(dtype).min
    mask = torch.tensor([0.0, 0.25, -3.0, lowest, -INFINITY], dtype=dtype)
    finite, blocking = split_blocking(mask)
    assert torch.equal(finite + blocking, mask)
    assert float(finite.abs().max()) == 3.0
    assert torch.equal(blocking != 0, torch.tensor([False, False, False, True, True]))


def test_other_dtypes_are_refused():
    check_mask_dtype("attn_mask", torch.ones(2, dtype=torch.bool), True, "layer")
    check_mask_dtype("attn_mask", torch.ones(2, dtype=torch.float16), True, "layer")
    with pytest.raises(TypeError, match=r"attn_mask of dtype torch.int64: expected torch.bool"):
        check_mask_dtype("attn_mask", torch.ones(2, dtype=torch.int64), True, "layer")
