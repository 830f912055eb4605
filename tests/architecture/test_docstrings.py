"""Everything public is documented and typed.

Public is what has no underscore in its name, nor in its module's name. A method needs no
docstring of its own where it overrides: a documented method of one of the library's own bases, or
a method of torch.nn.Module, torch.autograd.Function or the container types, whose meaning their
documentation gives. Double-underscore methods, property setters and the `@value` entries of an
injector need none either: the class documents what `__init__` takes and what its entries resolve.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import torch

from architecture.source_tree import Definition, Function, Module, expect_none, modules

INHERITED_MEANING = {
    name
    for owner in (torch.nn.Module, torch.autograd.Function, torch.Tensor, tuple, dict)
    for name in dir(owner)
} | {"forward", "setup_context", "vmap"}


def test_every_module_says_what_it_is() -> None:
    offenders = [m.at(1) for m in modules().values() if not ast.get_docstring(m.tree)]
    expect_none(offenders, "module without a docstring")


def test_every_module_names_its_layer() -> None:
    offenders = [
        module.at(1)
        for module in modules().values()
        if module.name != "brevitas" and "Layer:" not in (ast.get_docstring(module.tree) or "")
    ]
    expect_none(offenders, "module docstring without 'Layer: name (Ln).'")


def test_every_public_definition_is_documented() -> None:
    documented = _documented_methods()
    offenders = [
        f"{module.at(node.lineno)}: {_name(owner, node)}"
        for module, owner, node in _public_definitions()
        if not ast.get_docstring(node) and not _is_explained_elsewhere(owner, node, documented)
    ]
    expect_none(offenders, "public definition without a docstring")


def test_every_public_argument_is_annotated() -> None:
    offenders = []
    for module, owner, node in _public_definitions(dunder=True):
        if not isinstance(node, Function):
            continue
        missing = [f"argument {a.arg}" for a in _arguments(owner, node) if a.annotation is None]
        if node.returns is None and node.name != "__init__":
            missing.append("return value")
        offenders += [f"{module.at(node.lineno)}: {_name(owner, node)}, {m}" for m in missing]
    expect_none(offenders, "public signature without annotation")


def _public_definitions(
    dunder: bool = False,
) -> Iterator[tuple[Module, ast.ClassDef | None, Definition]]:
    """Go through public functions, classes and methods: (module, owning class, node)."""
    for module in modules().values():
        if not module.is_public:
            continue
        for node in module.definitions():
            if node.name.startswith("_"):
                continue
            yield module, None, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, Function) and _is_public(member.name, dunder):
                        yield module, node, member


def _is_public(name: str, dunder: bool) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return dunder
    return not name.startswith("_")


def _name(owner: ast.ClassDef | None, node: Definition) -> str:
    return node.name if owner is None else f"{owner.name}.{node.name}"


def _arguments(owner: ast.ClassDef | None, node: Function) -> list[ast.arg]:
    given = node.args
    listed = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    if owner is not None and "staticmethod" not in _decorators(node):
        listed = listed[1:]
    return listed + [a for a in (given.vararg, given.kwarg) if a is not None]


def _decorators(node: Definition) -> set[str]:
    """Last part of each decorator's name: `setter` for `@scale.setter`."""
    names = set()
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        names.add(ast.unparse(target).rpartition(".")[2])
    return names


def _is_explained_elsewhere(
    owner: ast.ClassDef | None, node: Definition, documented: dict[str, set[str]]
) -> bool:
    if owner is None:
        return "overload" in _decorators(node)
    if _decorators(node) & {"setter", "deleter", "overload", "value"}:
        return True
    if owner.bases and node.name in INHERITED_MEANING:
        return True
    return any(node.name in documented[base] for base in _own_bases(owner.name, documented))


def _documented_methods() -> dict[str, set[str]]:
    """Documented methods of each class of the library, by class name."""
    found: dict[str, set[str]] = {}
    for module in modules().values():
        for node in module.classes():
            names = {
                member.name
                for member in node.body
                if isinstance(member, Function) and ast.get_docstring(member)
            }
            found.setdefault(node.name, set()).update(names)
    return found


def _own_bases(name: str, documented: dict[str, set[str]]) -> set[str]:
    """All bases of a class that the library defines, by name."""
    bases: dict[str, set[str]] = {}
    for module in modules().values():
        for node in module.classes():
            direct = {ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases}
            bases.setdefault(node.name, set()).update(direct)
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = bases.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found & documented.keys()
