"""What instances of layers and proxies carry: attributes, flags, methods."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int16Bias
from brevitas.quant_tensor import IntQuantTensor
from contract import facts

DATA = facts.load("instance_attributes.json")

# What raised in the recorded library and answers here.
ANSWERS_HERE = {
    ("QuantConvTranspose2d", "channelwise_separable"): False,
    ("QuantConvTranspose2d", "per_elem_ops"): 36,
    ("disabled input_quant of QuantConv2d", "is_proxy_compiled"): False,
}


def _linear() -> torch.nn.Module:
    return qnn.QuantLinear(
        4,
        3,
        input_quant=Int8ActPerTensorFloat,
        output_quant=Int8ActPerTensorFloat,
        bias_quant=Int16Bias,
        return_quant_tensor=True,
    )


BUILD = {
    "QuantLinear": _linear,
    "QuantConv2d": lambda: qnn.QuantConv2d(2, 3, 3),
    "QuantConvTranspose2d": lambda: qnn.QuantConvTranspose2d(2, 3, 3),
    "QuantEltwiseAdd": qnn.QuantEltwiseAdd,
    "QuantEmbedding": lambda: qnn.QuantEmbedding(5, 4),
    "QuantIdentity": qnn.QuantIdentity,
    "QuantReLU": qnn.QuantReLU,
    "QuantMultiheadAttention": lambda: qnn.QuantMultiheadAttention(4, 2),
    "QuantLSTM": lambda: qnn.QuantLSTM(4, 3),
}
PROXIES = {
    "weight_quant of QuantLinear (WeightQuantProxyFromInjector)": lambda: _linear().weight_quant,
    "bias_quant of QuantLinear (BiasQuantProxyFromInjector)": lambda: _linear().bias_quant,
    "input_quant of QuantLinear (ActQuantProxyFromInjector)": lambda: _linear().input_quant,
    "output_quant of QuantLinear (ActQuantProxyFromInjector)": lambda: _linear().output_quant,
    "disabled input_quant of QuantConv2d": lambda: BUILD["QuantConv2d"]().input_quant,
    "act_quant of QuantReLU": lambda: qnn.QuantReLU().act_quant,
}


def _check(owner: Any, name: str, expected: str) -> str | None:
    """Return what is wrong with one attribute, or None."""
    if expected.startswith("raises "):
        try:
            getattr(owner, name)
        except Exception as error:
            return None if type(error).__name__ == expected.split()[1] else repr(error)
        return "did not raise"
    if not hasattr(owner, name):
        return "absent"
    value = getattr(owner, name)
    if expected == "method":
        return None if callable(value) else f"{value!r} is not callable"
    if expected.startswith("class "):
        ours = value.__name__ if isinstance(value, type) else type(value).__name__
        return None if ours == expected.split()[1] else f"class {ours}"
    if repr(value) == expected or type(value).__name__ == expected:
        return None
    return f"{value!r}, expected {expected}"


def _wrong(kind: str, name: str, owner: Any) -> dict[str, str]:
    found = {}
    for attribute, expected in DATA[kind][name].items():
        if (name, attribute) in ANSWERS_HERE:
            assert getattr(owner, attribute) == ANSWERS_HERE[name, attribute]
        elif problem := _check(owner, attribute, expected):
            found[attribute] = problem
    return found


@pytest.mark.parametrize("name", BUILD)
def test_layer(name):
    assert _wrong("layers", name, BUILD[name]()) == {}


@pytest.mark.parametrize("name", PROXIES)
def test_proxy(name):
    assert _wrong("proxies", name, PROXIES[name]()) == {}


def test_int_quant_tensor():
    one = torch.tensor(1.0)
    x = IntQuantTensor(torch.ones(2), one, 0 * one, 8 * one, True, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        missing = [name for name in DATA["IntQuantTensor"] if not hasattr(x, name)]
    assert missing == []


def test_every_recorded_instance_is_checked():
    assert set(DATA["layers"]) == set(BUILD)
    assert set(DATA["proxies"]) == set(PROXIES)
