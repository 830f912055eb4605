"""What the digits example reports: progress, results, the table, the picture."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

_START = time.perf_counter()
_RUNTIMES = ("ONNX Runtime", "qonnx")


@dataclass
class RuntimeResult:
    """What one runtime made of an exported model, compared with PyTorch."""

    accuracy: float  # percent
    classes_differing: int
    outputs_differing: float  # percent of all output values
    steps_apart: float  # largest difference, in steps of the output scale
    file_size: int  # bytes


@dataclass
class Result:
    """One row of the table."""

    method: str
    bits: int
    accuracy: float  # percent
    seconds: float = 0.0
    runtimes: dict[str, RuntimeResult] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.method} {self.bits} bit"


def print_progress(message: str) -> None:
    """Print a line with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:5.1f} s] {message}", flush=True)


def print_table(results: list[Result]) -> None:
    """Print one row a model; `differ` is the share of output values unlike PyTorch's."""
    header = f"{'model':<6} {'bits':>4} {'accuracy':>9}"
    for runtime in _RUNTIMES:
        header += f" | {runtime:>12} {'differ':>8} {'file':>8}"
    header += f" | {'seconds':>7}"
    print(f"\n{header}\n{'-' * len(header)}")
    for result in results:
        print(_row(result))


def _row(result: Result) -> str:
    row = f"{result.method:<6} {result.bits:>4} {result.accuracy:>7.2f} %"
    for runtime in _RUNTIMES:
        found = result.runtimes.get(runtime)
        if found is None:
            row += f" | {'-':>12} {'-':>8} {'-':>8}"
        else:
            row += f" | {found.accuracy:>10.2f} % {found.outputs_differing:>6.3f} %"
            row += f" {found.file_size / 1000:>5.0f} kB"
    return f"{row} | {result.seconds:>7.1f}"


def draw_accuracy(float_result: Result, results: list[Result], file: Path) -> Path:
    """Draw accuracy against bits, one line a method, and write the picture."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(float_result.accuracy, color="0.5", linestyle="--", label="float")
    for method, label, above in (
        ("PTQ", "quantized after training", -14),
        ("QAT", "trained quantized", 7),
    ):
        points = sorted((r.bits, r.accuracy) for r in results if r.method == method)
        bits, accuracies = zip(*points, strict=True)
        axes.plot(bits, accuracies, marker="o", label=label)
        for point in points:
            axes.annotate(
                f"{point[1]:.1f}",
                point,
                xytext=(0, above),
                textcoords="offset points",
                fontsize=8,
                horizontalalignment="center",
            )
    axes.margins(0.08, 0.12)
    axes.set_xticks(sorted({result.bits for result in results}))
    axes.set_xlabel("bits of weights and activations")
    axes.set_ylabel("accuracy on the test split, %")
    axes.set_title("Handwritten digits: accuracy against bits")
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=150)
    return file
