"""Figures of this library that need no pair of networks: import, the operation itself, export."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.library import Unsupported, built_float, load_library
from benchmarks.measure import in_turns, ratio, seconds
from benchmarks.workloads import WORKLOADS

IMPORTS = 5
_IMPORT = """
import sys, time, torch
start = time.process_time()
import brevitas.nn
print(time.process_time() - start, int("torch._dynamo" in sys.modules))
"""


def importing(python: str = sys.executable, isolated: bool = False) -> dict[str, float]:
    """Processor seconds of ``import brevitas.nn`` beyond ``import torch``.

    The least of some interpreters, since nothing makes an import faster than it is; and whether it
    loads the compiler.
    """
    command = [python, *(["-I"] if isolated else []), "-W", "ignore", "-c", _IMPORT]
    found = []
    for _ in range(IMPORTS):
        output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        found.append([float(word) for word in output.split()])
    return {"seconds": min(found)[0], "loads_dynamo": max(flag for _, flag in found)}


def operation(budget: float = 3.0) -> dict[str, float]:
    """The fused operation on a million values, forward and backward, against a ReLU."""
    fake_quant = import_module("brevitas.ops.fake_quant")
    plan, scale = fake_quant.FakeQuantPlan(), torch.tensor(0.02, requires_grad=True)
    x = torch.randn(1024, 1024).requires_grad_()

    def step(function: Callable[[Tensor], Tensor]) -> Callable[[], float]:
        def run() -> None:
            x.grad = scale.grad = None
            function(x).sum().backward()

        return lambda: seconds(run)

    ours = step(lambda value: fake_quant.fake_quant(value, scale, None, -128, 127, plan))
    return ratio(*in_turns([ours, step(torch.relu)], budget))


def export_qonnx() -> dict[str, float]:
    """Seconds of an export to QONNX."""
    return _export("export_qonnx")


def export_qcdq() -> dict[str, float]:
    """Seconds of an export to QCDQ."""
    return _export("export_onnx_qcdq")


def _export(name: str) -> dict[str, float]:
    """Export the CNN, against PyTorch's export of the float twin."""
    try:
        export: Any = getattr(import_module("brevitas.export"), name)
        import_module("onnxscript")
    except ImportError as error:
        raise Unsupported(f"the extra `export` is not installed: {error}.") from error
    library, x = load_library("brevitas"), WORKLOADS["CNN"].data()
    quantized, twin = library.build("CNN"), built_float("CNN").eval()
    library.end_statistics(quantized, x)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        _export_float(twin, x, path)  # imports the exporter
        ours = seconds(lambda: export(quantized.eval(), x, path))
        reference = seconds(lambda: _export_float(twin, x, path))
    return {
        "ratio": ours / reference,
        "ms": 1e3 * ours,
        "reference_ms": 1e3 * reference,
    }


def _export_float(model: nn.Module, x: Tensor, path: str) -> None:
    torch.onnx.export(model, (x,), path, verbose=False)
