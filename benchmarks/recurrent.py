"""How long a quantized LSTM takes, as a ratio to `torch.nn.LSTM` in the same process.

Prints JSON: medians of interleaved runs in milliseconds of processor time, which other programs on
the machine disturb less than the clock on the wall, and their ratio. `BREVITAS_JIT=1` compiles.

    OMP_NUM_THREADS=1 python benchmarks/recurrent.py
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from brevitas import config
from brevitas.core.scaling import ParameterFromRuntimeStatsScaling
from brevitas.nn import QuantLSTM

SIZES = {"input_size": 64, "hidden_size": 128, "num_layers": 2}
STEPS, BATCH = 50, 16


def layers() -> tuple[torch.nn.Module, torch.nn.Module, torch.Tensor]:
    """A quantized LSTM that learns its scales, its float twin, and an input."""
    torch.manual_seed(0)
    quantized, twin = QuantLSTM(**SIZES), torch.nn.LSTM(**SIZES)
    x = torch.randn(STEPS, BATCH, SIZES["input_size"])
    with torch.no_grad():
        quantized(x)
    for module in quantized.modules():
        if isinstance(module, ParameterFromRuntimeStatsScaling):
            module.finish_collection()
    # After the end of a collection, some forwards still look for recomputed batches.
    for _ in range(3):
        quantized(x)
    return quantized, twin, x


def train(layer: torch.nn.Module, x: torch.Tensor) -> None:
    """One training step without the optimizer."""
    layer.train().zero_grad()
    layer(x)[0].square().sum().backward()


def infer(layer: torch.nn.Module, x: torch.Tensor) -> None:
    """One evaluation."""
    with torch.no_grad():
        layer.eval()(x)


def measured(function: Callable[..., None], rounds: int) -> dict[str, float]:
    """Medians of both layers and their ratio."""
    quantized, twin, x = layers()
    times: dict[Any, list[float]] = {quantized: [], twin: []}
    for warm_up in (True, False):
        for _ in range(2 if warm_up else rounds):
            for layer, found in times.items():
                start = time.process_time()
                function(layer, x)
                if not warm_up:
                    found.append(1e3 * (time.process_time() - start))
    ours, theirs = (statistics.median(found) for found in times.values())
    return {"quantized_ms": round(ours, 2), "float_ms": round(theirs, 2), "ratio": ours / theirs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    results = {
        "layer": {**SIZES, "steps": STEPS, "batch": BATCH},
        "jit": config.JIT_ENABLED,
        "train": measured(train, rounds),
        "inference": measured(infer, rounds),
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processor": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    sys.stdout.write(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
