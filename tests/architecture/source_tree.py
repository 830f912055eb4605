"""The library's source as data: files, syntax trees, code lines, definitions, imports."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCE = REPOSITORY / "src"
TESTS = REPOSITORY / "tests"
PACKAGE = "brevitas"

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


@dataclass(frozen=True)
class Import:
    """One imported name: the module it comes from, where it is written, and how."""

    module: str
    name: str | None
    line: int
    in_function: bool
    for_typing: bool


@dataclass(frozen=True)
class Module:
    """One source file of the library."""

    path: Path
    name: str

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=str(self.path))

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))

    @property
    def package(self) -> str:
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @cached_property
    def code_lines(self) -> list[int]:
        """Numbers of the lines that hold code: neither blank, nor comment, nor docstring."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        lines: set[int] = set()
        for token in tokens:
            if token.type not in _NO_CODE:
                lines.update(range(token.start[0], token.end[0] + 1))
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                if isinstance(node.value.value, str):
                    lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
        return sorted(lines)

    def at(self, line: int) -> str:
        """Name a place in this file the way that editors open it."""
        return f"{self.path.relative_to(REPOSITORY)}:{line}"

    def code_lines_of(self, node: Definition) -> int:
        """Count the code lines of a function or class."""
        last = node.end_lineno or node.lineno
        return sum(node.lineno <= line <= last for line in self.code_lines)

    def functions(self) -> Iterator[Function]:
        """Go through all functions and methods, nested ones included."""
        for node in ast.walk(self.tree):
            if isinstance(node, Function):
                yield node

    def definitions(self) -> Iterator[Definition]:
        """Go through the functions and classes of the module's top level."""
        for node in self.tree.body:
            if isinstance(node, Definition):
                yield node

    def classes(self) -> Iterator[ast.ClassDef]:
        """Go through the classes of the module's top level."""
        return (node for node in self.definitions() if isinstance(node, ast.ClassDef))

    @cached_property
    def imports(self) -> list[Import]:
        """All imports of the file, wherever they are written."""
        return list(_imports(self.tree, self.package, in_function=False, for_typing=False))


@lru_cache(maxsize=1)
def modules() -> dict[str, Module]:
    """All modules of the library by dotted name."""
    found = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(path, name)
    return found


def own_imports(module: Module) -> Iterator[tuple[str, Import]]:
    """Go through the imports of the library's own modules: (module that is imported, import).

    `from package import name` imports the module `package.name` where there is one.
    """
    known = modules()
    for item in module.imports:
        if item.module.split(".")[0] != PACKAGE:
            continue
        member = f"{item.module}.{item.name}"
        target = member if member in known else item.module
        if target != module.name:
            yield target, item


def is_shim(module: Module) -> bool:
    """Tell whether a module defines nothing itself: docstring, imports and assignments only."""
    return not any(True for _ in module.definitions())


def expect_none(offenders: list[str], rule: str) -> None:
    """Fail where there are offenders, with the rule and then one offender a line."""
    if offenders:
        pytest.fail("\n  ".join([f"{len(offenders)} x {rule}", *offenders]), pytrace=False)


def _imports(
    node: ast.AST, package: str, *, in_function: bool, for_typing: bool
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, in_function, for_typing)
        elif isinstance(child, ast.ImportFrom):
            source = _absolute(child, package)
            for alias in child.names:
                yield Import(source, alias.name, child.lineno, in_function, for_typing)
        else:
            yield from _imports(
                child,
                package,
                in_function=in_function or isinstance(child, Function | ast.Lambda),
                for_typing=for_typing or _is_typing_block(child),
            )


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, *([node.module] if node.module else [])])


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
