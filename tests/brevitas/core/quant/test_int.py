"""Quantizers that assemble scale, zero point and bit width from parts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.bit_width import BitWidthConst, BitWidthParameter, MsbClampBitWidth
from brevitas.core.quant import (
    DecoupledIntQuant,
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
    IntQuant,
    PrescaledRestrictIntQuant,
    PrescaledRestrictIntQuantWithInputBitWidth,
    RescalingIntQuant,
    _direct,
)
from brevitas.core.quant import int as int_module
from brevitas.core.scaling import ConstScaling, IntScaling, ParameterScaling
from brevitas.core.utils import StatelessBuffer
from brevitas.core.zero_point import ParameterZeroPoint, ZeroZeroPoint
from brevitas.ops.fake_quant import fake_quant

Change = Callable[[nn.Module], None]


def _rescaling(**parts: nn.Module) -> RescalingIntQuant:
    defaults = {
        "int_quant": IntQuant(narrow_range=False, signed=True),
        "scaling_impl": ConstScaling(4.0),
        "int_scaling_impl": IntScaling(narrow_range=False, signed=True),
        "zero_point_impl": ZeroZeroPoint(),
        "bit_width_impl": BitWidthConst(4),
    }
    return RescalingIntQuant(**(defaults | parts))


def _prescaled() -> PrescaledRestrictIntQuant:
    return PrescaledRestrictIntQuant(IntQuant(False, True), BitWidthConst(4))


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grow by one at each call of the fused operation."""
    calls: list[int] = []

    def counted(*arguments: object) -> Tensor:
        calls.append(1)
        return fake_quant(*arguments)

    for module in (int_module, _direct):
        monkeypatch.setattr(module, "fake_quant", counted)
    return calls


def test_formula(fused_calls: list[int]) -> None:
    x = torch.linspace(-6.0, 6.0, 101)
    value, scale, zero_point, bit_width = _rescaling()(x)
    assert (scale.item(), zero_point.item(), bit_width.item()) == (0.5, 0.0, 4.0)
    assert torch.equal(value, (x / 0.5).round().clamp(-8, 7) * 0.5)
    assert len(fused_calls) == 1


def test_unsigned_with_a_zero_point() -> None:
    x = torch.linspace(-6.0, 6.0, 101)
    quant = _rescaling(
        int_quant=IntQuant(narrow_range=False, signed=False),
        int_scaling_impl=IntScaling(narrow_range=False, signed=False),
        zero_point_impl=ParameterZeroPoint(2.1, IntQuant(False, False), True),
    )
    value, scale, zero_point, _ = quant(x)
    assert scale.item() == pytest.approx(4.0 / 15) and zero_point.item() == round(2.1 / (4 / 15))
    integer = (x / scale + zero_point).round().clamp(0, 15)
    assert torch.equal(value, (integer - zero_point) * scale)


def test_gradients_of_scale_and_bit_width_through_both_ways() -> None:
    x = torch.randn(64) * 3
    grads = []
    for change in (lambda part: None, lambda part: part.register_forward_hook(lambda *a: None)):
        quant = _rescaling(scaling_impl=ParameterScaling(3.0), bit_width_impl=BitWidthParameter(4))
        change(quant.int_quant.float_to_int_impl)
        leaf = x.clone().requires_grad_()
        quant(leaf)[0].pow(2).sum().backward()
        grads.append([leaf.grad, *(p.grad for p in quant.parameters())])
    assert len(grads[0]) == 3 and all(g.abs().sum() > 0 for g in grads[0])
    for fused, separate in zip(*grads, strict=True):
        # Sums of 64 products of order 10, in another order of operations.
        torch.testing.assert_close(fused, separate, rtol=64 * 1.2e-7, atol=64 * 10 * 1.2e-7)


def _doubling_hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, arguments, output: output * 2)


def _doubling_forward(module: nn.Module) -> None:
    original = module.forward
    module.forward = lambda *arguments: original(*arguments) * 2


def _shifting_hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, arguments, output: output + 1)


def _shifting_forward(module: nn.Module) -> None:
    original = module.forward
    module.forward = lambda *arguments: original(*arguments) + 1


def _replaced_by_one(module: nn.Module) -> None:
    module.__class__ = type("One", (type(module),), {"forward": lambda self, *a: torch.ones(())})


