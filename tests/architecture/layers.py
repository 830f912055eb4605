"""The layers of the library, lowest first; the table in ARCHITECTURE.md shows the same order."""

from __future__ import annotations

PACKAGE = "brevitas"

# One row a layer. Imports go downward, or to a module of the same row.
LAYERS = (
    (
        "L0",
        (
            "config",
            "jit",
            "_compat",
            "utils",
            "inject.enum",
            "optim",
        ),
    ),
    ("L1", ("function", "ops")),
    ("L2", ("inject", "common", "quant_tensor", "fx")),
    ("L3 utils", ("core.utils", "core._state", "core._phase", "core._trial")),
    ("L3 function_wrapper", ("core.function_wrapper",)),
    ("L3 restrict_val", ("core.restrict_val",)),
    ("L3 bit_width", ("core.bit_width",)),
    ("L3 stats", ("core.stats",)),
    ("L3 scaling", ("core.scaling",)),
    ("L3 zero_point", ("core.zero_point",)),
    ("L3 quant", ("core.quant",)),
    ("L4", ("proxy", "utils.logging")),
    ("L5", ("quant", "inject.defaults")),
    ("L6", ("nn",)),
    ("L7", ("graph",)),
    ("L8", ("export", "onnx", "loss")),
)

_RANK_OF_ENTRY = {
    f"{PACKAGE}.{entry}": rank for rank, (_, entries) in enumerate(LAYERS) for entry in entries
}


def rank(module: str) -> int | None:
    """Give the layer of a module as a number, or None where the table does not place it.

    A package that the table only places by its children ranks with the lowest of them: what its
    `__init__` imports is imported with each child.
    """
    name = module
    while name:
        if name in _RANK_OF_ENTRY:
            return _RANK_OF_ENTRY[name]
        if name == module:
            children = [r for e, r in _RANK_OF_ENTRY.items() if e.startswith(f"{name}.")]
            if children:
                return min(children)
        name = name.rpartition(".")[0]
    return None


def layer(module: str) -> str:
    """Name the layer of a module."""
    number = rank(module)
    return "unplaced" if number is None else LAYERS[number][0]
