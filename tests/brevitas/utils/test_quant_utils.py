"""What is kept of a quantized tensor."""

from __future__ import annotations

import pytest
import torch

from brevitas.quant_tensor import IntQuantTensor
from brevitas.utils.quant_utils import _CachedIO


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