@pytest.mark.parametrize("change", [_doubling_hook, _doubling_forward])
@pytest.mark.parametrize("path", ["msb_clamp_bit_width_impl", "msb_clamp_bit_width_impl.bit_width"])
@pytest.mark.parametrize("build", [_rescaling, _prescaled])
def test_a_changed_bit_width_changes_the_limits(
    build: Callable[[], nn.Module], path: str, change: Change
) -> None:
    quant = build()
    scale = () if isinstance(quant, RescalingIntQuant) else (torch.tensor(0.5),)
    change(quant.get_submodule(path))
    value, scale, _, bit_width = quant(torch.tensor([-1e6, 1e6]), *scale)
    assert bit_width.item() == 8.0 and torch.equal(value, torch.tensor([-128.0, 127.0]) * scale)


@pytest.mark.parametrize("change", [_shifting_hook, _shifting_forward, _replaced_by_one])
@pytest.mark.parametrize("path", ["zero_point_impl", "zero_point_impl.zero_point", "zero_point"])
def test_a_changed_zero_point_is_used(path: str, change: Change) -> None:
    quant = _prescaled() if path == "zero_point" else _rescaling()
    scale = () if isinstance(quant, RescalingIntQuant) else (torch.tensor(0.5),)
    change(quant.get_submodule(path))
    value, scale, zero_point, _ = quant(torch.tensor([-1e6, 0.0, 1e6]), *scale)
    assert zero_point.item() == 1.0
    assert torch.equal(value, torch.tensor([-9.0, 0.0, 6.0]) * scale)


@pytest.mark.parametrize("build", [_rescaling, _prescaled])
def test_a_replaced_bit_width_changes_the_limits(
    build: Callable[[], nn.Module], fused_calls: list[int]
) -> None:
    quant = build()
    scale = () if isinstance(quant, RescalingIntQuant) else (torch.tensor(0.5),)
    quant.msb_clamp_bit_width_impl.bit_width = StatelessBuffer(2.0)
    value, step, _, bit_width = quant(torch.tensor([-1e6, 1e6]), *scale)
    assert bit_width.item() == 2.0 and fused_calls == [1]
    assert torch.equal(value, torch.tensor([-2.0, 1.0]) * step)


@pytest.mark.parametrize("build", [_rescaling, _prescaled])
def test_a_replaced_zero_point_is_used(
    build: Callable[[], nn.Module], fused_calls: list[int]
) -> None:
    quant = build()
    scale = () if isinstance(quant, RescalingIntQuant) else (torch.tensor(0.5),)
    holder = quant.zero_point_impl if isinstance(quant, RescalingIntQuant) else quant
    holder.zero_point = StatelessBuffer(3.0)
    value, step, zero_point, _ = quant(torch.tensor([-1e6, 0.0, 1e6]), *scale)
    assert zero_point.item() == 3.0 and fused_calls == [1]
    assert torch.equal(value, torch.tensor([-11.0, 0.0, 4.0]) * step)


@pytest.mark.parametrize(
    "part", ["int_quant", "scaling_impl", "int_scaling_impl", "zero_point_impl", "bit_width_impl"]
)
@pytest.mark.parametrize("bad", [None, 4, torch.round, BitWidthConst])
def test_parts_that_are_no_modules_are_refused(part: str, bad: object) -> None:
    with pytest.raises(TypeError, match=f"{part}=.*expected a torch.nn.Module"):
        _rescaling(**{part: bad})
    if part in ("int_quant", "bit_width_impl"):
        parts = {"int_quant": IntQuant(False, True), "bit_width_impl": BitWidthConst(4)}
        with pytest.raises(TypeError, match=f"{part}=.*expected a torch.nn.Module"):
            PrescaledRestrictIntQuant(**(parts | {part: bad}))


def test_a_range_of_zero_alone_is_refused() -> None:
    narrow, one_bit = IntQuant(narrow_range=True, signed=True), BitWidthConst(1)
    with pytest.raises(ValueError, match="bit_width=1.*narrow range.*at least 2 bits"):
        _rescaling(int_quant=narrow, bit_width_impl=one_bit)
    with pytest.raises(ValueError, match="bit_width=1.*narrow range.*at least 2 bits"):
        PrescaledRestrictIntQuant(narrow, one_bit)
    _rescaling(int_quant=narrow, bit_width_impl=BitWidthConst(2))
    wide = _rescaling(bit_width_impl=one_bit)
    assert wide(torch.tensor([-9.0, 9.0]))[0].tolist() == [-4.0, 0.0]


@pytest.mark.parametrize("change", [_doubling_hook, _doubling_forward])
def test_a_changed_int_quant_is_called(change: Change, fused_calls: list[int]) -> None:
    for build, arguments in ((_rescaling, ()), (_prescaled, (torch.tensor(0.5),))):
        quant, x = build(), torch.randn(10)
        before = quant(x, *arguments)[0]
        assert fused_calls == [1]
        change(quant.int_quant)
        assert torch.equal(quant(x, *arguments)[0], 2 * before) and fused_calls == [1]
        fused_calls.clear()


