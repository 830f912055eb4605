"""Errors carry values, nothing is swallowed, types are not guessed, every file has its test."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from architecture.source_tree import TESTS, Module, expect_none, is_shim, modules

RAISES_WITH_VALUE = 0.8
OWN_BASES = 2
# Layers and declarations are put together from parts by inheritance; nothing else is.
MAY_STACK_BASES = ("brevitas.nn", "brevitas.quant")
# Files tested through another one.
TESTED_ELSEWHERE: dict[str, str] = {}


def test_no_bare_except() -> None:
    offenders = [
        module.at(node.lineno)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    expect_none(offenders, "bare except")


def test_no_hasattr() -> None:
    offenders = [
        module.at(node.lineno)
        for module in modules().values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "hasattr"
    ]
    expect_none(offenders, "hasattr: declare the attribute on the base instead")


def test_raises_carry_the_offending_value() -> None:
    raises = [(module, node) for module in modules().values() for node in _raises(module)]
    offenders = [
        f"{module.at(node.lineno)}: {ast.unparse(node)[:80]}"
        for module, node in raises
        if not _carries_value(node)
    ]
    allowed = (1 - RAISES_WITH_VALUE) * len(raises)
    if len(offenders) > allowed:
        expect_none(offenders, f"raise without a value, of {len(raises)}")


def test_few_own_bases() -> None:
    own = {node.name for module in modules().values() for node in module.classes()}
    offenders = [
        f"{module.at(node.lineno)}: {node.name}"
        for module in modules().values()
        if not module.name.startswith(MAY_STACK_BASES)
        for node in module.classes()
        if sum(ast.unparse(base).rpartition(".")[2] in own for base in node.bases) > OWN_BASES
    ]
    expect_none(offenders, f"class with more than {OWN_BASES} own bases")


def test_every_source_file_has_its_test_file() -> None:
    offenders = [
        f"{module.name}: expected {_test_file_names(module)[0]}"
        for module in modules().values()
        if not is_shim(module)
        and module.name not in TESTED_ELSEWHERE
        and not any((TESTS / name).exists() for name in _test_file_names(module))
    ]
    expect_none(offenders, "source file without its test file")


def _raises(module: Module) -> Iterator[ast.Raise]:
    """Go through the raises that make an error; passing one on (`raise`, `raise error`) is none.

    `raise NotImplementedError` marks a method that a subclass gives: there is no value to show.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            if ast.unparse(node.exc.func) != "NotImplementedError":
                yield node


def _carries_value(node: ast.Raise) -> bool:
    """Tell whether the message holds anything but fixed text: a variable, call or f-string."""
    assert isinstance(node.exc, ast.Call)
    given = [*node.exc.args, *(keyword.value for keyword in node.exc.keywords)]
    varying = (ast.Name, ast.Attribute, ast.FormattedValue, ast.Call, ast.Subscript)
    return any(isinstance(part, varying) for argument in given for part in ast.walk(argument))


def _test_file_names(module: Module) -> list[str]:
    """Where a module's test may lie; `_private.py` is tested by `test_private.py`."""
    parts = module.name.split(".")
    folder, stem = "/".join(parts[:-1]), parts[-1]
    if module.is_package:
        return [f"{folder}/{stem}/test_init.py".lstrip("/")]
    return [f"{folder}/test_{stem.lstrip('_')}.py", f"{folder}/test_{stem}.py"]
