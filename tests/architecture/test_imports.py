"""Imports go downward, form no cycle, and stand at the top of the file."""

from __future__ import annotations

import subprocess
import sys

from architecture.layers import layer, rank
from architecture.source_tree import Module, expect_none, is_shim, modules, own_imports

# Modules that may import inside a function: the one place that knows optional packages.
MAY_DEFER = {"brevitas._compat"}
# Compatibility paths that re-export another module whole.
STAR_SHIMS = {"brevitas.inject.defaults"}
# The package of the enums (L0) is also that of the container (L2), which needs nothing above L0:
# importing an enum may load it.
CONTAINER = "brevitas.inject"
# Packages that `import brevitas.nn` must not load.
OPTIONAL = (
    "dependencies",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "qonnx",
    "scipy",
    "sklearn",
)


def test_every_module_has_a_layer() -> None:
    offenders = [name for name in modules() if rank(name) is None]
    expect_none(offenders, "module without a layer: add it to layers.py")


def test_no_upward_import() -> None:
    offenders = [
        f"{module.at(item.line)}: {module.name} ({layer(module.name)}) imports"
        f" {target} ({layer(target)})"
        for module in modules().values()
        for target, item in own_imports(module)
        if (rank(target) or 0) > (rank(module.name) or 0)
    ]
    expect_none(list(dict.fromkeys(offenders)), "upward import")


def test_importing_a_module_loads_nothing_above_it() -> None:
    # Importing a.b.c also runs a/__init__ and a.b/__init__, and what those import.
    offenders = [
        f"import {name} ({layer(name)}) loads {loaded} ({layer(loaded)})"
        for name in modules()
        for loaded in sorted(_loaded_by(name))
        if (rank(loaded) or 0) > (rank(name) or 0) and not loaded.startswith(CONTAINER)
    ]
    expect_none(offenders, "package __init__ that pulls in a higher layer")


def test_no_import_cycle() -> None:
    graph = {
        module.name: {target for target, item in own_imports(module) if not item.for_typing}
        for module in modules().values()
    }
    cycles = [" <-> ".join(sorted(group)) for group in _components(graph) if len(group) > 1]
    expect_none(cycles, "import cycle")


def test_no_import_inside_a_function() -> None:
    offenders = [
        f"{module.at(item.line)}: {item.module}"
        for module in modules().values()
        if module.name not in MAY_DEFER
        for item in module.imports
        if item.in_function
    ]
    expect_none(offenders, "import inside a function")


def test_no_star_import() -> None:
    offenders = [
        f"{module.at(item.line)}: from {item.module} import *"
        for module in modules().values()
        for item in module.imports
        if item.name == "*" and not (module.name in STAR_SHIMS and is_shim(module))
    ]
    expect_none(offenders, "star import outside the listed shims")


def test_layers_import_neither_extras_nor_the_compiler() -> None:
    code = (
        "import sys; import brevitas.nn; "
        "print(*(m for m in sys.argv[1:] if m in sys.modules), sep=', ')"
    )
    command = [sys.executable, "-c", code, "torch._dynamo", *OPTIONAL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "", f"import brevitas.nn loads {done.stdout.strip()}"


def _loaded_by(name: str) -> set[str]:
    """Follow the imports of a module, the `__init__` of every package on the way included."""
    known = modules()
    loaded: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in loaded or current not in known:
            continue
        loaded.add(current)
        waiting.append(current.rpartition(".")[0])
        waiting.extend(_imported_when_run(known[current]))
    return loaded - {name}


def _imported_when_run(module: Module) -> list[str]:
    return [
        target
        for target, item in own_imports(module)
        if not item.for_typing and not item.in_function
    ]


def _components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Find the strongly connected components of a graph (Tarjan 1972, without recursion)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []
    for root in graph:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        work = [(root, iter(graph[root]))]
        while work:
            node, targets = work[-1]
            target = next((t for t in targets if t in graph), None)
            if target is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(stack[at:])
                    del stack[at:]
            elif target not in index:
                index[target] = low[target] = len(index)
                stack.append(target)
                work.append((target, iter(graph[target])))
            elif target in stack:
                low[node] = min(low[node], index[target])
    return found


def test_components_finds_a_planted_cycle() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert [sorted(group) for group in _components(graph) if len(group) > 1] == [["b", "c"]]
