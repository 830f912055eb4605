"""Dependency injection: quantizers declared as classes of parts. Layer: inject (L2)."""

from __future__ import annotations

from brevitas.inject._container import (
    Injector,
    InjectorMeta,
    declaration_age,
    declared_names,
    let,
    record_reads,
    resolve,
)
from brevitas.inject._errors import DependencyError, QuantizerResolutionError
from brevitas.inject._this import This, this
from brevitas.inject._value import value

# The names of the original's two flavours; here one injector does what both did.
BaseInjector = Injector
ExtendedInjector = Injector

__all__ = [
    "BaseInjector",
    "DependencyError",
    "ExtendedInjector",
    "Injector",
    "InjectorMeta",
    "QuantizerResolutionError",
    "This",
    "declaration_age",
    "declared_names",
    "let",
    "record_reads",
    "resolve",
    "this",
    "value",
]
