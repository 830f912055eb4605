"""Command line: ``python -m benchmarks [--only TEXT] [--json FILE] [--write]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import Figure, Row, rows, take

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def shown(figure: Figure) -> str:
    """A figure as a cell of the table."""
    if "ratio" not in figure:
        return f"{figure['seconds']:.2f} s"
    spread = f" ({figure['low']:.2f} to {figure['high']:.2f})" if "low" in figure else ""
    return f"{figure['ratio']:.2f}{spread}"


def detail(figure: Figure) -> str:
    """The absolute numbers behind a ratio."""
    if "operations" in figure:
        return f"{figure['operations']:.0f} against {figure['reference_operations']:.0f}"
    if "bytes" in figure:
        mebi = [figure[key] / 2**20 for key in ("bytes", "reference_bytes")]
        return f"{mebi[0]:.1f} MiB against {mebi[1]:.1f}"
    if "ms" in figure:
        return f"{figure['ms']:.2f} ms against {figure['reference_ms']:.2f}"
    return ""


def render(results: list[tuple[Row, Figure]]) -> str:
    """The page of results."""
    lines = [
        "# Results",
        "",
        "Ratios to the float network in the same process, medians of neighbouring runs, with their",
        "quartiles. Written by `python -m benchmarks --write`.",
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        "| figure | measured | to reach | absolute |",
        "|---|---|---|---|",
    ]
    for row, figure in results:
        lines.append(f"| {row.name} | {shown(figure)} | {row.target} | {detail(figure)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    results = []
    for row in rows():
        if arguments.only.lower() in row.name.lower():
            figure = take(row)
            print(f"{row.name:45} {shown(figure):28} {row.target:8} {detail(figure)}", flush=True)
            results.append((row, figure))
    if arguments.json:
        figures = {row.name: figure for row, figure in results}
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))
    if arguments.write:
        RESULTS.write_text(render(results))


if __name__ == "__main__":
    main()
