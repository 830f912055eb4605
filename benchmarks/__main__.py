"""Command line: ``python -m benchmarks``; ``--help`` lists its options.

Each peer is a library in the interpreter that has it, measured in turns with this one. Rows may be
measured by several calls that share a file of figures:

    python -m benchmarks --json figures.json --peer brevitas=/opt/released/bin/python
    python -m benchmarks --json figures.json --only compiled --write
"""

from __future__ import annotations

import argparse
import json
import platform
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from benchmarks import parts
from benchmarks.library import LIBRARIES, Unsupported, load_library
from benchmarks.measure import clock, in_turns, ratio
from benchmarks.peers import OWN, Peer, exact, figures, versions
from benchmarks.render import RESULTS, Result, detail, page, shown
from benchmarks.rows import Row, rows
from benchmarks.twins import VERSIONS, Case, Twins
from brevitas import config

_PROCESSOR_FILE = Path("/proc/cpuinfo")


def processor() -> str:
    """The model of the processor."""
    lines = _PROCESSOR_FILE.read_text().splitlines() if _PROCESSOR_FILE.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "clock": clock().__name__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def taken(case: Case, measure: str, budget: float) -> dict[str, Any]:
    """The figure of a case in this process."""
    library = load_library(OWN.library)
    with config.overrides(JIT_ENABLED=case.jit), closing(Twins(library, case)) as twins:
        if measure != "time":
            return exact(lambda name, version: getattr(twins, name)(version), measure)
        runs = [lambda v=version: twins.run(v) for version in VERSIONS]
        figure = ratio(*in_turns(runs, budget))
        return {**figure, "graphs": twins.compilations()} if case.compiled else figure


def measured(row: Row, peers: list[Peer], threads: int, budget: float) -> Result:
    """The figures of one row."""
    if row.case is not None and peers:
        found = figures([OWN, *peers], row.case, row.measure, threads, budget)
        return Result(row, found.pop(OWN), {peer.library: f for peer, f in found.items()})
    others: dict[str, dict[str, Any]] = {}
    try:
        if row.case is not None:
            return Result(row, taken(row.case, row.measure, budget), others)
        assert row.take is not None
        own = row.take()
    except Unsupported as reason:
        return Result(row, {"unsupported": str(reason)}, others)
    if row.take is parts.importing:
        others |= {
            peer.library: parts.importing(peer.python, isolated=True)
            for peer in peers
            if peer.library == OWN.library
        }
    return Result(row, own, others)


def as_data(results: list[Result]) -> dict[str, Any]:
    """Figures by the names of their rows."""
    return {row.name: {"own": own, "peers": peers} for row, own, peers in results}


def as_results(data: dict[str, Any]) -> list[Result]:
    """The figures of a file, in the order of the table."""
    known = [row for row in rows() if row.name in data]
    return [Result(row, data[row.name]["own"], data[row.name]["peers"]) for row in known]


def merged(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What was measured now, with the rest of what a file has from the same machine.

    Raises:
        ValueError: The file's figures depend on something else.
    """
    if not path.exists():
        return about
    old = json.loads(path.read_text())
    if old["machine"] != about["machine"]:
        raise ValueError(f"{path}: taken on {old['machine']}; expected {about['machine']}.")
    figures_now = {
        name: {**row, "peers": {**old["figures"].get(name, row)["peers"], **row["peers"]}}
        for name, row in about["figures"].items()
    }
    return {
        **about,
        "peers": {**old["peers"], **about["peers"]},
        "figures": {**old["figures"], **figures_now},
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Quantized networks against their float twins: speed, memory, operations.",
    )
    parser.add_argument("--only", default="", help="rows whose name contains this text")
    parser.add_argument("--json", type=Path, help="file for figures; keeps those of other rows")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (1)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each timed figure (4)")
    known = ", ".join(LIBRARIES)
    parser.add_argument(
        "--peer",
        type=Peer.parsed,
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help=f"a library and the interpreter that has it, repeatable; one of {known}",
    )
    return parser.parse_args()


def main() -> None:
    told = arguments()
    torch.set_num_threads(told.threads)
    known = versions(told.peer)
    results = []
    for row in rows():
        if told.only.lower() in row.name.lower():
            result = measured(row, told.peer, told.threads, told.seconds)
            others = ", ".join(f"{name} {shown(f)}" for name, f in result.peers.items())
            print(f"{row.name:55} {shown(result.own):28} {row.reach:8} {detail(result.own):40}")
            if others:
                print(f"{'':8}{others}", flush=True)
            results.append(result)
    about = {"machine": machine(), "peers": known, "figures": as_data(results)}
    if told.json:
        about = merged(told.json, about)
        told.json.write_text(json.dumps(about, indent=1) + "\n")
    if told.write:
        RESULTS.write_text(page(as_results(about["figures"]), about["machine"], about["peers"]))


if __name__ == "__main__":
    main()
