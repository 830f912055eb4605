"""The plan follows the parts as they are now, at any depth."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from brevitas.core.function_wrapper import (
    CeilSte,
    DPURoundSte,
    FloorSte,
    Identity,
    OverTensorView,
    RoundSte,
    RoundToZeroSte,
    TensorClamp,
    TensorClampSte,
)
from brevitas.core.quant import IntQuant
from brevitas.core.quant._plan import fake_quant_plan, is_plain, may_fuse, rounding_mode_of
from brevitas.core.quant.delay import DelayWrapper
from brevitas.ops.fake_quant import FakeQuantPlan

ROUNDINGS = {
    RoundSte: "ROUND",
    CeilSte: "CEIL",
    FloorSte: "FLOOR",
    RoundToZeroSte: "ROUND_TO_ZERO",
    DPURoundSte: "DPU",
}


class RoundUp(RoundSte):
    """Ours by inheritance, not by exact type."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ceil(x)


def _int_quant(**parts: object) -> IntQuant:
    return IntQuant(narrow_range=False, signed=True, **parts)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("clamp", [TensorClamp, TensorClampSte])
def test_parts_of_ours_fuse(rounding: type[nn.Module], clamp: type[nn.Module]) -> None:
    int_quant = _int_quant(float_to_int_impl=rounding(), tensor_clamp_impl=clamp())
    expected = FakeQuantPlan(ROUNDINGS[rounding], clamp is TensorClampSte)
    assert fake_quant_plan(int_quant) == expected
    assert rounding_mode_of(rounding()) == ROUNDINGS[rounding]


def test_rounding_mode_of_a_custom_part_is_its_class() -> None:
    assert rounding_mode_of(RoundUp()) == "RoundUp"


def _hook(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, arguments, output: None)


def _pre_hook(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda module, arguments: None)


def _backward_hook(module: nn.Module) -> None:
    module.register_full_backward_hook(lambda module, grad_input, grad_output: None)


def _backward_pre_hook(module: nn.Module) -> None:
    module.register_full_backward_pre_hook(lambda module, grad_output: None)


def _own_forward(module: nn.Module) -> None:
    module.forward = type(module).forward.__get__(module)


def _own_class(module: nn.Module) -> None:
    module.__class__ = type("Derived", (type(module),), {})


CHANGES = [_hook, _pre_hook, _backward_hook, _backward_pre_hook, _own_forward, _own_class]


@pytest.mark.parametrize("name", [name for name, _ in _int_quant().named_modules() if name])
@pytest.mark.parametrize("change", CHANGES)
def test_any_changed_part_runs_module_by_module(
    name: str, change: Callable[[nn.Module], None]
) -> None:
    int_quant = _int_quant()
    change(int_quant.get_submodule(name))
    assert fake_quant_plan(int_quant) is None


@pytest.mark.parametrize("name", [name for name, _ in _int_quant().named_modules() if name])
def test_any_replaced_part_runs_module_by_module(name: str) -> None:
    int_quant = _int_quant()
    path, _, attribute = name.rpartition(".")
    setattr(int_quant.get_submodule(path), attribute, nn.Identity())
    assert fake_quant_plan(int_quant) is None


@pytest.mark.parametrize("change", CHANGES[:-1])
def test_is_plain(change: Callable[[nn.Module], None]) -> None:
    module = nn.ReLU()
    assert is_plain(module)
    change(module)
    assert not is_plain(module)


def test_plain_again_when_the_hook_is_removed() -> None:
    int_quant = _int_quant()
    handle = int_quant.float_to_int_impl.register_forward_hook(lambda *arguments: None)
    assert fake_quant_plan(int_quant) is None
    handle.remove()
    assert fake_quant_plan(int_quant) is not None


def test_a_hook_on_all_modules() -> None:
    int_quant = _int_quant()
    handle = nn.modules.module.register_module_forward_hook(lambda *arguments: None)
    try:
        assert fake_quant_plan(int_quant) is None
    finally:
        handle.remove()
    assert fake_quant_plan(int_quant) is not None


def test_views_and_delays_run_module_by_module() -> None:
    assert fake_quant_plan(_int_quant(input_view_impl=Identity())) is not None
    assert fake_quant_plan(_int_quant(input_view_impl=OverTensorView())) is None
    delayed = _int_quant(quant_delay_steps=1)
    assert fake_quant_plan(delayed) is None
    scale, zero_point, bit_width = torch.tensor(0.5), torch.tensor(0.0), torch.tensor(3.0)
    for _ in range(2):  # the second forward settles that the first is not recomputed
        assert fake_quant_plan(delayed) is None
        delayed(scale, zero_point, bit_width, torch.ones(2))
    assert fake_quant_plan(delayed) is not None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_fuse(copied: Callable[[nn.Module], nn.Module]) -> None:
    assert fake_quant_plan(copied(_int_quant())) == FakeQuantPlan()


def test_what_keeps_a_quantizer_from_fusing() -> None:
    part, delay = TensorClamp(), DelayWrapper(0)
    assert may_fuse(delay, part)
    assert not may_fuse(DelayWrapper(1), part) and not may_fuse(nn.Identity(), part)
    handle = register_module_forward_hook(lambda *arguments: None)
    assert not may_fuse(delay, part)
    handle.remove()
    assert may_fuse(delay, part)
    for hooked in (delay, delay.delay_impl, part):
        handle = hooked.register_forward_hook(lambda *arguments: None)
        assert not may_fuse(delay, part)
        handle.remove()
