"""Views as [outer, channel, inner]: they come back unchanged, and broadcast as the originals do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.ops.layout import layout_of

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def tensors_and_channels(draw):
    """A tensor in any dense memory order, and a parameter along at most one of its dimensions."""
    shape = draw(SHAPES)
    order = draw(st.permutations(range(len(shape))))
    x = torch.randn([shape[dim] for dim in order])
    x = x.permute([order.index(dim) for dim in range(len(shape))])
    channel = draw(st.none() | st.integers(0, len(shape) - 1))
    sizes = [size if dim == channel else 1 for dim, size in enumerate(shape)]
    leading = draw(st.integers(0, len(shape))) if channel is None else 0
    return x, torch.rand(sizes[leading:])


@given(tensors_and_channels())
def test_the_view_computes_what_the_tensors_compute(pair):
    x, parameter = pair
    layout = layout_of(x, parameter.shape)
    if x.numel() < 2:
        assert layout is None
        return
    flat = layout.flatten(x)
    assert flat.data_ptr() == x.data_ptr()
    assert min(flat.shape) >= 2
    product = layout.restore(flat * layout.flatten_channels(parameter))
    assert torch.equal(product, x * parameter)
    strides = zip(x.shape, layout.restore(flat).stride(), x.stride(), strict=True)
    assert all(ours == theirs for size, ours, theirs in strides if size > 1)


@pytest.mark.parametrize(
    ("shape", "parameter", "kind"),
    [
        ((5, 3), (), "flat"),
        ((5, 3), (1, 1), "flat"),
        ((5, 1, 1), (5, 1, 1), "elements"),
        ((5, 3, 2), (5, 1, 1), "rows"),
        ((5, 3), (3,), "columns"),
        ((5, 3, 2), (3, 1), "blocks"),
        ((1, 3, 2), (1, 3, 1), "rows"),
    ],
)
def test_kinds(shape, parameter, kind):
    assert layout_of(torch.zeros(shape), torch.Size(parameter)).kind == kind


def test_channels_last_images_are_columns():
    x = torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last)
    layout = layout_of(x, torch.Size((1, 3, 1, 1)))
    assert (layout.kind, layout.size) == ("columns", (40, 3))
    restored = layout.restore(layout.flatten(x))
    assert restored.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("shape", "parameter", "kind", "size"),
    [
        ((6, 2, 4), (6, 2, 1), "rows", (12, 4)),
        ((2, 4, 8), (2, 1, 8), "groups", (2, 4, 8)),
        ((6, 2, 4, 3, 3), (6, 2, 1, 3, 3), "groups", (12, 4, 9)),
        ((6, 1, 4, 1, 1), (6, 1, 1, 1, 1), "rows", (6, 4)),
        ((6, 8, 1), (6, 8, 1), "elements", (48,)),
        ((5, 3), (5, 3), "elements", (15,)),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_one_number_per_group(shape, parameter, kind, size, transposed):
    x, scale = torch.randn(shape), torch.rand(parameter)
    if transposed:  # other strides, in which the groups are read one by one all the same
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    layout = layout_of(x, scale.shape)
    assert (layout.kind, layout.size) == (kind, size)
    flat = layout.flatten(x) * layout.flatten_channels(scale)
    assert torch.equal(layout.restore(flat), x * scale)
    assert torch.equal(layout.restore_owned(flat), x * scale)


@pytest.mark.parametrize("shapes", [[(5, 3), (5, 1)], [(5, 1), (3,)], [(2, 5, 3)], [(7, 1)]])
def test_parameters_that_no_layout_serves(shapes):
    assert layout_of(torch.zeros(5, 3), *map(torch.Size, shapes)) is None


def test_memory_with_gaps_is_copied():
    x = torch.arange(12.0).reshape(3, 4)[:, ::2]
    layout = layout_of(x, torch.Size((3, 1)))
    assert torch.equal(layout.restore(layout.flatten(x)), x)
