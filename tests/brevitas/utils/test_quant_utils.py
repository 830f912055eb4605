"""What is kept of a quantized tensor."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import (
    FloatQuantTensor,
    GroupwiseFloatQuantTensor,
    GroupwiseIntQuantTensor,
    IntQuantTensor,
)
from brevitas.utils import quant_utils as module
from brevitas.utils.quant_utils import (
    _CachedIO,
    _CachedIOFloat,
    _CachedIOGroupwiseFloat,
    _CachedIOGroupwiseInt,
    groupwise_dequant_expand,
)
from quant_tensors import KINDS

CACHES = {
    IntQuantTensor: (_CachedIO, "bit_width"),
    FloatQuantTensor: (
        _CachedIOFloat,
        "exponent_bit_width mantissa_bit_width exponent_bias saturating inf_values nan_values",
    ),
    GroupwiseIntQuantTensor: (_CachedIOGroupwiseInt, "bit_width group_size group_dim"),
    GroupwiseFloatQuantTensor: (
        _CachedIOGroupwiseFloat,
        "exponent_bit_width mantissa_bit_width exponent_bias saturating inf_values nan_values "
        "group_size group_dim",
    ),
}


def test_doctests():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("metadata_only", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_keeps_the_fields_of_every_kind(kind, metadata_only):
    x = KINDS[kind]((2, 6), training=True)[0]
    leaf = torch.ones((), requires_grad=True)
    x = x.set(**{name: getattr(x, name) * leaf for name in kind._tensor_fields[:2]})
    cache, names = CACHES[kind]
    kept = cache(x, metadata_only)
    assert kept.shape == (2, 6) and kept.training is True and kept.signed is True
    for name in ("scale", "zero_point", *names.split()):
        field, expected = getattr(kept, name), getattr(x, name)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(field, expected) and not field.requires_grad
        else:
            assert field == expected
    value = kept.quant_tensor.value
    assert value is None if metadata_only else torch.equal(value, x.value)


def test_metadata_of_groups_in_the_shape_of_the_tensor():
    fields = torch.arange(8.0).reshape(2, 2, 2), torch.tensor([[[1.0], [2.0]]] * 2), torch.zeros(())
    for dim in (1, -1):
        value, scale, zero_point = groupwise_dequant_expand(*fields, dim, (2, 3))
        assert value.tolist() == [[0, 1, 2], [4, 5, 6]]
        assert scale.tolist() == [[1, 1, 2]] * 2 and zero_point is fields[2]
    value, scale, _ = groupwise_dequant_expand(*fields, 1, (2, 3), expand_metadata=False)
    assert value.shape == (2, 3) and scale is fields[1]


@pytest.mark.parametrize("metadata_only", [True, False])
def test_keeps_detached_fields(metadata_only):
    scale = torch.tensor(0.5, requires_grad=True)
    x = IntQuantTensor(scale * torch.ones(2, 3), scale, 0.0, 4, False, True)
    kept = _CachedIO(x, metadata_only)
    assert kept.shape == (2, 3)
    assert torch.equal(kept.scale, scale) and not kept.scale.requires_grad
    assert kept.zero_point == 0 and kept.bit_width == 4
    assert kept.signed is False and kept.training is True
    if metadata_only:
        assert kept.quant_tensor.value is None
    else:
        assert torch.equal(kept.quant_tensor.value, x.value)
        assert not kept.quant_tensor.value.requires_grad
