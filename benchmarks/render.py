"""The page of results, from figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.rows import Row

RESULTS = Path(__file__).parent / "RESULTS.md"
_EXPLANATION = """
Ratios to the float network in the same process: medians of neighbouring runs, with their quartiles.
The published figures of Brevitas 0.13.4 and NVIDIA ModelOpt 0.47 (static scales) were taken on
another machine; a column named after a library was measured here, in turns with this one, each in
a process of its own. With one thread, times are processor time of the process, which other programs
on the machine disturb little; with several, time on the wall. Bytes count each memory that autograd
keeps once, without parameters and the network's input; operations are those that a dispatch mode
sees in a forward and a backward pass, without a loss. Graphs are those of a training run through
the end of the statistics phase, then those that evaluation, evaluation of another shape and
training of another shape need in addition. Written by `python -m benchmarks --write`.
"""


class Result(NamedTuple):
    """A row with the figure of this library, and those of the peers by name."""

    row: Row
    own: Mapping[str, Any]
    peers: Mapping[str, Mapping[str, Any]]


def shown(figure: Mapping[str, Any]) -> str:
    """A figure as a cell of the table."""
    if "unsupported" in figure:
        return "not supported"
    if "graphs_of" in figure:
        first, *further = list(figure["graphs_of"].values())[:-1]
        broken = figure["graphs_of"]["breaks"]
        return f"{first}, then {', '.join(map(str, further))}; {broken} breaks"
    if "operations" in figure:
        return f"{figure['operations']:,}"
    if "ratio" not in figure:
        loads = ", loads torch._dynamo" if figure["loads_dynamo"] else ""
        return f"{figure['seconds']:.2f} s{loads}"
    spread = f" ({figure['low']:.2f} to {figure['high']:.2f})" if "low" in figure else ""
    return f"{figure['ratio']:.2f}{spread}"


def detail(figure: Mapping[str, Any]) -> str:
    """The absolute numbers behind a ratio."""
    if "operations" in figure:
        return f"against {figure['reference_operations']:,}"
    if "bytes" in figure:
        mebi = [figure[key] / 2**20 for key in ("bytes", "reference_bytes")]
        return f"{mebi[0]:.1f} MiB against {mebi[1]:.1f}"
    if "ms" in figure:
        scale, unit = (1e3, "us") if figure["ms"] < 0.1 else (1, "ms")
        pair = [scale * figure[key] for key in ("ms", "reference_ms")]
        graphs = f"; {figure['graphs']} graphs of both" if "graphs" in figure else ""
        return f"{pair[0]:.2f} {unit} against {pair[1]:.2f}{graphs}"
    return ""


def _cell(figure: Mapping[str, Any]) -> str:
    return f"{shown(figure)} {detail(figure)}" if "operations" in figure else shown(figure)


def page(results: Sequence[Result], machine: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """The page.

    Args:
        results: rows with their figures.
        machine: what the figures depend on.
        versions: name of each peer -> its version.
    """
    titles = ["figure", "measured", "to reach", "absolute", "0.13.4, published"]
    titles += ["ModelOpt 0.47, published", *(f"{name} {v}" for name, v in versions.items())]
    lines = ["# Results", *_EXPLANATION.splitlines(), ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    lines += ["", _line(titles), _line(["---"] * len(titles))]
    for row, own, peers in results:
        cells = [row.name, shown(own), row.reach, detail(own), row.brevitas, row.modelopt]
        lines.append(_line([*cells, *(_cell(peers[n]) if n in peers else "" for n in versions)]))
    return "\n".join([*lines, *_reasons(results)]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(results: Sequence[Result]) -> list[str]:
    """Why figures are missing, each reason once."""
    rows: dict[tuple[str, str], list[str]] = {}
    for row, own, peers in results:
        for name, figure in {"this library": own, **peers}.items():
            if "unsupported" in figure:
                rows.setdefault((name, figure["unsupported"]), []).append(row.name)
    if not rows:
        return []
    told = [f"- {name}: {'; '.join(names)}: {why}" for (name, why), names in rows.items()]
    return ["", "Not supported:", "", *told]