def test_prescaled() -> None:
    x, scale = torch.linspace(-6.0, 6.0, 101), torch.tensor(0.3)
    value, given, zero_point, bit_width = _prescaled()(x, scale)
    assert given is scale and zero_point.item() == 0.0 and bit_width.item() == 4.0
    assert torch.equal(value, (x / scale).round().clamp(-8, 7) * scale)


def test_prescaled_with_the_bit_width_of_the_accumulator() -> None:
    removes_two = MsbClampBitWidth(BitWidthConst(2), 2, 32)
    quant = PrescaledRestrictIntQuantWithInputBitWidth(IntQuant(False, True), removes_two)
    value, *_, bit_width = quant(torch.tensor([1e6]), torch.tensor(0.5), torch.tensor(10.0))
    assert bit_width.item() == 8.0 and value.item() == 127 * 0.5


def test_state_dict_keys() -> None:
    assert not _rescaling().state_dict() and not _prescaled().state_dict()
    learned = _rescaling(scaling_impl=ParameterScaling(3.0), bit_width_impl=BitWidthParameter(4))
    assert list(learned.state_dict()) == [
        "scaling_impl.value",
        "msb_clamp_bit_width_impl.bit_width_offset",
    ]


# Two grids ---------------------------------------------------------------------------------------


class _Recorded(nn.Module):
    """A part that returns a number, and remembers what it was called with."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number
        self.seen: list[tuple[object, ...]] = []

    def forward(self, *arguments: object) -> Tensor:
        self.seen.append(arguments[1:])
        return torch.tensor(self.number)


def _decoupled(kind: type[nn.Module], **parts: nn.Module) -> nn.Module:
    defaults = {
        "decoupled_int_quant": DecoupledIntQuant(narrow_range=False, signed=True),
        "pre_scaling_impl": _Recorded(4.0),
        "scaling_impl": ConstScaling(16.0),
        "int_scaling_impl": IntScaling(narrow_range=False, signed=True),
        "pre_zero_point_impl": _Recorded(0.25),
        "zero_point_impl": _Recorded(1.0),
        "bit_width_impl": BitWidthConst(4),
    }
    return kind(**(defaults | parts))


@pytest.mark.parametrize("hooked", [False, True])
def test_pre_scale_finds_integers_that_scale_places(hooked: bool, fused_calls: list[int]) -> None:
    tensor_quant = _decoupled(DecoupledRescalingIntQuant)
    assert tensor_quant.is_fused
    if hooked:
        rounding = tensor_quant.decoupled_int_quant.float_to_int_impl
        rounding.register_forward_hook(lambda *arguments: None)
    x = torch.linspace(-9.0, 9.0, 50)
    value, scale, zero_point, bit_width, pre_scale, pre_zero_point = tensor_quant(x)
    assert (scale, zero_point, bit_width) == (2.0, 1.0, 4.0)
    assert (pre_scale, pre_zero_point) == (0.5, 0.25)  # a threshold of 8
    integer = (x / 0.5 + 0.25).round().clamp(-8, 7)
    assert torch.equal(value, (integer - 1.0) * 2.0)
    assert tensor_quant.pre_scaling_impl.seen == [()]
    assert tensor_quant.pre_zero_point_impl.seen == [(0.5, 4.0)]
    assert tensor_quant.zero_point_impl.seen == [(2.0, 4.0)]
    assert len(fused_calls) == (0 if hooked else 1)


def test_pre_scale_for_an_input_is_the_step_itself() -> None:
    tensor_quant = _decoupled(DecoupledRescalingIntQuantWithInput)
    bits = torch.tensor(6.0)
    outputs = tensor_quant(torch.ones(3), bits, False)
    assert outputs[4] == 4.0 and tensor_quant.pre_scaling_impl.seen == [(bits, False)]


def test_decoupled_parts_are_checked() -> None:
    with pytest.raises(TypeError, match="pre_scaling_impl=0.5: expected a torch.nn.Module"):
        _decoupled(DecoupledRescalingIntQuant, pre_scaling_impl=0.5)
    with pytest.raises(ValueError, match="bit_width=1: a narrow range leaves only the integer 0"):
        _decoupled(
            DecoupledRescalingIntQuant,
            decoupled_int_quant=DecoupledIntQuant(narrow_range=True, signed=True),
            bit_width_impl=BitWidthConst(1),
        )
