"""What a quantizer refuses as a part of itself."""

from __future__ import annotations

import pytest
from torch import nn

from brevitas.core.quant._parts import check_parts


@pytest.mark.parametrize("part", [8, None, nn.ReLU, "round"])
def test_a_part_is_a_module(part):
    check_parts(rounding=nn.ReLU())
    with pytest.raises(TypeError, match=r"rounding=.*: expected a torch\.nn\.Module"):
        check_parts(rounding=part)
