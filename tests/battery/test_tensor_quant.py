"""What holds for every predefined integer quantizer: declarations, both ways of running, parts.

A quantizer joins by being listed in `__all__` of its module.
"""

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
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas.core.function_wrapper import RoundSte
from brevitas.inject import DependencyError
from brevitas.inject.enum import BitWidthImplType
from brevitas.ops.autograd_ste_ops import ceil_ste_impl
from brevitas.quant import shifted_scaled_int
from tensor_quants import (
    FIELDS,
    ROWS,
    Doubled,
    Row,
    as_given,
    assert_declares,
    called_parts,
    corner,
    gradients,
    int_part,
    integer_grid,
    on_one_grid,
    run,
)

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
every_quantizer = pytest.mark.parametrize("row", [r for r in ROWS if r.phase != "learned"], ids=str)
Change = Callable[[nn.Module], Any]


def keep(module: nn.Module) -> Any:
    """Change nothing."""


def module_by_module(tensor_quant: nn.Module) -> Any:
    """Force the parts to run one by one, by a hook that does nothing."""
    rounding = int_part(tensor_quant).float_to_int_impl
    return rounding.register_forward_hook(lambda *arguments: None)


# Declarations ------------------------------------------------------------------------------------


@every_quantizer
def test_declares_what_the_contract_lists(row: Row, contract_path: Callable[[str], Path]) -> None:
    listed = json.loads(contract_path("quantizer_declarations.json").read_text())
    assert_declares(row.quantizer, listed[f"{row.module}.{row.name}"])


def test_every_row_is_listed_in_the_contract(
    contract_path: Callable[[str], Path],
) -> None:
    listed = json.loads(contract_path("quantizer_declarations.json").read_text())
    assert {f"{row.module}.{row.name}" for row in ROWS} <= set(listed)


# Two ways of running -----------------------------------------------------------------------------


def _gradients(row: Row, change: Change, dtype: torch.dtype, **declared: Any) -> dict[str, Tensor]:
    return gradients(row, change, dtype, FIELDS, **declared)


@every_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [BitWidthImplType.CONST, BitWidthImplType.PARAMETER])
def test_both_ways_agree(
    row: Row, dtype: torch.dtype, bits: BitWidthImplType, fused_calls: list[str]
) -> None:
    fused = _gradients(row, keep, dtype, bit_width_impl_type=bits)
    assert fused_calls and not fused_calls.clear()
    # A quantizer that collects runs its warm-up step fused, before the hook is set.
    separate = _gradients(row, module_by_module, dtype, bit_width_impl_type=bits)
    assert len(fused_calls) == (row.phase == "learned")
    assert fused.keys() == separate.keys()
    for name, tensor in fused.items():
        assert tensor.dtype is separate[name].dtype and tensor.shape == separate[name].shape
        if not name.startswith("grad"):
            assert torch.equal(tensor, separate[name]), name
            continue
        # Sums of the elements' terms, in another order; integers are as large as 2 ** 7.
        # The exponent of a power of two and a learned bit width multiply by ln 2 * 2 ** b.
        unit = torch.finfo(fused["grad x"].dtype).eps * fused["grad x"].numel()
        largest = max(1.0, separate[name].abs().max().item())
        torch.testing.assert_close(tensor, separate[name], rtol=unit, atol=unit * largest * 2**7)


@every_row
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_both_ways_agree_within_one_step_in_half_precision(row: Row, dtype: torch.dtype) -> None:
    fused = _gradients(row, keep, dtype)
    separate = _gradients(row, module_by_module, dtype)
    assert fused["value"].dtype is separate["value"].dtype is dtype
    step = separate["scale"].float()
    # The last rounding of the value is within half a unit of its last place.
    last_place = separate["value"].abs().float() * torch.finfo(dtype).eps
    distance = (fused["value"].float() - separate["value"].float()).abs()
    assert (distance <= step + last_place).all()
    assert torch.equal(fused["scale"], separate["scale"])


# Parts -------------------------------------------------------------------------------------------


