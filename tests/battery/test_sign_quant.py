"""What holds for every binary and ternary quantizer: both ways of running, parts, values, state."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from brevitas import config
from brevitas.core.function_wrapper import InplaceTensorClampSte, TensorClamp
from brevitas.core.quant import BinaryQuant, ClampedBinaryQuant, TernaryQuant
from sign_quants import DECLARED, PREDEFINED, ROWS, STEADY
from tensor_quants import Row, assert_declares, run

Change = Callable[[nn.Module], Any]


every_row = pytest.mark.parametrize("row", ROWS, ids=str)
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NAN, INF = float("nan"), float("inf")


def keep(module: nn.Module) -> Any:
    """Change nothing."""


def part_by_part(tensor_quant: nn.Module) -> Any:
    """Force the parts to run one by one, by a hook that does nothing."""
    return tensor_quant.delay_wrapper.register_forward_hook(lambda *arguments: None)


both_ways = pytest.mark.parametrize("change", [keep, part_by_part])


@pytest.mark.parametrize("row", PREDEFINED, ids=str)
def test_declares_what_the_contract_lists(row: Row, contract_path: Callable[[str], Path]) -> None:
    listed = json.loads(contract_path("quantizer_declarations.json").read_text())
    assert_declares(row.quantizer, listed[f"{row.module}.{row.name}"])


def test_the_rows_are_of_every_kind() -> None:
    kinds = {type(row.build()) for row in ROWS}
    assert kinds == {BinaryQuant, ClampedBinaryQuant, TernaryQuant}
    assert type(DECLARED["binary-act"].let(min_val=-1.0, max_val=1.0).tensor_quant) in kinds


# Two ways of running -----------------------------------------------------------------------------


def _step(row: Row, change: Change, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs and gradients of one step, by name."""
    tensor_quant, x = row.build(dtype), row.data(dtype).requires_grad_()
    change(tensor_quant)
    outputs = run(tensor_quant, x)
    weight = torch.linspace(-1.0, 2.0, x.numel(), dtype=dtype).reshape(x.shape)
    (outputs[0] * weight).sum().backward()
    fields = dict(zip(("value", "scale", "zero_point", "bit_width"), outputs, strict=True))
    leaves = {"x": x, **dict(tensor_quant.named_parameters())}
    grads = {f"grad {name}": leaf.grad for name, leaf in leaves.items()}
    return {**fields, **{name: grad for name, grad in grads.items() if grad is not None}}


@every_row
@pytest.mark.parametrize("dtype", FLOATS)
def test_both_ways_agree(row: Row, dtype: torch.dtype, fused_calls: list[str]) -> None:
    fused = _step(row, keep, dtype)
    assert len(fused_calls) == 1
    separate = _step(row, part_by_part, dtype)
    assert len(fused_calls) == 1
    assert fused.keys() == separate.keys() and "grad x" in fused
    for name, tensor in fused.items():
        assert tensor.dtype is separate[name].dtype and tensor.shape == separate[name].shape
        if name.startswith("grad") and name != "grad x":
            # Sums of as many terms as there are elements, each up to 2, in another order.
            unit = torch.finfo(dtype).eps * fused["value"].numel()
            torch.testing.assert_close(tensor, separate[name], rtol=unit, atol=2 * unit)
        elif name == "grad x" and row.name == "binary-act-stats":
            # A sum, too: the scale depends on every element.
            torch.testing.assert_close(tensor, separate[name])
        else:
            assert torch.equal(tensor, separate[name]), name


@every_row
def test_compiles_to_one_graph_of_equal_values(row: Row) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    expected = run(tensor_quant, x)
    compiled = torch.compile(tensor_quant, fullgraph=True, backend="aot_eager")
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual = compiled(leaf)
    assert all(torch.equal(*pair) for pair in zip(expected, actual, strict=True))
    actual[0].square().sum().backward()
    run(tensor_quant, other)[0].square().sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)
    torch._dynamo.reset()


# Parts -------------------------------------------------------------------------------------------


@every_row
def test_a_hook_on_any_part_is_called(row: Row) -> None:
    tensor_quant, x = row.build(), row.data()
    part_by_part(tensor_quant)
    called: list[str] = []
    for name, part in tensor_quant.named_modules():
        part.register_forward_pre_hook(lambda *arguments, name=name: called.append(name))
    run(tensor_quant, x)
    names = set(called)
    assert {"", "scaling_impl", "delay_wrapper", "bit_width", "zero_point"} <= names
    assert ("tensor_clamp_impl" in names) == isinstance(tensor_quant, ClampedBinaryQuant)
    for name in names:
        fresh, called = row.build(), []
        part = fresh.get_submodule(name)
        part.register_forward_pre_hook(lambda *arguments, called=called: called.append(""))
        run(fresh, x)
        assert called, name


@every_row
def test_a_hook_on_all_modules_is_called(row: Row) -> None:
    tensor_quant, seen = row.build(), []
    handle = register_module_forward_hook(lambda module, *arguments: seen.append(module))
    try:
        run(tensor_quant, row.data())
    finally:
        handle.remove()
    assert any(module is tensor_quant.delay_wrapper for module in seen)


class Halved(TensorClamp):
    """A clamp of a user's own: to half of the range."""

    def forward(self, x: Tensor, min_val: Tensor, max_val: Tensor) -> Tensor:
        return super().forward(x, min_val / 2, max_val / 2)


