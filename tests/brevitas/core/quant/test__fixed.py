"""A fixed grid gives what its quantizer gives, and is refused where the quantizer looks on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.core.quant._fixed import fixed_grid, joint_grid
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.quant import (
    Int8WeightPerChannelFloat,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
)
from brevitas.quant.scaled_int import Int8ActPerTensorFloat


def quantizer(**keywords):
    layer = QuantIdentity(act_quant=keywords.pop("act_quant", Int8ActPerTensorFloat), **keywords)
    layer(torch.randn(50))
    return layer.eval().act_quant.fused_activation_quant_proxy.tensor_quant


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"bit_width": 3},
        {"bit_width_impl_type": "parameter"},
        {"act_quant": ShiftedUint8ActPerTensorFloat},
        {"restrict_scaling_type": "power_of_two"},
    ],
    ids=str,
)
def test_gives_the_values_of_the_quantizer(keywords):
    torch.manual_seed(0)
    tensor_quant, x = quantizer(**keywords), torch.randn(20)
    grid = fixed_grid(tensor_quant)
    value, scale, zero_point, bit_width = tensor_quant(x)
    assert torch.equal(grid.quantize(x), value)
    assert torch.equal(grid.scale, scale) and torch.equal(grid.zero_point, zero_point)
    assert torch.equal(grid.bit_width, bit_width)


def test_collecting_quantizer_is_called():
    tensor_quant = quantizer(collect_stats_steps=2)
    assert fixed_grid(tensor_quant) is not None
    assert fixed_grid(tensor_quant.train()) is None
    tensor_quant(torch.randn(50))
    # The last batches are kept, to tell a recomputation of theirs.
    assert fixed_grid(tensor_quant) is None
    for _ in range(70):
        tensor_quant(torch.randn(50))
    assert fixed_grid(tensor_quant) is not None


@pytest.mark.parametrize("part", ["", "scaling_impl", "int_quant", "msb_clamp_bit_width_impl"])
def test_hooked_part_is_called(part):
    tensor_quant = quantizer()
    tensor_quant.get_submodule(part).register_forward_hook(lambda *_: None)
    assert fixed_grid(tensor_quant) is None


def test_other_quantizers_are_called():
    assert fixed_grid(None) is None
    assert fixed_grid(nn.Identity()) is None
    assert fixed_grid(quantizer(act_quant=SignedBinaryActPerTensorConst)) is None


def test_weight_that_is_alone_is_read():
    first, second = (QuantLinear(3, 2, weight_quant=Int8WeightPerChannelFloat) for _ in range(2))
    assert fixed_grid(first.weight_quant.tensor_quant) is None
    shared = QuantLinear(3, 2, weight_quant=second.weight_quant)
    grid = fixed_grid(second.weight_quant.tensor_quant)
    for layer in (second, shared):
        assert torch.equal(grid.quantize(layer.weight), layer.quant_weight().value)


class TestStackedGrids:
    def test_each_tensor_has_its_grid(self):
        torch.manual_seed(0)
        grids = [fixed_grid(quantizer(bit_width=bits)) for bits in (8, 4, 3)]
        x = torch.randn(5, 3, 7)
        joint = joint_grid(grids).quantize(x)
        parts = [grid.quantize(part) for grid, part in zip(grids, x.unbind(1), strict=True)]
        assert torch.equal(joint, torch.stack(parts, dim=1))

    def test_grids_that_share_no_operation(self):
        plain, shifted = quantizer(), quantizer(act_quant=ShiftedUint8ActPerTensorFloat)
        assert joint_grid([fixed_grid(plain), fixed_grid(shifted)]) is None
        other = quantizer(float_to_int_impl_type="floor")
        assert joint_grid([fixed_grid(plain), fixed_grid(other)]) is None

    def test_rows(self):
        torch.manual_seed(0)
        grids = [fixed_grid(quantizer(bit_width=bits)) for bits in (8, 4)]
        x = torch.randn(6, 5)
        joint = joint_grid(grids, 3).quantize(x)
        parts = [grid.quantize(part) for grid, part in zip(grids, x.split(3), strict=True)]
        assert torch.equal(joint, torch.cat(parts))
        assert joint_grid([grids[0], grids[0]], 3) is grids[0]
