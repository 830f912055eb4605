"""What holds for every layer with a quantized accumulator: copies, checkpoints, devices, dtypes.

A layer, or a truncation for it, joins by a row.
"""

from __future__ import annotations

import copy
import io
import pickle
from enum import Enum
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.quant import RoundTo8bit, ShiftRoundSaturateTo8bit, TruncTo8bit, scaled_int
from brevitas.quant.base import IntQuant
from brevitas.quant.solver import ClampQuantSolver, TruncQuantSolver
from brevitas.quant_tensor import IntQuantTensor
from contract import facts
from quant_tensors import make


class LearnedClamp(IntQuant, ClampQuantSolver):
    bit_width = 8
    bit_width_impl_type = "parameter"
    bit_width_to_remove = 4


class Row(NamedTuple):
    """A layer with one quantizer, and what it holds once it has seen data."""

    layer: type[nn.Module]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    keys: tuple[str, ...] = ()


LEARNED_SHIFT = "trunc_quant.tensor_quant.trunc_scaling_impl.scaling_impl.value"
REMOVED_BITS = (
    "clamp_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_to_remove_impl.bit_width_coeff"
)
TRUNCATIONS = {
    "TruncTo8bit": (TruncTo8bit, ()),
    "RoundTo8bit": (RoundTo8bit, ()),
    "ShiftRoundSaturateTo8bit": (ShiftRoundSaturateTo8bit, (LEARNED_SHIFT,)),
}
ROWS = {"clamp": Row(qnn.ClampQuantAccumulator, (), {"clamp_quant": LearnedClamp}, (REMOVED_BITS,))}
for _name, (_quantizer, _keys) in TRUNCATIONS.items():
    for _layer, _arguments in (
        (qnn.TruncQuantAccumulator, ()),
        (qnn.TruncAvgPool2d, (2,)),
        (qnn.TruncAdaptiveAvgPool2d, (1,)),
    ):
        _keywords = {"trunc_quant": _quantizer}
        ROWS[f"{_layer.__name__}-{_name}"] = Row(_layer, _arguments, _keywords, _keys)


def build(name: str, **keywords: Any) -> nn.Module:
    row = ROWS[name]
    return row.layer(*row.arguments, **{**row.keywords, **keywords})


def data(seed: int = 0, dtype: torch.dtype = torch.float32) -> IntQuantTensor:
    x, _ = make((2, 3, 4, 4), 0.25, bit_width=12, seed=seed)
    return x.set(value=x.value.to(dtype))


def trained(name: str) -> nn.Module:
    layer = build(name)
    layer(data(seed=1))
    return layer


def assert_same_result(first: nn.Module, second: nn.Module) -> None:
    x = data()
    for ours, theirs in zip(first.eval()(x)[:4], second.eval()(x)[:4], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ROWS)
