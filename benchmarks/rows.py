"""The table: each row is one figure, what is to be reached, and what others were measured at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from benchmarks import parts
from benchmarks.twins import Case

Figure = dict[str, float]


class Row(NamedTuple):
    """One figure of a case, or of a part of this library."""

    name: str
    #: What is to be reached.
    reach: str
    #: Figure of Brevitas 0.13.4, as published.
    brevitas: str = ""
    #: Figure of NVIDIA ModelOpt 0.47 with static scales, as published.
    modelopt: str = ""
    case: Case | None = None
    #: What is measured: time, operations, bytes or graphs.
    measure: str = "time"
    #: How a figure is taken that needs no twins.
    take: Callable[[], Figure] | None = None


NETWORKS = ("CNN", "MLP")
# Figure, what to reach, Brevitas 0.13.4, ModelOpt 0.47 (each CNN and MLP); action and settings.
_PAIRS: list[tuple[str, tuple[str, str], tuple[str, str], tuple[str, str], str, dict[str, bool]]]
_PAIRS = [
    (
        "train step, statistics phase",
        ("1.7", "1.35"),
        ("4.2 to 4.7", "2.0 to 2.4"),
        ("", ""),
        "train",
        {"learned": False},
    ),
    (
        "train step, learned phase",
        ("1.4", "1.2"),
        ("2.1 to 2.8", "1.8 to 2.2"),
        ("1.34", "1.17"),
        "train",
        {},
    ),
    (
        "train step, `BREVITAS_JIT=1`",
        ("1.2", "1.1"),
        ("2.4", ""),
        ("", ""),
        "train",
        {"jit": True},
    ),
    ("inference, `eval()`", ("1.6", "1.4"), ("3.1", "2.4"), ("", ""), "inference", {}),
    (
        "inference, `quant_inference_mode`",
        ("1.5", "1.1"),
        ("", ""),
        ("", ""),
        "inference",
        {"inference_mode": True},
    ),
    (
        "inference, `quant_inference_mode`, `BREVITAS_JIT=1`",
        ("1.15", "1.1"),
        ("", ""),
        ("", ""),
        "inference",
        {"inference_mode": True, "jit": True},
    ),
    (
        "train step, compiled, statistics phase",
        ("1.1", "1.1"),
        ("13.6", "3.7"),
        ("", ""),
        "train",
        {"learned": False, "compiled": True},
    ),
    (
        "train step, compiled, learned phase",
        ("1.1", "1.1"),
        ("2.5", "2.1"),
        ("", ""),
        "train",
        {"compiled": True},
    ),
]


def _networks() -> Iterator[Row]:
    for label, reach, brevitas, modelopt, action, settings in _PAIRS:
        for i, network in enumerate(NETWORKS):
            case = Case(network, action, **settings)
            yield Row(f"{network}: {label}", reach[i], brevitas[i], modelopt[i], case)


def _exact(name: str, measure: str, **figures: tuple[str, str]) -> Iterator[Row]:
    """Rows of figures that no noise disturbs."""
    for i, network in enumerate(NETWORKS):
        quoted = {key: both[i] for key, both in figures.items()}
        compiled = "compiled" in name
        case = Case(network, "train", learned=measure != "graphs", compiled=compiled)
        yield Row(f"{network}: {name}", case=case, measure=measure, **quoted)


def _layers() -> Iterator[Row]:
    def lstm(label: str, reach: str, published: str, action: str, jit: bool = False) -> Row:
        return Row(f"LSTM: {label}", reach, published, case=Case("LSTM", action, jit=jit))

    yield lstm("train step", "8", "73 to 75", "train")
    yield lstm("train step, `BREVITAS_JIT=1`", "3", "", "train", jit=True)
    yield lstm("inference", "10", "148", "inference")
    yield lstm("inference, `BREVITAS_JIT=1`", "3", "", "inference", jit=True)
    counted = Case("LSTM", "train")
    yield Row("LSTM: operations of ATen", "", "89,812", case=counted, measure="operations")
    yield Row("import `brevitas.nn` beyond `torch`", "0.3 s", "1.3 to 1.8 s", take=parts.importing)
    yield Row("building `QuantLinear(64, 64)`", "8", "20", case=Case("linear", "build"))
    forward = Case("linear", "inference")
    yield Row("forward of `QuantLinear(64, 64)`, 8x64", "5", "34", case=forward)
    yield Row("`QuantReLU`, 1M values", "", case=Case("ReLU", "train"))
    yield Row("`QuantReLU`, 1M values, `BREVITAS_JIT=1`", "", case=Case("ReLU", "train", jit=True))
    yield Row("`fake_quant`, 1M values, against ReLU", "", take=parts.operation)
    one = Case("percentile", "inference", learned=False)
    yield Row("percentile of 1M values, against a maximum", "2", case=one)


def _passes() -> Iterator[Row]:
    for network in NETWORKS:
        yield Row(f"{network}: calibration pass", "", case=Case(network, "calibrate"))
        yield Row(f"{network}: bias correction pass", "", case=Case(network, "correct_bias"))
    yield Row("CNN: export to QONNX", "", take=parts.export_qonnx)
    yield Row("CNN: export to QCDQ", "", take=parts.export_qcdq)


def rows() -> list[Row]:
    """All rows, in the order of the table."""
    return [
        *_networks(),
        *_exact("graphs", "graphs", reach=("2", "2")),
        *_exact(
            "bytes saved for backward",
            "bytes",
            reach=("1.7", "3.0"),
            brevitas=("3.1", "8.3"),
            modelopt=("1.6", "2.7"),
        ),
        *_exact("bytes saved, compiled", "bytes", reach=("1.4", "2.5")),
        *_exact(
            "operations of ATen",
            "operations",
            reach=("900", "330"),
            brevitas=("3,111", "1,171"),
            modelopt=("752", "282"),
        ),
        *_layers(),
        *_passes(),
    ]
