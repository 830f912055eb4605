"""A fixed grid gives what its quantizer gives, and is refused where the quantizer looks on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter
from brevitas.core.quant import IntQuant, PrescaledRestrictIntQuant
from brevitas.core.quant._fixed import at_given_scale, fixed_grid, fixed_grids, joint_grid
from brevitas.nn import QuantIdentity, QuantLinear, QuantLSTM
from brevitas.ops.fake_quant import FakeQuantPlan
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


HOOKED = [
    "",
    "int_quant",
    "int_quant.float_to_int_impl",
    "int_scaling_impl",
    "msb_clamp_bit_width_impl",
    "msb_clamp_bit_width_impl.bit_width",
    "scaling_impl",
    "scaling_impl.restriction",
    "scaling_impl.restriction.clamp_scaling.clamp_min_ste",
    "zero_point_impl.zero_point",
]


@pytest.mark.parametrize("part", HOOKED)
def test_hooked_part_is_called(part):
    tensor_quant = quantizer()
    tensor_quant.get_submodule(part).register_forward_hook(lambda *_: None)
    assert fixed_grid(tensor_quant) is None


# The restriction is no module that is called.
@pytest.mark.parametrize("part", [part for part in HOOKED if part != "scaling_impl.restriction"])
def test_a_hook_sees_every_step(part):
    layer, calls = QuantLSTM(4, 3), []
    with torch.no_grad():
        layer(torch.randn(2, 2, 4))
    proxy = layer.eval().layers[0][0].cell.cell_tanh_quant
    module = proxy.fused_activation_quant_proxy.tensor_quant.get_submodule(part)
    module.register_forward_hook(lambda *_: calls.append(1))
    layer(torch.randn(5, 2, 4))
    assert len(calls) >= 5


class TestSeveralGrids:
    def test_each_is_that_of_its_quantizer(self):
        torch.manual_seed(0)
        several = [
            quantizer(),
            quantizer(),
            quantizer(bit_width=4),
            quantizer(restrict_scaling_type="power_of_two"),
            quantizer(restrict_scaling_type="power_of_two"),
            quantizer(scaling_min_val=9.0),
            quantizer(act_quant=ShiftedUint8ActPerTensorFloat),
            quantizer(act_quant=ShiftedUint8ActPerTensorFloat),
            quantizer(bit_width_impl_type="parameter"),
            quantizer(dtype=torch.float64),
            quantizer(collect_stats_steps=1).train(),
            None,
        ]
        found = fixed_grids([*several, several[0]])
        assert found[-1] is found[0]
        for tensor_quant, grid in zip(several, found, strict=False):
            alone = fixed_grid(tensor_quant)
            if alone is None:
                assert grid is None
                continue
            assert grid._replace(plan=None)[4:] == alone._replace(plan=None)[4:]
            for ours, expected in zip(grid[:4], alone[:4], strict=True):
                assert ours is expected is None or torch.equal(ours, expected)

    def test_gradients(self):
        several = [quantizer() for _ in range(3)]
        for tensor_quant in several:
            tensor_quant.scaling_impl.init_scale()
        gradients = []
        for together in (True, False):
            grids = fixed_grids(several) if together else map(fixed_grid, several)
            weighted = [grid.scale * (place + 1) for place, grid in enumerate(grids)]
            values = [tensor_quant.scaling_impl.value for tensor_quant in several]
            gradients.append(torch.autograd.grad(sum(weighted), values))
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))

    def test_a_changed_constant_makes_another_kind(self):
        first, second = quantizer(), quantizer()
        fixed_grids([first, second])
        second.scaling_impl.restriction.clamp_scaling.clamp_min_ste.min_val = 50.0
        found = fixed_grids([first, second])
        assert torch.equal(found[0].scale, fixed_grid(first).scale)
        assert torch.equal(found[1].scale, torch.tensor(50.0 / 128))


@pytest.mark.parametrize("change", ["", "hook", "bit_width_impl", "subclass"])
def test_quantizer_at_a_given_scale(change):
    bit_width = BitWidthParameter(4) if change == "bit_width_impl" else BitWidthConst(4)
    kind = type("Own", (PrescaledRestrictIntQuant,), {}) if change == "subclass" else None
    tensor_quant = (kind or PrescaledRestrictIntQuant)(IntQuant(False, True), bit_width)
    if change == "hook":
        tensor_quant.int_quant.float_to_int_impl.register_forward_hook(lambda *_: None)
    expected = None if change else (-8.0, 7.0, FakeQuantPlan())
    assert at_given_scale(tensor_quant) == expected


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
