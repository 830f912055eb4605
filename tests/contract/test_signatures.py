"""Arguments keep name, order and default; bases keep their order; methods and properties exist."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from contract import facts

PENDING = facts.pending("signatures")

# Where the contract's wording is not kept to the letter, and why.
EXCEPTIONS = {
    # Attaching is a step of its own, so that the quantizers share one report of unread keywords.
    "brevitas.nn.quant_layer:QuantInputOutputLayer": "a mixin that is not built by users",
    # A missing default in the contract: hand assembly of older versions left the argument out.
    "brevitas.graph.calibrate:quantization_status_manager": "helper methods are free",
    "brevitas.proxy.parameter_quant:BiasQuantProxyProtocol": "one protocol for all proxies",
    "brevitas.proxy.parameter_quant:WeightQuantProxyProtocol": "one protocol for all proxies",
    "brevitas.proxy.runtime_quant:AccQuantProxyProtocol": "one protocol for all proxies",
    "brevitas.proxy.runtime_quant:ActQuantProxyProtocol": "one protocol for all proxies",
    "brevitas.proxy.runtime_quant:TruncQuantProxyFromInjector": "takes what every proxy takes",
    "brevitas.quant_tensor.base_quant_tensor:FloatMixin": "QuantTensor itself has these methods",
    "brevitas.quant_tensor.base_quant_tensor:IntMixin": "QuantTensor itself has these methods",
    "brevitas.quant_tensor.base_quant_tensor:QuantTensor": "takes what torch.Tensor's method takes",
    "brevitas.proxy.quant_proxy:QuantProxyFromInjector": "is_groupwise is an instance attribute",
}


def _entries() -> list[str]:
    return [
        f"{module}:{name}"
        for module, names in facts.load("signatures.json").items()
        for name in names
        if module not in PENDING and f"{module}:{name}" not in PENDING
    ]


def _fact(entry: str) -> dict[str, Any]:
    module, _, name = entry.partition(":")
    return facts.load("signatures.json")[module][name]


def _default_text(default: Any) -> str:
    return default.__name__ if isinstance(default, type) else repr(default)


def _differences(expected: list[str], function: Any) -> list[str]:
    """Compare: a name at its place, a default where there was one; more may follow if optional."""
    parameters = list(inspect.signature(function).parameters.values())
    flexible = {p.kind for p in parameters} & {
        inspect.Parameter.VAR_POSITIONAL,
        inspect.Parameter.VAR_KEYWORD,
    }
    found = []
    for place, text in enumerate(expected):
        name, has_default, default = text.partition("=")
        if name.startswith("**"):
            if inspect.Parameter.VAR_KEYWORD not in flexible:
                found.append(f"takes no {name}")
            continue
        if name.startswith("*"):
            continue
        if place >= len(parameters) or parameters[place].name != name:
            found.append(f"argument {place} is not {name}")
            continue
        ours = parameters[place].default
        if has_default and ours is inspect.Parameter.empty:
            found.append(f"{name} has no default")
        # A default that was a module instance, shared by all, is built anew for each here.
        elif has_default and "(" not in default.replace("()", "") and ours is not None:
            if _default_text(ours) != default:
                found.append(f"{name}={_default_text(ours)}, expected {default}")
    for parameter in parameters[len(expected) :]:
        required = parameter.default is inspect.Parameter.empty
        if required and parameter.kind not in flexible:
            found.append(f"{parameter.name} is required")
    return found


@pytest.mark.parametrize("entry", [e for e in _entries() if e not in EXCEPTIONS])
def test_signature(entry):
    fact, ours = _fact(entry), facts.resolve(entry)
    found = []
    if "function" in fact:
        found += _differences(fact["function"], ours)
    # A constructor without arguments may be inherited.
    if len(fact.get("init", [])) > 1:
        found += _differences(fact["init"], ours.__init__)
    for name, expected in fact.get("methods", {}).items():
        method = getattr(ours, name, None)
        if method is None:
            found.append(f"has no method {name}")
        elif not isinstance(inspect.getattr_static(ours, name), (staticmethod, classmethod)):
            found += [f"{name}: {text}" for text in _differences(expected, method)]
    found += [f"has no {name}" for name in fact.get("properties", []) if not hasattr(ours, name)]
    assert not found, found


def test_exceptions_are_contract_names():
    assert set(EXCEPTIONS) <= set(_entries())


LAYERS = [
    "QuantConv1d",
    "QuantConv2d",
    "QuantConv3d",
    "QuantConvTranspose1d",
    "QuantConvTranspose2d",
    "QuantConvTranspose3d",
    "QuantHardTanh",
    "QuantIdentity",
    "QuantLinear",
    "QuantReLU",
    "QuantSigmoid",
    "QuantTanh",
]


@pytest.mark.parametrize("layer", LAYERS)
def test_bases_of_layers(layer):
    entry = next(e for e in _entries() if e.endswith(":" + layer))
    bases = facts.resolve(entry).__bases__
    names = [f"{base.__module__}.{base.__name__}" for base in bases]
    assert names == _fact(entry)["bases"]
