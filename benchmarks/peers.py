"""Other libraries, each in an interpreter of its own, measured in turns with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import brevitas
from benchmarks.library import LIBRARIES, Unsupported
from benchmarks.measure import in_turns, ratio
from benchmarks.twins import FLOAT, QUANTIZED, VERSIONS, Case

CHECKOUT = Path(__file__).resolve().parents[1]
# The folder comes last, so that nothing in it hides what is installed.
_START = (
    "import runpy, sys; sys.path.append({folder!r}); "
    "runpy.run_module('benchmarks.worker', run_name='__main__', alter_sys=True)"
)
# Environment variables that would change what is measured.
_FORGOTTEN = ("BREVITAS_JIT", "PYTHONPATH", "PYTHONHOME")


class Peer(NamedTuple):
    """A library and the interpreter that has it."""

    library: str
    python: str
    #: Whether it is the library of this checkout.
    is_own: bool = False

    @classmethod
    def parsed(cls, text: str) -> Peer:
        """Read ``NAME=PYTHON``.

        Raises:
            ValueError: The name is unknown, or the interpreter is missing.
        """
        name, _, python = text.partition("=")
        if name not in LIBRARIES:
            raise ValueError(f"--peer {text}: expected one of {', '.join(LIBRARIES)}, `=` and")
        if not os.access(python, os.X_OK):
            raise ValueError(f"--peer {text}: {python!r} is no interpreter.")
        return cls(name, python)


OWN = Peer("brevitas", sys.executable, is_own=True)


class WorkerError(RuntimeError):
    """A worker could not do what was asked."""


class RemoteTwins:
    """The twins in a worker's process: the interface of `Twins`, spoken over pipes.

    Args:
        peer: whose process it is.
        jit: whether quantizers are compiled, which a process decides when it starts.
        threads: number of threads.
    """

    def __init__(self, peer: Peer, jit: bool, threads: int) -> None:
        kept = {key: value for key, value in os.environ.items() if key not in _FORGOTTEN}
        settings = {"BREVITAS_JIT": str(int(jit)), "OMP_NUM_THREADS": str(threads)}
        isolation = ["-I"]
        if peer.is_own:
            settings["PYTHONPATH"] = str(Path(brevitas.__file__).parents[1])
            isolation = ["-P"] if sys.version_info >= (3, 11) else []
        start = _START.format(folder=str(CHECKOUT))
        forbidden = "" if peer.is_own else str(CHECKOUT)
        command = [peer.python, *isolation, "-W", "ignore", "-c", start]
        self.process = subprocess.Popen(
            [*command, peer.library, str(threads), forbidden],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**kept, **settings},
            text=True,
        )

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send a command and return the answer's value.

        Raises:
            Unsupported: The library cannot do this.
            WorkerError: It failed.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": name, "with": arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"the worker ended with status {self.process.wait()} at {name!r}.")
        answer = json.loads(line)
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["value"]

    def run(self, version: str) -> float:
        """Seconds of one run."""
        return self.ask("run", version)

    def compilations(self) -> int:
        """Graphs that were compiled so far."""
        return self.ask("compilations")

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self.process.wait(timeout=60)


@contextmanager
def workers(
    peers: Sequence[Peer], case: Case, threads: int
) -> Iterator[list[tuple[Peer, RemoteTwins | None, str]]]:
    """Start a process for each peer and a case; where one cannot do it, None and the reason."""
    found: list[tuple[Peer, RemoteTwins | None, str]] = []
    started: list[RemoteTwins] = []
    try:
        for peer in peers:
            twins = RemoteTwins(peer, case.jit, threads)
            started.append(twins)
            try:
                twins.ask("load")
                twins.ask("begin", list(case))
                found.append((peer, twins, ""))
            except (Unsupported, WorkerError) as reason:
                if peer.is_own and isinstance(reason, WorkerError):
                    raise
                found.append((peer, None, str(reason)))
        yield found
    finally:
        for twins in started:
            twins.close()


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """What each peer says it is.

    Raises:
        Unsupported: An interpreter does not have its library.
        WorkerError: It does not start.
    """
    told = {}
    for peer in peers:
        twins = RemoteTwins(peer, jit=False, threads=1)
        try:
            answer = twins.ask("load")
        finally:
            twins.close()
        told[peer.library] = f"{answer['version']} (torch {answer['torch']})"
    return told


def figures(
    peers: Sequence[Peer], case: Case, measure: str, threads: int, budget: float
) -> dict[Peer, dict[str, Any]]:
    """One figure of each peer; times are taken in turns over all of them.

    Args:
        peers: the peers.
        case: what is done.
        measure: time, operations, bytes or graphs.
        threads: number of threads.
        budget: seconds for each peer.

    Returns:
        A figure for each, or ``{"unsupported": reason}``.

    Raises:
        WorkerError: This library itself failed; where a peer fails, the error is its reason.
    """
    results: dict[Peer, dict[str, Any]] = {}
    with workers(peers, case, threads) as found:
        able: dict[Peer, RemoteTwins] = {}
        for peer, twins, reason in found:
            try:
                if twins is None:
                    raise Unsupported(reason)
                results[peer] = _first(twins, measure)
                able[peer] = twins
            except (Unsupported, WorkerError) as error:
                if peer.is_own and isinstance(error, WorkerError):
                    raise
                results[peer] = {"unsupported": str(error)}
        if measure == "time" and able:
            results |= _timed(able, case.compiled, budget * len(able))
    return results


def _first(twins: RemoteTwins, measure: str) -> dict[str, Any]:
    """An exact figure; of times, two runs that show whether the twins can do it at all."""
    if measure != "time":
        return exact(twins.ask, measure)
    for _ in range(2):
        twins.run(QUANTIZED)
    return {}


def _timed(
    able: dict[Peer, RemoteTwins], is_compiled: bool, budget: float
) -> dict[Peer, dict[str, Any]]:
    """Times of all twins in turns, as ratios."""
    runs: list[Callable[[], float]] = []
    for twins in able.values():
        runs += [lambda t=twins, v=version: t.run(v) for version in VERSIONS]
    times = iter(in_turns(runs, budget))
    results: dict[Peer, dict[str, Any]] = {}
    for peer, twins in able.items():
        results[peer] = ratio(next(times), next(times))
        if is_compiled:
            results[peer]["graphs"] = twins.compilations()
    return results


def exact(ask: Callable[..., Any], measure: str) -> dict[str, Any]:
    """A figure without noise.

    Args:
        ask: takes the name of a measure and a version.
        measure: operations, bytes or graphs.
    """
    if measure == "graphs":
        return {"graphs_of": ask("graphs", QUANTIZED)}
    name = {"operations": "operations", "bytes": "saved_bytes"}[measure]
    ours, reference = ask(name, QUANTIZED), ask(name, FLOAT)
    return {"ratio": ours / reference, measure: ours, f"reference_{measure}": reference}
