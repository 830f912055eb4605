"""Every public layer of the contract is a row of the batteries of layers."""

from __future__ import annotations

from typing import Any

from torch import nn

import brevitas.nn as qnn
from brevitas.nn import equalized_layer
from brevitas.nn.target import flexml
from contract import facts
from layer_rows import ROWS

# What layers are made of: bases, and parts that one layer alone uses.
PARTS = {
    "brevitas.nn.mixin.acc:QuantClampMixin",
    "brevitas.nn.mixin.acc:TruncMixin",
    "brevitas.nn.quant_activation:Sigmoid",
    "brevitas.nn.quant_activation:Tanh",
    "brevitas.nn.quant_layer:QuantInputOutputLayer",
    "brevitas.nn.quant_layer:QuantNonLinearActLayer",
    "brevitas.nn.quant_layer:QuantWeightBiasInputOutputLayer",
    "brevitas.nn.quant_rnn:GateParams",
    "brevitas.nn.quant_rnn:GateWeight",
    "brevitas.nn.quant_rnn:QuantRecurrentStackBase",
}


def _listed() -> dict[str, Any]:
    """The classes that the contract lists for `brevitas.nn`, but for those not built yet."""
    pending = facts.pending("signatures")
    return {
        f"{module}:{name}": facts.resolve(f"{module}:{name}")
        for module, names in facts.load("signatures.json").items()
        for name, fact in names.items()
        if module.startswith("brevitas.nn.") and "init" in fact
        if module not in pending and f"{module}:{name}" not in pending
    }


def test_every_layer_of_the_contract_has_a_row() -> None:
    in_rows = {row.layer for row in ROWS.values()}
    missing = {entry for entry, layer in _listed().items() if layer not in in_rows}
    assert missing == PARTS


def test_every_layer_that_is_handed_out_has_a_row() -> None:
    handed_out = {
        getattr(home, name)
        for home in (qnn, flexml, equalized_layer)
        for name in home.__all__
        if isinstance(getattr(home, name), type) and issubclass(getattr(home, name), nn.Module)
    }
    assert handed_out == {row.layer for row in ROWS.values()}
