"""What the digits example reports: progress, results, the table, the picture."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

_START = time.perf_counter()
_RUNTIMES = ("ONNX Runtime", "qonnx")

# Points (1/72 inch) of the labels in the picture: size of the font, height of a digit, air around
# it, and where a label lies below or above its marker. Those below are moved aside, since curves
# rise from the left.
_FONT_SIZE, _LABEL_HEIGHT, _AIR = 8, 7, 3
_BELOW, _ABOVE = -14, 7
_ASIDE = 10


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
    labels = []
    for method, label, start in (
        ("PTQ", "quantized after training", _BELOW),
        ("QAT", "trained quantized", _ABOVE),
    ):
        points = sorted((r.bits, r.accuracy) for r in results if r.method == method)
        bits, accuracies = zip(*points, strict=True)
        axes.plot(bits, accuracies, marker="o", label=label)
        labels += [(point, start) for point in points]
    axes.margins(0.08, 0.15)
    axes.set_xticks(sorted({result.bits for result in results}))
    axes.set_xlabel("bits of weights and activations")
    axes.set_ylabel("accuracy on the test split, %")
    axes.set_title("Handwritten digits: accuracy against bits")
    axes.legend(loc="lower right")
    _label(axes, labels, float_result.accuracy)
    figure.savefig(file, dpi=150)
    return file


def _label(
    axes: Axes, labels: list[tuple[tuple[int, float], int]], float_accuracy: float
) -> list[Annotation]:
    """Write each accuracy below or above its marker, clear of the line of the float model."""
    figure = axes.figure
    figure.draw_without_rendering()  # the layout is known from here on
    points_per_pixel = 72 / figure.dpi
    annotations = []
    for point, start in labels:
        marker, line = axes.transData.transform([point, (point[0], float_accuracy)])
        height_of_line = (line[1] - marker[1]) * points_per_pixel
        annotations.append(
            axes.annotate(
                f"{point[1]:.1f}",
                point,
                xytext=(_ASIDE if start < 0 else 0, clear_of(height_of_line, start)),
                textcoords="offset points",
                fontsize=_FONT_SIZE,
                horizontalalignment="center",
            )
        )
    return annotations


def clear_of(line: float, start: float) -> float:
    """Move a label away from its marker, past a line that would cross it.

    Args:
        line: height of the line above the marker, in points.
        start: height at which the label starts.

    Returns:
        The height at which it starts in place of that.
    """
    crossed = start - _AIR < line < start + _LABEL_HEIGHT + _AIR
    if not crossed:
        return start
    return line + _AIR if start > 0 else line - _AIR - _LABEL_HEIGHT
