"""What holds for every predefined minifloat quantizer: declarations, values, parts, state.

A quantizer joins by being listed in `__all__` of its module.
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas import config
from brevitas.core.function_wrapper import RoundSte
from brevitas.core.quant.float import FloatQuant
from brevitas.inject import DependencyError
from brevitas.inject.enum import BitWidthImplType, ScalingImplType
from brevitas.ops.autograd_ste_ops import ceil_ste_impl
from minifloats import Format
from tensor_quants import (
    FLOAT_ROWS,
    Change,
    Doubled,
    Row,
    assert_declares,
    called_parts,
    corner,
    gradients,
    run,
)

every_row = pytest.mark.parametrize("row", FLOAT_ROWS, ids=str)
# One of each kind of scale and of each kind of format.
FEW = ("Fp8e4m3Weight", "Fp8e5m2OCPWeightPerChannelFloat", "Fp8e4m3FNUZActPerTensorFloat")
few_rows = pytest.mark.parametrize("row", [r for r in FLOAT_ROWS if r.name in FEW], ids=str)
# Without those that differ in their statistic or in what they have learned so far.
PLAIN = [r for r in FLOAT_ROWS if not r.name.endswith("MSE") and r.phase != "collecting"]
plain_rows = pytest.mark.parametrize("row", PLAIN, ids=str)
# Those, and one of each kind with a statistic that quantizes.
SOME = PLAIN + [r for r in FLOAT_ROWS if r.name.startswith("Fp8e4m3OCP") and r not in PLAIN]
some_rows = pytest.mark.parametrize("row", SOME, ids=str)
# One weight of each format, for what does not depend on the scale.
FORMATS = [r for r in PLAIN if r.name.endswith("Weight")]
every_format = pytest.mark.parametrize("row", FORMATS, ids=str)
FIELDS = ("value", "scale", "zero_point", "exponent", "mantissa", "bias")
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
MODULES = ("float", "float_quant_ocp", "float_quant_fnuz")
NAN, INF = math.nan, math.inf


def keep(module: nn.Module) -> Any:
    """Change nothing."""


def part_by_part(tensor_quant: nn.Module) -> Any:
    """Force the parts to run one by one, by a hook that does nothing."""
    return tensor_quant.float_to_int_impl.register_forward_hook(lambda *arguments: None)


both_ways = pytest.mark.parametrize("change", [keep, part_by_part])


def format_of(tensor_quant: nn.Module) -> Format:
    numbers = [
        int(getattr(tensor_quant, f"{name}_impl")())
        for name in ("exponent_bit_width", "mantissa_bit_width", "exponent_bias")
    ]
    clamp = tensor_quant.float_clamp_impl
    limit = clamp.max_available_float
    beyond = {None: "max", INF: "inf"}.get(clamp.above, "nan")
    largest = None if limit is None else float(limit())
    return Format(*numbers, largest, beyond, tensor_quant.signed)


# Declarations ------------------------------------------------------------------------------------


def _listed(contract_path: Callable[[str], Path]) -> dict[str, Any]:
    return json.loads(contract_path("quantizer_declarations.json").read_text())


@every_row
def test_declares_what_the_contract_lists(row: Row, contract_path: Callable[[str], Path]) -> None:
    assert_declares(row.quantizer, _listed(contract_path)[f"{row.module}.{row.name}"])


def test_every_listed_quantizer_has_a_row(contract_path: Callable[[str], Path]) -> None:
    modules = {f"brevitas.quant.{name}" for name in MODULES}
    listed = {name for name in _listed(contract_path) if name.rpartition(".")[0] in modules}
    assert listed == {f"{row.module}.{row.name}" for row in FLOAT_ROWS}


@every_row
def test_the_format_is_the_declared_one(row: Row) -> None:
    outputs = run(row.build(), row.data())
    _, scale, zero_point, exponent, mantissa, bias, saturating, inf_values, nan_values = outputs
    told = row.quantizer.let(**row.extra)
    assert (exponent, mantissa) == (told.exponent_bit_width, told.mantissa_bit_width)
    assert exponent + mantissa + 1 == row.bits
    assert bias == 2 ** (exponent - 1) - (0 if "FNUZ" in row.name else 1)
    assert saturating is True and zero_point == 0 and (scale > 0).all()
    is_e5m2, is_e4m3 = (f"{name}OCP" in row.name for name in ("e5m2", "e4m3"))
    assert inf_values == (("00",) if is_e5m2 else None)
    assert nan_values == (("01", "11", "10") if is_e5m2 else ("111",) if is_e4m3 else None)


# Ways of running ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, dtype) for row in FLOAT_ROWS for dtype in (FLOATS if row in PLAIN else FLOATS[2:3])],
    ids=str,
)
def test_both_ways_agree(row: Row, dtype: torch.dtype, fused_calls: list[str]) -> None:
    fused = gradients(row, keep, dtype, FIELDS)
    assert fused_calls and not fused_calls.clear()
    separate = gradients(row, part_by_part, dtype, FIELDS)
    assert fused.keys() == separate.keys() and "grad x" in fused
    for name, tensor in fused.items():
        assert tensor.dtype is separate[name].dtype and tensor.shape == separate[name].shape
        if not name.startswith("grad"):
            assert torch.equal(tensor, separate[name]), name
            continue
        # Sums of the elements' terms, in another order, each up to the largest minifloat.
        unit = torch.finfo(dtype).eps * tensor.numel() * 8
        terms = format_of(row.build()).upper if tensor.numel() < fused["value"].numel() else 2.0
        near = {"rtol": unit, "atol": torch.finfo(dtype).eps * terms * fused["value"].numel()}
        torch.testing.assert_close(tensor, separate[name], **near)


@few_rows
def test_compiles_to_one_graph_of_equal_values(row: Row) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    expected = run(tensor_quant, x)
    compiled = torch.compile(tensor_quant, fullgraph=True, backend="aot_eager")
    leaf, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    actual = compiled(leaf)
    assert all(torch.equal(*pair) for pair in zip(expected[:6], actual[:6], strict=True))
    assert expected[6:] == actual[6:]
    actual[0].square().sum().backward()
    run(tensor_quant, other)[0].square().sum().backward()
    torch.testing.assert_close(leaf.grad, other.grad)
    torch._dynamo.reset()


@few_rows
def test_compiled_kernels_equal_eager(row: Row) -> None:
    eager = gradients(row, keep, torch.float32, FIELDS)
    with config.overrides(JIT_ENABLED=True):
        compiled = gradients(row, keep, torch.float32, FIELDS)
    assert eager.keys() == compiled.keys()
    for name, tensor in eager.items():
        if name.startswith("grad"):
            # Of a scale, a sum of as many terms as there are elements.
            torch.testing.assert_close(compiled[name], tensor, rtol=1e-5, atol=1e-4)
        else:
            assert torch.equal(compiled[name], tensor), name


# Parts -------------------------------------------------------------------------------------------


class CeilingRound(RoundSte):
    """A part that is ours by inheritance only, with a rule of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return ceil_ste_impl(x)