class CeilingRound(RoundSte):
    """A part that is ours by inheritance only, with a rule of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return ceil_ste_impl(x)


def _ceiling_forward(module: nn.Module) -> None:
    rounding = int_part(module).float_to_int_impl
    rounding.forward = CeilingRound().forward


def _ceiling_hook(module: nn.Module) -> None:
    def ceil(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return ceil_ste_impl(arguments[0])

    int_part(module).float_to_int_impl.register_forward_hook(ceil)


def _ceiling_part(module: nn.Module) -> None:
    int_part(module).float_to_int_impl = CeilingRound()


def _ceiling_class(module: nn.Module) -> None:
    int_part(module).float_to_int_impl.__class__ = CeilingRound


CEILINGS = [_ceiling_forward, _ceiling_hook, _ceiling_part, _ceiling_class]


def expected_ceiling(tensor_quant: nn.Module, x: Tensor, outputs: tuple[Tensor, ...]) -> Tensor:
    _, scale, zero_point, bit_width, *_ = outputs
    step, shift = integer_grid(outputs)
    int_quant = int_part(tensor_quant)
    x = int_quant.input_view_impl(x)
    lower, upper = int_quant.min_int(bit_width), int_quant.max_int(bit_width)
    return ((x / step + shift).ceil().clamp(lower, upper) - zero_point) * scale


@every_row
@pytest.mark.parametrize("change", CEILINGS)
def test_a_changed_rounding_takes_effect_at_once(row: Row, change: Change) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    before = run(tensor_quant, x)[0]
    change(tensor_quant)
    outputs = run(tensor_quant, x)
    assert torch.equal(outputs[0], expected_ceiling(tensor_quant, x, outputs))
    assert not torch.equal(outputs[0], before)


@every_row
def test_a_part_shared_by_two_quantizers(row: Row) -> None:
    first, second, x = row.build().eval(), row.build().eval(), row.data()
    int_part(second).float_to_int_impl = int_part(first).float_to_int_impl
    assert torch.equal(run(first, x)[0], run(second, x)[0])
    _ceiling_hook(first)
    outputs = run(second, x)
    assert torch.equal(outputs[0], expected_ceiling(second, x, outputs))


@every_row
def test_a_hook_on_any_part_is_called(row: Row) -> None:
    names = [name for name, _ in row.build().named_modules() if name]
    called_one_by_one = set(called_parts(row, module_by_module, names))
    part = "decoupled_int_quant" if row.is_decoupled else "int_quant"
    assert {part, f"{part}.tensor_clamp_impl"} < called_one_by_one
    for name in called_one_by_one:
        assert name in called_parts(row, keep, [name])


@every_row
@pytest.mark.parametrize("dtype", [torch.float32])
def test_parametrized_parameters_are_used(row: Row, dtype: torch.dtype) -> None:
    learned = {"bit_width_impl_type": BitWidthImplType.PARAMETER, "bit_width": 8}
    tensor_quant, x = row.build(**learned).eval(), row.data()
    part = tensor_quant.msb_clamp_bit_width_impl
    bits = run(tensor_quant, x)[3].item()
    parametrize.register_parametrization(part, "bit_width_offset", Doubled())
    outputs = run(tensor_quant, x)
    assert outputs[3].item() > bits
    int_quant = int_part(tensor_quant)
    x = int_quant.input_view_impl(x)
    lower, upper = int_quant.min_int(outputs[3]), int_quant.max_int(outputs[3])
    step, shift = integer_grid(outputs)
    integer = int_quant.float_to_int_impl(x / step + shift).clamp(lower, upper)
    assert torch.equal(outputs[0], (integer - outputs[2]) * outputs[1])


@every_row
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("change", [keep, _ceiling_part])
def test_copies_run_as_their_original(
    row: Row, copied: Change, change: Change, fused_calls: list[str]
) -> None:
    tensor_quant, x = row.build(), row.data()
    change(tensor_quant)
    other = copied(tensor_quant)
    fused_calls.clear()
    for _ in range(2):
        expected, actual = run(tensor_quant, x), run(other, x)
        assert all(torch.equal(*pair) for pair in zip(expected, actual, strict=True))
    assert len(fused_calls) == (4 if change is keep else 0)


# Values ------------------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("change", [keep, module_by_module])
def test_values_are_on_the_grid_and_stay_there(row: Row, change: Change) -> None:
    tensor_quant, x = row.build(), row.data() * 3
    change(tensor_quant)
    value, scale, zero_point, bit_width, *_ = run(tensor_quant, x)
    int_quant = int_part(tensor_quant)
    integer = (value / scale + zero_point).round()
    assert integer.min() >= int_quant.min_int(bit_width)
    assert integer.max() <= int_quant.max_int(bit_width)
    assert torch.equal((integer - zero_point) * scale, value)
    # Rounded towards zero, a product that is off in its last place may lose one.
    given = as_given(value, x)
    again = on_one_grid(tensor_quant, scale, zero_point, bit_width, given)
    assert row.is_accumulator_aware or torch.equal(again, value)


@every_row
def test_scale_is_positive_and_bits_are_as_declared(row: Row) -> None:
    _, scale, zero_point, bit_width, *_ = run(row.build(), row.data())
    assert (scale > 0).all()
    assert row.has_real_zero_point or torch.equal(zero_point, zero_point.round())
    assert bit_width.item() == row.bits
    # One is called so, and has any positive scale.
    is_power = ("FixedPoint" in row.name and not row.is_normalized) or "MX" in row.name
    if is_power and row.phase != "collecting":
        assert torch.equal(scale.log2(), scale.log2().round())


NAN, INF = float("nan"), float("inf")


@every_row
@pytest.mark.parametrize("change", [keep, module_by_module])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_not_a_number_stays_and_infinities_clamp(
    row: Row, change: Change, dtype: torch.dtype
) -> None:
    tensor_quant = row.build(dtype)
    change(tensor_quant)
    x, int_quant = row.data(dtype), int_part(tensor_quant)
    _, scale, zero_point, bit_width, *_ = run(tensor_quant, x)
    x.view(-1)[:3] = torch.tensor([NAN, INF, -INF], dtype=dtype)
    y = on_one_grid(tensor_quant, scale, zero_point, bit_width, x)
    scale, zero_point = (p.expand(y.shape).flatten()[1:3] for p in (scale, zero_point))
    y = y.flatten()[:3]
    limits = torch.stack([int_quant.max_int(bit_width), int_quant.min_int(bit_width)])
    wide = (limits.to(scale.dtype) - zero_point) * scale
    assert y[0].isnan() and torch.equal(y[1:], wide.to(dtype))


@every_row
@pytest.mark.parametrize("kind", ["zero", "constant", "nan", "inf", "-inf"])
def test_corner_inputs_have_one_answer(row: Row, kind: str) -> None:
    x = corner(row, kind)
    results = []
    for change in (keep, module_by_module):
        tensor_quant = row.build()
        change(tensor_quant)
        results.append(run(tensor_quant, x))
    for fused, separate in zip(*results, strict=True):
        torch.testing.assert_close(fused, separate, rtol=0, atol=0, equal_nan=True)
    value, scale, *_ = results[0]
    value, scale = as_given(value, x), as_given(scale.expand(value.shape), x)
    if kind == "zero":
        # A real zero point puts zero between two steps.
        near = (value - x).abs() <= scale / 2 if row.has_real_zero_point else value == x
        assert near.all() and scale.isfinite().all() and (scale > 0).all()
    elif kind == "constant":
        clipped = row.phase == "learned" or "scaling_impl_type" not in row.quantizer or row.is_const
        clipped = clipped or row.is_normalized  # a norm that was learned from another weight
        clipped = clipped or "MX" in row.name  # a scale that is rounded down
        assert value.isfinite().all() and (clipped or ((value - x).abs() <= scale).all())
    elif kind == "nan":
        assert value.flatten()[0].isnan()


@pytest.mark.parametrize("row", [row for row in ROWS if row.is_act], ids=str)
@pytest.mark.parametrize("change", [keep, module_by_module])
def test_empty_input_is_defined_or_refused_clearly(row: Row, change: Change) -> None:
    tensor_quant, empty = row.build(), row.data()[:0]
    change(tensor_quant)
    names = {name for name, _ in tensor_quant.named_modules()}
    if row.phase == "learned" or not names & {"scaling_impl.stats", "scaling_impl.runtime_stats"}:
        assert as_given(run(tensor_quant, empty)[0], empty).shape == empty.shape
    else:
        with pytest.raises((ValueError, IndexError), match="at least one element|non-zero size"):
            run(tensor_quant, empty)
    assert as_given(run(tensor_quant.eval(), empty)[0], empty).shape == empty.shape


# State -------------------------------------------------------------------------------------------


def expected_keys(row: Row) -> list[str]:
    """Learned values are saved once they hold something, statistics of parameters never."""
    if row.is_normalized:
        names = ["pre_scaling_impl.value", "pre_scaling_impl.scaling_impl.value"]
        if row.is_accumulator_aware:
            names.append("pre_scaling_impl.accumulator_bit_width.bit_width")
        return [*names, "scaling_impl.value"]
    if not row.is_act or row.is_const or row.is_dynamic:
        return []
    if row.name.endswith(("1d", "2d")):
        return ["scaling_impl.runtime_stats.running_stats"]
    if row.phase == "collecting":
        return []
    shifted = row.module == shifted_scaled_int.__name__
    return ["scaling_impl.value", *(["zero_point_impl.value"] if shifted else [])]


@every_row
def test_state_dict_keys(row: Row) -> None:
    assert list(row.build().state_dict()) == expected_keys(row)
    if row.phase == "collecting":
        tensor_quant = row.build()
        run(tensor_quant, row.data())
        learned = Row(row.module, row.name, row.quantizer, "learned")
        assert list(tensor_quant.state_dict()) == expected_keys(learned)


@every_row
def test_state_dict_brings_the_values_back(row: Row) -> None:
    tensor_quant, other, x = row.build(), row.build(), row.data()
    run(tensor_quant, x)
    run(other, 2 * x)
    other.load_state_dict(tensor_quant.state_dict())
    tensor_quant.eval(), other.eval()
    for expected, actual in zip(run(tensor_quant, x), run(other, x), strict=True):
        assert torch.equal(expected, actual)


# Resolution --------------------------------------------------------------------------------------


def test_quantizers_work_after_failed_resolutions() -> None:
    with pytest.raises(DependencyError, match="max_val"):
        qnn.QuantHardTanh()
    with pytest.raises(ValueError, match="bit_width=0: expected an int >= 1"):
        qnn.QuantLinear(2, 4, weight_bit_width=0)
    for row in ROWS:
        with pytest.raises(ValueError, match="bit_width=0: expected an int >= 1"):
            row.build(bit_width=0)
        if not row.is_decoupled:  # which declares its parts
            with pytest.raises(DependencyError, match="quant_type='nonsense'"):
                row.build(quant_type="nonsense")
    for row in ROWS:
        value, _, _, bit_width, *_ = run(row.build(), row.data())
        assert value.isfinite().all() and bit_width.item() == row.bits