class TestEveryAccumulator:
    def test_result_is_valid(self, name):
        for mode in (True, False):
            y = trained(name).train(mode)(data())
            assert y.is_valid and y.bit_width == 8 and y.signed and y.training is mode

    def test_keys(self, name):
        layer, row = build(name), ROWS[name]
        assert {key for key, _ in layer.named_parameters()} == set(row.keys)
        assert tuple(trained(name).state_dict()) == row.keys
        # Statistics that were not collected yet leave no key.
        assert tuple(layer.state_dict()) == (() if LEARNED_SHIFT in row.keys else row.keys)

    def test_state_dict_round_trip(self, name):
        source, target = trained(name), build(name)
        target.load_state_dict(source.state_dict())
        assert_same_result(source, target)

    def test_safe_loading(self, name):
        source, stream = trained(name), io.BytesIO()
        torch.save(source.state_dict(), stream)
        stream.seek(0)
        target = build(name)
        target.load_state_dict(torch.load(stream, weights_only=True))
        assert_same_result(source, target)

    def test_state_dict_assign(self, name):
        source, target = trained(name), build(name, device="meta")
        target.load_state_dict(source.state_dict(), assign=True)
        assert not any(parameter.is_meta for parameter in target.parameters())
        target.to_empty(device="cpu")
        target.load_state_dict(source.state_dict())
        assert_same_result(source, target)

    @pytest.mark.parametrize("how", ["deepcopy", "pickle"])
    def test_copies_are_independent(self, name, how):
        source, x = trained(name), data()
        duplicate = (
            copy.deepcopy(source) if how == "deepcopy" else pickle.loads(pickle.dumps(source))
        )
        expected = source.eval()(x).value
        assert torch.equal(expected, duplicate.eval()(x).value)
        with torch.no_grad():
            for parameter in duplicate.parameters():
                parameter.add_(1.0)
        duplicate.train()(data(seed=3))
        assert torch.equal(expected, source(x).value)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_dtype_reaches_everything(self, name, dtype):
        for layer in (build(name, dtype=dtype), build(name).to(dtype)):
            tensors = [*layer.named_parameters(), *layer.named_buffers()]
            assert tensors and all(tensor.dtype == dtype for _, tensor in tensors)
            assert layer(data(dtype=dtype)).value.dtype == dtype

    def test_meta_device_reaches_everything(self, name):
        layer = build(name, device="meta")
        with torch.device("meta"):
            inside = build(name)
        for module in (layer, inside):
            tensors = [*module.named_parameters(), *module.named_buffers()]
            assert tensors and all(tensor.is_meta for _, tensor in tensors)
        constants = [
            part for part in layer.to_empty(device="cpu").modules() if hasattr(part, "number")
        ]
        assert constants and all(part().item() == part.number for part in constants)

    def test_evaluation_is_deterministic_and_frozen(self, name):
        layer, x = trained(name).eval(), data()
        first = layer(x).value
        layer(data(seed=5))
        assert torch.equal(first, layer(x).value)
        with torch.inference_mode():
            assert torch.equal(layer(x).value, first)
        assert not layer(x).value.requires_grad or list(layer.parameters())

    def test_every_parameter_gets_a_gradient(self, name):
        layer = build(name)
        for _ in range(2):
            x = data()
            x = x.set(value=x.value.requires_grad_())
            layer(x).value.square().sum().backward()
            assert bool(x.value.grad.isfinite().all())
        assert all(parameter.grad is not None for parameter in layer.parameters())

    def test_disabled_keeps_all_bits(self, name):
        layer = build(name)
        (proxy,) = (m for m in layer.modules() if hasattr(m, "disable_quant"))
        proxy.disable_quant = True
        y = layer(data())
        assert y.is_valid and y.bit_width >= 12
        proxy.disable_quant = False
        assert layer(data()).bit_width == 8

    def test_module_protocol(self, name):
        layer, calls = build(name), []
        layer.register_forward_pre_hook(lambda *_: calls.append("before"))
        layer.register_forward_hook(lambda *_: calls.append("after"))
        layer(data())
        assert calls == ["before", "after"] and repr(layer).startswith(type(layer).__name__)


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_declares_what_the_contract_lists(name: str) -> None:
    listed = facts.load("quantizer_declarations.json")[f"brevitas.quant.scaled_int.{name}"]
    quantizer = getattr(scaled_int, name)
    for attribute, value in listed["values"].items():
        ours = getattr(quantizer, attribute)
        if isinstance(ours, Enum):
            ours = f"{type(ours).__name__}.{ours.name}"
        elif isinstance(ours, type):
            value = _resolved(value.removeprefix("class:"))
        assert ours == value, attribute
    for part, path in listed["parts"].items():
        assert type(getattr(quantizer, part)) is _resolved(path)


def _resolved(path: str) -> Any:
    return facts.resolve(":".join(path.rsplit(".", 1)))


def test_every_truncation_has_a_row() -> None:
    truncations = {
        name
        for name in scaled_int.__all__
        if issubclass(getattr(scaled_int, name), TruncQuantSolver)
    }
    assert truncations == set(TRUNCATIONS)
