"""Layouts of multi-head attention, and the shapes that it takes."""

from __future__ import annotations

import pytest
import torch

from brevitas.nn._attention_heads import HeadLayout, check_shapes

LAYOUTS = {
    "sequence first": (HeadLayout(2, True, False), (5, 3, 8)),
    "batch first": (HeadLayout(2, True, True), (3, 5, 8)),
    "unbatched": (HeadLayout(2, False, False), (5, 8)),
    "unbatched, batch first": (HeadLayout(2, False, True), (5, 8)),
}


def checked(**changes):
    """Check shapes that fit, but for the changes."""
    arguments = {
        "query": torch.zeros(5, 3, 8),
        "key": torch.zeros(4, 3, 6),
        "value": torch.zeros(4, 3, 2),
        "key_padding_mask": None,
        "attn_mask": None,
        "batch_first": False,
        **changes,
    }
    tensors = {name: arguments[name] for name in ("query", "key", "value")}
    masks = (arguments["key_padding_mask"], arguments["attn_mask"])
    features = {"query": 8, "key": 6, "value": 2}
    return check_shapes(tensors, features, *masks, 2, arguments["batch_first"], "layer")


@pytest.mark.parametrize("name", LAYOUTS)
class TestLayout:
    def test_split_gives_each_head_its_features(self, name):
        layout, shape = LAYOUTS[name]
        x = torch.randn(shape)
        heads = layout.split(x)
        assert heads.shape == (3 if layout.is_batched else 1, 2, 5, 4)
        row = x.select(layout.sequence_dim, 3)
        row = row if layout.is_batched else row.unsqueeze(0)
        for head in range(2):
            assert torch.equal(heads[:, head, 3], row[:, 4 * head : 4 * head + 4])

    def test_merge_undoes_split(self, name):
        layout, shape = LAYOUTS[name]
        x = torch.randn(shape)
        assert torch.equal(layout.merge(layout.split(x)), x)

    def test_unfold_undoes_flatten(self, name):
        layout, shape = LAYOUTS[name]
        heads = layout.split(torch.randn(shape))
        assert torch.equal(layout.unfold(heads.flatten(0, 1)), heads)

    def test_masks_fit_the_scores(self, name):
        layout, _ = LAYOUTS[name]
        batch = 3 if layout.is_batched else 1
        scores = torch.zeros(batch, 2, 5, 4)
        pairs = torch.randn(batch * 2, 5, 4)
        padding = torch.randn(batch, 4) if layout.is_batched else torch.randn(4)
        added = scores + layout.attention_mask(pairs, torch.float32)
        assert torch.equal(added.flatten(0, 1), pairs)
        added = scores + layout.padding_mask(padding, torch.float32)
        assert torch.equal(added[:, 1, 2], padding.reshape(batch, 4))
        for mask in (pairs, torch.randn(5, 4)):
            mask = layout.attention_mask(mask, torch.float32)
            flat = scores.flatten(0, 1) + layout.mask_of_heads(mask)
            assert torch.equal(flat, (scores + mask).flatten(0, 1))
        mask = layout.padding_mask(padding, torch.float32)
        flat = scores.flatten(0, 1) + layout.mask_of_heads(mask)
        assert torch.equal(flat, (scores + mask).flatten(0, 1))


def test_no_mask_stays_none():
    assert HeadLayout(2, True, True).mask_of_heads(None) is None


def test_layout_of_what_fits():
    assert checked() == HeadLayout(2, True, False)
    swapped = {"query": torch.zeros(3, 5, 8), "key": torch.zeros(3, 4, 6)}
    assert checked(**swapped, value=torch.zeros(3, 4, 2), batch_first=True).batch_first
    flat = {"query": torch.zeros(5, 8), "key": torch.zeros(4, 6), "value": torch.zeros(4, 2)}
    assert not checked(**flat).is_batched
    checked(**flat, key_padding_mask=torch.zeros(4), attn_mask=torch.zeros(2, 5, 4))
    checked(key_padding_mask=torch.zeros(3, 4), attn_mask=torch.zeros(6, 5, 4))
    checked(attn_mask=torch.zeros(5, 4, dtype=torch.bool))


WRONG = {
    "features of query": (
        {"query": torch.zeros(5, 3, 7)},
        r"query of shape \(5, 3, 7\).*\[L, N, 8",
    ),
    "features of key": ({"key": torch.zeros(4, 3, 8)}, r"key of shape \(4, 3, 8\).*\[S, N, 6"),
    "features of value": ({"value": torch.zeros(4, 3, 8)}, r"value of shape .*\[S, N, 2"),
    "rank of query": ({"query": torch.zeros(1, 5, 3, 8)}, r"query of shape .*or \[L, 8\]"),
    "rank of key": ({"key": torch.zeros(4, 6)}, r"key of shape \(4, 6\).*as query \(3\)"),
    "number of values": ({"value": torch.zeros(5, 3, 2)}, "same number of keys and batches"),
    "batch": ({"query": torch.zeros(5, 2, 8)}, "same batch size.*dimension 1 .batch_first=False"),
    "padding": ({"key_padding_mask": torch.zeros(4, 3)}, r"key_padding_mask of .*\(3, 4\)"),
    "pairs": ({"attn_mask": torch.zeros(4, 5)}, r"attn_mask of .*\(5, 4\) or \(6, 5, 4\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case):
    changes, message = WRONG[case]
    with pytest.raises(ValueError, match=message + ".*Layer: layer"):
        checked(**changes)