def _ceiling_forward(module: nn.Module) -> None:
    module.float_to_int_impl.forward = CeilingRound().forward


def _ceiling_hook(module: nn.Module) -> None:
    def ceil(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return ceil_ste_impl(arguments[0])

    module.float_to_int_impl.register_forward_hook(ceil)


def _ceiling_part(module: nn.Module) -> None:
    module.float_to_int_impl = CeilingRound()


def _ceiling_class(module: nn.Module) -> None:
    module.float_to_int_impl.__class__ = CeilingRound


@plain_rows
@pytest.mark.parametrize("change", [_ceiling_forward, _ceiling_hook, _ceiling_part, _ceiling_class])
def test_a_changed_rounding_takes_effect_at_once(row: Row, change: Change) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    before = run(tensor_quant, x)
    change(tensor_quant)
    value, scale, *_ = run(tensor_quant, x)
    fmt = format_of(tensor_quant)
    step = _steps(x / scale, fmt)
    limited = ((x / scale / step).ceil() * step).clamp(-fmt.upper, fmt.upper)
    assert torch.equal(value, limited * scale)
    assert not torch.equal(value, before[0])


def _steps(u: Tensor, fmt: Format) -> Tensor:
    exponent = torch.frexp(u)[1] - 1
    exponent = torch.where(u == 0, -1000, exponent).clamp_min(1 - fmt.bias) - fmt.mantissa
    return torch.ldexp(torch.ones_like(u), exponent)


@some_rows
def test_a_hook_on_any_part_is_called(row: Row) -> None:
    names = [name for name, _ in row.build().named_modules() if name]
    called = set(called_parts(row, part_by_part, names))
    assert {"float_clamp_impl", "float_clamp_impl.tensor_clamp_impl", "scaling_impl"} <= called
    for name in called:
        assert name in called_parts(row, keep, [name]), name


@plain_rows
def test_parametrized_parameters_are_used(row: Row) -> None:
    learned = {"mantissa_bit_width_impl_type": BitWidthImplType.PARAMETER}
    tensor_quant, x = row.build(**learned).eval(), row.data()
    bits = run(tensor_quant, x)[4].item()
    part = tensor_quant.mantissa_bit_width_impl
    part.bit_width_offset.data.fill_(1.0)
    parametrize.register_parametrization(part, "bit_width_offset", Doubled())
    value, scale, _, _, mantissa, *_ = run(tensor_quant, x)
    assert mantissa == 4 != bits
    fmt = format_of(tensor_quant)
    assert fmt.mantissa == 4
    expected = torch.tensor(fmt.reference((x / scale).double().detach().numpy())).float() * scale
    assert torch.equal(value, expected)


@some_rows
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("change", [keep, _ceiling_part])
def test_copies_run_as_their_original(
    row: Row, copied: Change, change: Change, fused_calls: list[str]
) -> None:
    tensor_quant, x = row.build().eval(), row.data()
    run(tensor_quant, x)
    change(tensor_quant)
    other = copied(tensor_quant)
    fused_calls.clear()
    for expected, actual in zip(run(tensor_quant, x)[:6], run(other, x)[:6], strict=True):
        assert torch.equal(expected, actual)
    assert len(fused_calls) == (2 if change is keep else 0)


# Values ------------------------------------------------------------------------------------------


@some_rows
@both_ways
def test_values_are_the_nearest_numbers_of_the_format(row: Row, change: Change) -> None:
    tensor_quant, x = row.build(), row.data() * 3
    change(tensor_quant)
    value, scale, *_ = run(tensor_quant, x)
    fmt, u = format_of(tensor_quant), (x / scale).detach()
    number = torch.tensor(fmt.reference(u.double().numpy()))
    assert torch.isin(number, fmt.grid()).all() and number.abs().max() <= fmt.upper
    assert torch.equal(value, number.float() * scale)
    # No number of the format is nearer, but for rounding of the distance.
    inside = u.double().clamp(-fmt.upper, fmt.upper)
    nearest = (inside.flatten()[:, None] - fmt.grid()).abs().min(1).values
    assert torch.equal((inside - number).abs().flatten(), nearest)


def _with_scale_one(tensor_quant: nn.Module) -> FloatQuant:
    return format_of(tensor_quant).build()


@every_format
@both_ways
def test_idempotent_monotone_and_equivariant(row: Row, change: Change) -> None:
    format_only, x = _with_scale_one(row.build()), row.data().flatten().sort().values
    change(format_only)
    value = run(format_only, x)[0]
    assert torch.equal(run(format_only, value)[0], value)
    assert (value.diff() >= 0).all()
    assert torch.equal(run(format_only, -x)[0], -value)
    fmt = format_of(format_only)
    normal = (x.abs() >= 2.0 ** (1 - fmt.bias)) & (x.abs() <= fmt.upper / 2)
    assert torch.equal(run(format_only, 2 * x)[0][normal], 2 * value[normal])


@every_row
def test_a_power_of_two_scales_everything(row: Row) -> None:
    tensor_quant, x = row.build(), row.data()
    value, scale, *_ = run(tensor_quant, x)
    plan = tensor_quant._plan()
    assert plan is not None
    for power in (0.25, 64.0):
        twin = format_of(tensor_quant).build(scaling_impl=_Given(scale * power))
        assert torch.equal(run(twin, x * power)[0], value * power)


class _Given(nn.Module):
    """A scale that is given."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor, threshold: Tensor | None = None) -> Tensor:
        return self.scale


@every_format
@both_ways
@pytest.mark.parametrize("dtype", FLOATS)
def test_not_a_number_stays_and_infinities_clamp(
    row: Row, change: Change, dtype: torch.dtype
) -> None:
    fmt = format_of(row.build())
    for scale in (torch.tensor(0.5), torch.tensor([1.0, 2.0, 0.25])):
        given = scale.to(torch.promote_types(dtype, torch.float32))
        tensor_quant = fmt.build(scaling_impl=_Given(given))
        change(tensor_quant)
        value = run(tensor_quant, torch.tensor([NAN, INF, -INF], dtype=dtype))[0]
        assert value.dtype is dtype and value[0].isnan()
        limits = torch.tensor([fmt.upper, -fmt.upper], dtype=given.dtype)
        assert torch.equal(value[1:], (limits * given.expand(3)[1:]).to(dtype))


@some_rows
@pytest.mark.parametrize("kind", ["zero", "constant", "nan", "inf", "-inf"])
def test_corner_inputs_have_one_answer(row: Row, kind: str) -> None:
    x = corner(row, kind)
    results = []
    for change in (keep, part_by_part):
        tensor_quant = row.build()
        change(tensor_quant)
        results.append(run(tensor_quant, x))
    for fused, separate in zip(*(outputs[:6] for outputs in results), strict=True):
        torch.testing.assert_close(fused, separate, rtol=0, atol=0, equal_nan=True)
    value, scale, *_ = results[0]
    if kind == "zero":
        assert torch.equal(value, x) and scale.isfinite().all() and (scale > 0).all()
    elif kind == "constant":
        # As near as the mantissa allows; clipped where the scale was learned from other values.
        assert value.isfinite().all()
        limit = scale * format_of(row.build()).upper
        inside = x.abs() <= limit
        near = (value - x).abs() <= x.abs() * 2.0 ** -(
            1 + row.quantizer.let(**row.extra).mantissa_bit_width
        )
        assert (near | ~inside).all()
    elif kind == "nan":
        assert value.view(-1)[0].isnan()


@pytest.mark.parametrize("row", [row for row in PLAIN if row.is_act], ids=str)
@both_ways
def test_empty_input(row: Row, change: Change) -> None:
    tensor_quant, empty = row.build().eval(), row.data()[:0]
    change(tensor_quant)
    assert run(tensor_quant, empty)[0].shape == empty.shape


@every_format
@both_ways
def test_gradients_are_the_written_formula(row: Row, change: Change) -> None:
    """``y / x`` where the step follows the exponent, 1 below, 0 beyond the limits."""
    fmt = format_of(row.build())
    scale = torch.tensor([[0.01], [0.7], [30.0]], dtype=torch.float64, requires_grad=True)
    tensor_quant = fmt.build(scaling_impl=_Given(scale))
    change(tensor_quant)
    x = (row.data(torch.float64).flatten()[:39].reshape(3, 13)).requires_grad_()
    value = run(tensor_quant, x)[0]
    value.sum().backward()
    u = (x / scale).detach()
    rounded = torch.tensor(fmt.rounded(u.numpy()))
    limited = rounded.clamp(-fmt.upper, fmt.upper)
    slope = torch.where(u.abs() >= 2.0 ** (1 - fmt.bias), rounded / u, 1.0)
    slope = torch.where(limited == rounded, slope, 0.0)
    torch.testing.assert_close(x.grad, slope)
    # Terms of up to the largest number, of which most cancel.
    near = {"rtol": 1e-9, "atol": 13 * fmt.upper * torch.finfo(torch.float64).eps}
    torch.testing.assert_close(scale.grad, (limited - slope * u).sum(1, keepdim=True), **near)


# State -------------------------------------------------------------------------------------------


def expected_keys(row: Row) -> list[str]:
    """A learned scale is saved once it holds something."""
    declared = row.quantizer.let(**row.extra)
    kind = declared.scaling_impl_type if "scaling_impl_type" in declared else None
    learned = kind in (ScalingImplType.PARAMETER_FROM_STATS, "parameter_from_stats")
    return ["scaling_impl.value"] if learned and row.phase != "collecting" else []


@every_row
def test_state_dict_keys(row: Row) -> None:
    tensor_quant = row.build()
    if row.is_act or not row.name.endswith("MSE"):  # a weight learns at its first call
        assert list(tensor_quant.state_dict()) == expected_keys(row)
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
    for expected, actual in zip(run(tensor_quant, x)[:6], run(other, x)[:6], strict=True):
        assert torch.equal(expected, actual)


# Resolution --------------------------------------------------------------------------------------


@plain_rows
def test_quantizers_work_after_failed_resolutions(row: Row) -> None:
    bad = {
        "exponent_bit_width": (0, "exponent_bit_width=0: expected an int >= 1"),
        "mantissa_bit_width": (-1, "mantissa_bit_width=-1: expected an int >= 0"),
        "bit_width": (row.bits - 1, f"bit_width={row.bits - 1}: expected {row.bits}, 1"),
    }
    for name, (number, message) in bad.items():
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            row.build(**{name: number})
    with pytest.raises(DependencyError, match="float_to_int_impl_type='nonsense'"):
        row.build(float_to_int_impl_type="nonsense")
    assert run(row.build(), row.data())[0].isfinite().all()


def test_layers_name_the_keyword() -> None:
    quantizer = FLOAT_ROWS[0].quantizer
    with pytest.raises(ValueError, match=r"bit_width=6: expected 8.*Layer: QuantIdentity"):
        qnn.QuantIdentity(act_quant=quantizer, bit_width=6)
