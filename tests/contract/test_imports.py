"""Every module path and name that clients import exists, except those listed as not built yet."""

from __future__ import annotations

import pytest

from contract import facts

PENDING = facts.pending("imports")


def _entries() -> list[str]:
    entries = {
        f"{module}:{name}" if name else module
        for clients in facts.load("client_imports.json").values()
        for module, names in clients.items()
        for name in ["", *names]
    }
    return sorted(entries)


def _is_pending(entry: str) -> bool:
    return entry in PENDING or entry.partition(":")[0] in PENDING


def test_built_names_import():
    missing = []
    for entry in _entries():
        if not _is_pending(entry):
            try:
                facts.resolve(entry)
            except ImportError as error:
                missing.append(f"{entry}: {error}")
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("kind", ["imports", "signatures"])
def test_pending_names_are_still_missing(kind):
    built = []
    for entry in facts.pending(kind):
        try:
            facts.resolve(entry)
        except ImportError:
            continue
        built.append(entry)
    assert not built, f"take these off tests/contract/data/pending.json ({kind}): {built}"


def test_pending_names_are_contract_names():
    modules = {entry.partition(":")[0] for entry in _entries()}
    assert set(PENDING) <= set(_entries()) | modules


@pytest.mark.parametrize("module", ["brevitas.core.quant", "brevitas.function.ops"])
def test_star_imports_give_names(module):
    space: dict[str, object] = {}
    exec(f"from {module} import *", space)
    assert len(space) > 3
