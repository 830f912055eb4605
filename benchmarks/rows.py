"""What is measured: each row compares a quantized network with its float twin in one process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from benchmarks.measure import (
    inference,
    operations,
    ratio,
    saved_bytes,
    train_step,
)
from benchmarks.workloads import WORKLOADS, end_statistics
from brevitas import config
from brevitas.export.inference import quant_inference_mode

Figure = dict[str, float]


class Row(NamedTuple):
    """One figure: its name, what to reach for it, and how it is taken."""

    name: str
    target: str
    take: Callable[[], Figure]


@contextmanager
def compiled_quantizers(enabled: bool) -> Iterator[None]:
    """Run quantizers as compiled regions, as under ``BREVITAS_JIT=1``."""
    with config.overrides(JIT_ENABLED=enabled):
        yield


def _pair(name: str, learned: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    workload = WORKLOADS[name]
    x = workload.data()
    quantized, plain = workload.build(True), workload.build(False)
    if learned:
        end_statistics(quantized, x)
    return quantized, plain, x


def train(name: str, learned: bool = True, jit: bool = False) -> Figure:
    """A training step, against that of the float twin."""
    quantized, plain, x = _pair(name, learned)
    with compiled_quantizers(jit):
        return ratio(lambda: train_step(quantized, x), lambda: train_step(plain, x))


def evaluate(name: str, mode: bool = False, jit: bool = False) -> Figure:
    """A forward in evaluation, against that of the float twin."""
    quantized, plain, x = _pair(name, learned=True)
    quantized.eval(), plain.eval()
    with compiled_quantizers(jit), torch.no_grad():
        with quant_inference_mode(quantized) if mode else nullcontext():
            inference(quantized, x)
            return ratio(lambda: inference(quantized, x), lambda: inference(plain, x))


def train_compiled(name: str, learned: bool) -> Figure:
    """A training step under ``torch.compile``, against the compiled float twin."""
    torch._dynamo.reset()
    quantized, plain, x = _pair(name, learned)
    run, reference = torch.compile(quantized), torch.compile(plain)
    return ratio(lambda: train_step(run, x), lambda: train_step(reference, x))


def saved(name: str, compiled: bool = False) -> Figure:
    """Bytes that autograd keeps for the backward pass, against those of the float twin."""
    quantized, plain, x = _pair(name, learned=True)
    if compiled:
        torch._dynamo.reset()
        quantized, plain = torch.compile(quantized), torch.compile(plain)
    ours, reference = saved_bytes(quantized, x), saved_bytes(plain, x)
    return {"ratio": ours / reference, "bytes": ours, "reference_bytes": reference}


def count(name: str) -> Figure:
    """Operations of ATen in one training step, forward and backward."""
    quantized, plain, x = _pair(name, learned=True)
    ours, reference = operations(quantized, x), operations(plain, x)
    return {"ratio": ours / reference, "operations": ours, "reference_operations": reference}


def import_time() -> Figure:
    """Seconds of ``import brevitas.nn`` beyond ``import torch``, the best of some interpreters."""
    script = (
        "import time, sys, torch; t = time.perf_counter(); import brevitas.nn; "
        "print(time.perf_counter() - t, int('torch._dynamo' in sys.modules))"
    )
    found = []
    for _ in range(5):
        output = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        found.append(tuple(float(word) for word in output.stdout.split()))
    return {"seconds": min(found)[0], "loads_dynamo": max(flag for _, flag in found)}


def building() -> Figure:
    """Construction of a layer, against that of the float layer."""
    return ratio(
        lambda: _repeat(50, lambda: qnn.QuantLinear(64, 64)),
        lambda: _repeat(50, lambda: nn.Linear(64, 64)),
    )


def small_forward() -> Figure:
    """One forward of a small layer in evaluation, where overhead is all there is."""
    x, quantized, plain = torch.randn(8, 64), qnn.QuantLinear(64, 64), nn.Linear(64, 64)
    quantized.eval(), plain.eval()
    with torch.no_grad():
        return ratio(
            lambda: _repeat(100, lambda: quantized(x)), lambda: _repeat(100, lambda: plain(x))
        )


def _repeat(times: int, run: Callable[[], Any]) -> None:
    for _ in range(times):
        run()


def activation(jit: bool) -> Figure:
    """A quantized ReLU of a million values, forward and backward, against a ReLU."""
    x = torch.randn(1024, 1024)
    quantized, plain = qnn.QuantReLU(), nn.ReLU()
    end_statistics(quantized, x)
    leaf = x.clone().requires_grad_()

    def step(layer: nn.Module) -> None:
        leaf.grad = None
        layer(leaf).sum().backward()

    with compiled_quantizers(jit):
        return ratio(lambda: step(quantized), lambda: step(plain), repeats=51)


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    found: list[Row] = []

    def add(label: str, targets: dict[str, str], take: Callable[..., Figure], **how: Any) -> None:
        for name, target in targets.items():
            found.append(Row(f"{name}: {label}", target, lambda n=name: take(n, **how)))

    add("train, statistics", {"CNN": "1.7", "MLP": "1.35"}, train, learned=False)
    add("train, learned", {"CNN": "1.4", "MLP": "1.2"}, train)
    add("train, BREVITAS_JIT=1", {"CNN": "1.2", "MLP": "1.1"}, train, jit=True)
    add("eval()", {"CNN": "1.6", "MLP": "1.4"}, evaluate)
    add("quant_inference_mode", {"CNN": "1.5", "MLP": "1.1"}, evaluate, mode=True)
    add("quant_inference_mode, JIT", {"CNN": "1.15", "MLP": "1.1"}, evaluate, mode=True, jit=True)
    for learned in (False, True):
        label = f"train, compiled, {'learned' if learned else 'statistics'}"
        add(label, {"CNN": "1.1", "MLP": "1.1"}, train_compiled, learned=learned)
    add("bytes saved for backward", {"CNN": "1.7", "MLP": "3.0"}, saved)
    add("bytes saved, compiled", {"CNN": "1.4", "MLP": "2.5"}, saved, compiled=True)
    add("operations of ATen", {"CNN": "4.0", "MLP": "3.7"}, count)
    add("train step", {"LSTM": "8"}, train)
    add("inference", {"LSTM": "10"}, evaluate)
    add("inference, BREVITAS_JIT=1", {"LSTM": "3"}, evaluate, jit=True)
    found.append(Row("import brevitas.nn beyond torch", "0.3 s", import_time))
    found.append(Row("building QuantLinear(64, 64)", "8", building))
    found.append(Row("forward of QuantLinear(64, 64), 8x64", "5", small_forward))
    found.append(Row("QuantReLU, 1M values, eager", "-", lambda: activation(False)))
    found.append(Row("QuantReLU, 1M values, BREVITAS_JIT=1", "-", lambda: activation(True)))
    return found


def take(row: Row) -> Figure:
    """Measure one row; how long it took is part of the figure."""
    start = time.perf_counter()
    figure = row.take()
    return {**figure, "measured_in_s": time.perf_counter() - start}
