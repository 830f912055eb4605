"""A quantized network beside its float twin, and what is done to both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.library import Library, Unsupported, built_float
from benchmarks.measure import (
    graphs_of_run,
    inference,
    operations,
    saved_bytes,
    seconds,
    train_step,
)
from benchmarks.workloads import WORKLOADS

QUANTIZED, FLOAT = VERSIONS = ("quantized", "float")
BATCHES = 4  # of a calibration
STEPS = 3  # of a statistics phase that ends by itself


class Case(NamedTuple):
    """One thing that is done to one network."""

    workload: str
    #: train, inference, build, calibrate or correct_bias
    action: str
    #: Whether the statistics phase is over.
    learned: bool = True
    #: Whether the library's mode of inference is on.
    inference_mode: bool = False
    #: Whether quantizers are compiled by the library's own setting.
    jit: bool = False
    #: Whether the whole network is compiled.
    compiled: bool = False


class Twins:
    """Both versions of a network.

    Args:
        library: what quantizes one of them.
        case: what is done to them.
        batch: how much of the input they see; None for all of it.

    Raises:
        Unsupported: The library cannot do that.
    """

    def __init__(self, library: Library, case: Case, batch: int | None = None) -> None:
        if case.jit and not library.has_jit:
            raise Unsupported("no setting compiles quantizers alone.")
        if not case.learned and not library.has_statistics:
            raise Unsupported("there is no statistics phase.")
        self.library, self.case = library, case
        self.workload = WORKLOADS[case.workload]
        self.x = self.workload.data()[:batch]
        self._modes = ExitStack()
        torch.manual_seed(0)
        quantized = self._quantized()
        torch.manual_seed(0)
        # Plain modules, or what torch.compile makes of them.
        self.models: dict[str, Any] = {QUANTIZED: quantized, FLOAT: built_float(case.workload)}
        # Without parameters, a gradient is one of the input.
        self.x.requires_grad_(not list(self.models[FLOAT].parameters()))
        evaluates = case.action in ("inference", "build")
        for model in self.models.values():
            model.train(not evaluates)
        if case.inference_mode:
            mode = library.inference_mode(self.models[QUANTIZED])
            self._modes.enter_context(torch.no_grad())
            self._modes.enter_context(mode)
        if case.compiled:
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            self.models = {name: torch.compile(model) for name, model in self.models.items()}

    def _quantized(self) -> nn.Module:
        model = self.library.build(self.case.workload)
        if self.case.learned and self.case.action in ("train", "inference"):
            self.library.end_statistics(model, self.x)
        return model

    def run(self, version: str) -> float:
        """Seconds of one run; what it needs is prepared before."""
        work = self._work(version)
        times = self.workload.times

        def repeated() -> None:
            for _ in range(times):
                work()

        return seconds(repeated) / times

    def _work(self, version: str) -> Callable[[], Any]:
        action, model, x = self.case.action, self.models[version], self.x
        if action == "train":
            return lambda: train_step(model, x)
        if action == "inference":
            return lambda: inference(model, x)
        if action == "build":
            if version == FLOAT:
                return lambda: built_float(self.case.workload)
            return lambda: self.library.build(self.case.workload)
        batches = [x] * BATCHES
        if version == FLOAT:
            return lambda: [inference(model, batch) for batch in batches]
        # A calibrated model is another one: each run gets a model that has seen nothing.
        fresh, method = copy.deepcopy(model), getattr(self.library, action)
        return lambda: method(fresh, batches)

    def operations(self, version: str) -> int:
        """Operations of ATen in one run."""
        return operations(self.models[version], self.x, backward=self.case.action == "train")

    def saved_bytes(self, version: str) -> int:
        """Bytes that autograd keeps in one run."""
        return saved_bytes(self.models[version], self.x)

    def graphs(self, version: str) -> dict[str, int]:
        """Graphs of a training run through the end of the statistics phase, and of other modes."""
        model = self.models[version]
        if version == QUANTIZED:
            self.library.end_soon(model, STEPS)
        return graphs_of_run(model, self.x, 2 * STEPS)

    def compilations(self) -> int:
        """Graphs that were compiled for both versions so far."""
        return torch._dynamo.utils.counters["stats"]["unique_graphs"] if self.case.compiled else 0

    def close(self) -> None:
        """Leave the modes."""
        self._modes.close()
