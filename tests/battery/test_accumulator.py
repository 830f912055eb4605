"""What holds for every layer with a quantized accumulator, besides what holds for every layer.

A layer joins by a row in `tests/layer_rows.py`, a truncation by its name in `TRUNCATIONS` there.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest

from brevitas.quant import scaled_int
from brevitas.quant.solver import TruncQuantSolver
from contract import facts
from layer_rows import ROWS, TRUNCATIONS
from layers import build, data, trained

LEARNED_SHIFT = "trunc_quant.tensor_quant.trunc_scaling_impl.scaling_impl.value"
REMOVED_BITS = (
    "clamp_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_to_remove_impl.bit_width_coeff"
)
TRUNCATING = [
    name for name, row in ROWS.items() if {"trunc_quant", "clamp_quant"} & {*row.keywords}
]


def keys_of(name: str) -> tuple[str, ...]:
    """The keys of a layer that has seen data."""
    if name == "clamp":
        return (REMOVED_BITS,)
    return (LEARNED_SHIFT,) if name.endswith("ShiftRoundSaturateTo8bit") else ()


@pytest.mark.parametrize("name", TRUNCATING)
class TestEveryAccumulator:
    def test_result_is_valid(self, name):
        for mode in (True, False):
            y = trained(name).train(mode)(data(name))
            assert y.is_valid and y.bit_width == 8 and y.signed and y.training is mode

    def test_keys(self, name):
        layer, keys = build(name), keys_of(name)
        assert {key for key, _ in layer.named_parameters()} == set(keys)
        assert tuple(trained(name).state_dict()) == keys
        # Statistics that were not collected yet leave no key.
        assert tuple(layer.state_dict()) == (() if LEARNED_SHIFT in keys else keys)

    def test_constants_come_back_from_the_meta_device(self, name):
        layer = build(name, device="meta").to_empty(device="cpu")
        constants = [part for part in layer.modules() if hasattr(part, "number")]
        assert constants and all(part().item() == part.number for part in constants)

    def test_disabled_keeps_all_bits(self, name):
        layer = build(name)
        (proxy,) = (m for m in layer.modules() if hasattr(m, "disable_quant"))
        proxy.disable_quant = True
        y = layer(data(name))
        assert y.is_valid and y.bit_width >= 12
        proxy.disable_quant = False
        assert layer(data(name)).bit_width == 8


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
