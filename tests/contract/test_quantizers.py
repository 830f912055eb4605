"""Every predefined quantizer, and every piece of one, is where clients import it from, and runs."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Uint8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor, QuantTensor
from contract import facts
from sign_quants import PREDEFINED
from tensor_quants import FLOAT_ROWS, GROUP_FLOAT_ROWS, ROWS

NAMES = facts.load("quantizer_names.json")
# What a recipe has to say where a quantizer leaves it to the user.
LEFT_TO_THE_USER: dict[str, dict[str, Any]] = {
    "IntBias": {"bit_width": 8},
    "Int8ActPerTensorFloatMinMaxInit": {"min_val": -1.0, "max_val": 1.0},
    "Int8ActPerTensorFixedPointMinMaxInit": {"min_val": -1.0, "max_val": 1.0},
    "Uint8ActPerTensorFloatMaxInit": {"max_val": 1.0},
    "Uint8ActPerTensorFixedPointMaxInit": {"max_val": 1.0},
    "ShiftedUint8WeightGroupQuantFloat": {"group_size": 4},
}
FORMAT = {"exponent_bit_width": 4, "mantissa_bit_width": 3, "bit_width": 8}
X = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("entry", NAMES)
def test_names_are_where_they_are_imported_from(entry: str) -> None:
    module, _, name = entry.rpartition(".")
    home = getattr(importlib.import_module(module), name)
    for other in NAMES[entry]["visible"]:
        assert getattr(importlib.import_module(other), name) is home, other


def _quantized(layer: nn.Module, x: Any) -> Tensor:
    """One training step and an evaluation; returns the output of the latter."""
    layer(x)
    output = layer.eval()(x)
    return output.value if isinstance(output, QuantTensor) else output


def _layer(place: str, quantizer: Any) -> tuple[nn.Module, Any]:
    """A layer that uses a quantizer as the contract says it was used, and an input."""
    image, rows = X, X[:, :, 0, 0]
    if place in ("QuantIdentity", "QuantReLU"):
        return getattr(qnn, place)(act_quant=quantizer), image
    if place.endswith("(3D input)"):
        return getattr(qnn, place.split("(")[0])(act_quant=quantizer), image[..., 0]
    if "." in place:
        return qnn.QuantConv2d(8, 4, 3, **{place.split(".")[1]: quantizer}), image
    if place == "TruncAvgPool2d":
        integers = (X * 100).round()
        x = IntQuantTensor(integers, 1.0, 0.0, 12, signed=True, training=False)
        return qnn.TruncAvgPool2d(2, trunc_quant=quantizer), x
    if place == "QuantEmbedding":
        return qnn.QuantEmbedding(6, 8, weight_quant=quantizer), torch.tensor([[0, 5, 2]])
    if place.startswith("QuantLinear(") or place == "QuantLinear+input_quant":
        is_bias = place.startswith("QuantLinear(")
        role = "bias_quant" if is_bias else "weight_quant"
        act = (
            None
            if "no input" in place
            else Uint8ActPerTensorFloat
            if not is_bias
            else (Int8ActPerTensorFloat)
        )
        return qnn.QuantLinear(8, 4, True, input_quant=act, **{role: quantizer}), rows
    arguments = (8, 4) if place == "QuantLinear" else (8, 4, 3)
    x = rows if place == "QuantLinear" else image
    return getattr(qnn, place)(*arguments, weight_quant=quantizer), x


# Pieces of quantizers, and what stands for no quantizer.
PIECES = ("quant.base.", "quant.float_base.", "quant.none.", "quant.solver.")
QUANTIZERS = [
    entry
    for entry, fact in NAMES.items()
    if "layers" in fact
    and not entry.startswith(tuple(f"brevitas.{piece}" for piece in PIECES))
    and not entry.endswith("ProxyMixin")
]
USABLE = {entry: fact["layers"] for entry, fact in NAMES.items() if fact.get("layers")}


@pytest.mark.parametrize("entry", USABLE)
def test_quantizers_run_on_the_layers_they_are_for(entry: str) -> None:
    module, _, name = entry.rpartition(".")
    quantizer = getattr(importlib.import_module(module), name)
    for place in USABLE[entry]:
        torch.manual_seed(0)
        layer, x = _layer(place, quantizer)
        output = _quantized(layer, x)
        assert bool(output.isfinite().all()) and output.numel(), place


def _needing_more() -> list[str]:
    """Quantizers that need a value from the user: those with a layer kind and no layer."""
    return [entry for entry in QUANTIZERS if NAMES[entry]["layers"] == []]


@pytest.mark.parametrize("entry", _needing_more())
def test_quantizers_run_once_the_user_has_said_the_rest(entry: str) -> None:
    module, _, name = entry.rpartition(".")
    quantizer = getattr(importlib.import_module(module), name)
    declared = dict(LEFT_TO_THE_USER.get(name, {}))
    if name.startswith(("FpOCP", "FpFNUZ")):
        declared |= FORMAT
    if "Channel" in name and "Act" in name:
        declared |= {
            "per_channel_broadcastable_shape": (1, 8, 1, 1),
            "scaling_stats_permute_dims": (1, 0, 2, 3),
        }
    if name.startswith("MX") and "Act" in name:
        declared["group_dim"] = 1
    quantizer = quantizer.let(**declared)
    if "Bias" in name:
        place = "QuantLinear(input_quant)"
    elif "Act" in name:
        place = "QuantIdentity"
    else:
        place = "QuantLinear"
    torch.manual_seed(0)
    layer, x = _layer(place, quantizer)
    assert bool(_quantized(layer, x).isfinite().all())


def test_every_quantizer_is_a_row_of_a_battery() -> None:
    rows = {
        f"{row.module}.{row.name}" for row in (*ROWS, *FLOAT_ROWS, *GROUP_FLOAT_ROWS, *PREDEFINED)
    }
    truncations = {"TruncTo8bit", "RoundTo8bit", "ShiftRoundSaturateTo8bit"}
    rows |= {f"brevitas.quant.scaled_int.{name}" for name in truncations}
    assert set(QUANTIZERS) - rows == set()
