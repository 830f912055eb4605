"""The contract's small facts, part of the repository: names, signatures, checkpoint keys.

`data/pending.json` lists what is not built yet, by the part that it belongs to. The list can only
shrink: an entry that works makes a test fail until it is taken off.
"""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"


@cache
def load(name: str) -> Any:
    """Read one of the files in `data`."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def pending(kind: str) -> dict[str, str]:
    """Map each entry of a kind that is not built yet to the part that it belongs to."""
    parts: dict[str, list[str]] = load("pending.json")[kind]
    return {entry: part for part, entries in parts.items() for entry in entries}


def resolve(entry: str) -> Any:
    """Return what `module` or `module:name` stands for.

    Raises:
        ImportError: where there is no such module or name.
    """
    module_path, _, name = entry.partition(":")
    module = importlib.import_module(module_path)
    if not name or name == "*":
        return module
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ImportError(f"{module_path} has no {name}") from error


def renamed_parameters(layer: Any) -> dict[str, str]:
    """Map recorded names of parameters to ours, for weights that share a quantizer.

    The recorded library names them after the list that the quantizer keeps. Here it reads a weight
    through the layer, so that it is named once, after its owner.
    """
    modules = dict(layer.named_modules())
    names = {id(module): name for name, module in modules.items()}
    kept = "tensor_quant.scaling_impl.parameter_list_stats.extra_tracked_params_list"
    return {
        f"{proxy}.{kept}.{place}.parameter": f"{names[id(owner)]}.weight"
        for proxy in modules
        if proxy.endswith("weight_quant")
        for place, owner in enumerate(modules[proxy].tracked_module_list[1:])
    }


def run_prelude(prelude: str) -> dict[str, Any]:
    """Run the definitions of a recording, statement by statement, leaving out those not built yet.

    A left out name gives a NameError where a case uses it, so a case that is not listed as pending
    cannot be lost.
    """
    space: dict[str, Any] = {}
    statement: list[str] = []
    for line in [*prelude.split("\n"), ""]:
        if statement and not line.startswith((" ", "\t")):
            try:
                exec("\n".join(statement), space)
            except (ImportError, NameError, AttributeError):
                pass
            statement = []
        statement.append(line)
    return space