@pytest.mark.parametrize("row", [row for row in ROWS if "clamp" in row.name or row.module], ids=str)
def test_a_replaced_clamp_takes_effect_at_once(row: Row) -> None:
    tensor_quant, x = row.build(), row.data().requires_grad_()
    run(tensor_quant, x)
    tensor_quant.tensor_clamp_impl = Halved()
    value, scale, *_ = run(tensor_quant, x)
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert torch.equal(grad, torch.where(x.abs() <= scale / 2, scale, 0.0))


def test_a_clamp_in_place_leaves_the_input_alone() -> None:
    row = PREDEFINED[1]
    tensor_quant, x = row.build(), row.data().requires_grad_()
    tensor_quant.tensor_clamp_impl = InplaceTensorClampSte()
    before = x.detach().clone()
    run(tensor_quant, x)[0].sum().backward()
    assert torch.equal(x, before)
    assert torch.equal(x.grad, torch.full_like(x, 0.1))


@every_row
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@both_ways
def test_copies_run_as_their_original(row: Row, copied: Change, change: Change) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    change(tensor_quant) if copied is copy.deepcopy else keep(tensor_quant)
    other = copied(tensor_quant)
    assert all(torch.equal(*pair) for pair in zip(run(tensor_quant, x), run(other, x), strict=True))


# Values ------------------------------------------------------------------------------------------


@every_row
@both_ways
def test_values_are_on_the_grid_and_stay_there(row: Row, change: Change) -> None:
    tensor_quant, x = row.build().eval(), row.data() / 4
    change(tensor_quant)
    value, scale, zero_point, bit_width = run(tensor_quant, x)
    is_ternary = isinstance(tensor_quant, TernaryQuant)
    assert scale.dim() >= 1 and (scale > 0).all()
    assert zero_point == 0 and bit_width == (2 if is_ternary else 1)
    beyond = x.abs() > 0.3 * scale if is_ternary else torch.ones_like(x, dtype=torch.bool)
    sign = torch.where(x >= 0, 1.0, -1.0)
    assert torch.equal(value, torch.where(beyond, sign * scale, 0.0))
    if row in STEADY:
        assert torch.equal(run(tensor_quant, value)[0], value)


@pytest.mark.parametrize("row", STEADY, ids=str)
@both_ways
@pytest.mark.parametrize("dtype", FLOATS)
def test_not_a_number_stays_and_infinities_clamp(
    row: Row, change: Change, dtype: torch.dtype
) -> None:
    tensor_quant = row.build(dtype).eval()
    change(tensor_quant)
    x = row.data(dtype)
    x.view(-1)[:5] = torch.tensor([NAN, INF, -INF, 0.0, -0.0])
    value, scale, *_ = run(tensor_quant, x)
    scale = scale.view(-1)[0].to(dtype)
    zero = torch.zeros_like(scale) if isinstance(tensor_quant, TernaryQuant) else scale
    assert value.dtype is dtype and value.view(-1)[0].isnan()
    assert torch.equal(value.view(-1)[1:5], torch.stack([scale, -scale, zero, zero]))
    assert bool(value.view(-1)[5:].isfinite().all())


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_act], ids=str)
@both_ways
def test_empty_input(row: Row, change: Change) -> None:
    tensor_quant, empty = row.build().eval(), row.data()[:0]
    change(tensor_quant)
    assert run(tensor_quant, empty)[0].shape == empty.shape


@pytest.mark.parametrize("row", STEADY, ids=str)
def test_integers_are_real_values_of_the_scale(row: Row) -> None:
    tensor_quant = row.build().eval()
    x = torch.tensor([[-2, 0, 3, 1]]).expand(4, -1)
    if row.is_act:
        x = x.reshape(2, 2, 4)
    assert torch.equal(run(tensor_quant, x)[0], run(tensor_quant, x.float())[0])


@every_row
def test_delay_passes_the_real_value(row: Row) -> None:
    tensor_quant, x = row.build(quant_delay_steps=1), row.data()
    assert torch.equal(run(tensor_quant, x)[0], x)
    assert not torch.equal(run(tensor_quant, x)[0], x)


# State -------------------------------------------------------------------------------------------


@every_row
def test_state_dict_keys(row: Row) -> None:
    keys = list(row.build().state_dict())
    if row.name == "binary-act-stats":
        assert keys == ["scaling_impl.runtime_stats.running_stats"]
    elif row.module or "channel" in row.name:
        assert keys == []
    else:
        assert keys == ["scaling_impl.value"]


@pytest.mark.parametrize("name", ["binary-weight", "clamped-weight", "ternary-weight-per-channel"])
def test_compiled_quantizers_equal_eager_ones(name: str) -> None:
    row = next(row for row in ROWS if row.name == name)
    weight = torch.linspace(-1.0, 2.0, row.data().numel()).reshape(row.data().shape)
    results = []
    for compiled in (False, True):
        tensor_quant, x = row.build(), row.data().requires_grad_()
        with config.overrides(JIT_ENABLED=compiled):
            value = run(tensor_quant, x)[0]
            (value * weight).sum().backward()
        results.append((value, x.grad, *(p.grad for p in tensor_quant.parameters())))
    eager, others = results
    assert torch.equal(eager[0], others[0])
    for gradient, other in zip(eager[1:], others[1:], strict=True):
        # A scale's gradient is a sum over as many elements, in another order.
        torch.testing.assert_close(other, gradient, rtol=1e-5, atol=1e-6 * weight.numel())
