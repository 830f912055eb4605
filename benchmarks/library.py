"""What a library of quantization has to offer to be measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module

from torch import Tensor, nn

from benchmarks.workloads import WORKLOADS, FloatLayers

#: Name on the command line -> its module.
LIBRARIES = {
    "brevitas": "benchmarks.libraries.of_brevitas",
    "torchao": "benchmarks.libraries.of_torchao",
    "optimum-quanto": "benchmarks.libraries.of_quanto",
    "torch-ao-fake-quant": "benchmarks.libraries.of_torch",
}


class Unsupported(Exception):
    """A library cannot do what is asked for; the message says why."""


class Library(ABC):
    """A library of quantization."""

    #: The distribution whose version is reported.
    distribution: str
    #: Whether a setting of its own compiles quantizers.
    has_jit = False
    #: Whether training begins with a phase in which statistics become scales.
    has_statistics = True

    @abstractmethod
    def build(self, workload: str) -> nn.Module:
        """A quantized network."""

    @abstractmethod
    def end_statistics(self, model: nn.Module, x: Tensor) -> None:
        """Leave the statistics phase: from now on scales are learned, or stay what they are."""

    def inference_mode(self, model: nn.Module) -> AbstractContextManager[object]:
        """A mode of faster inference."""
        raise Unsupported("there is no mode of inference.")

    def calibrate(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Collect statistics of activations in a model that is not trained."""
        raise Unsupported("there is no calibration without training.")

    def correct_bias(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Correct the average error of each layer by its bias."""
        raise Unsupported("there is no correction of biases.")

    def end_soon(self, model: nn.Module, steps: int) -> None:
        """Let the statistics phase last a few steps only."""
        raise Unsupported("the statistics phase does not end by itself.")


def built_float(workload: str) -> nn.Module:
    """The float twin."""
    return WORKLOADS[workload].build(FloatLayers())


def load_library(name: str) -> Library:
    """The library of a name.

    Raises:
        ValueError: There is none of this name.
        ImportError: The interpreter does not have it.
    """
    if name not in LIBRARIES:
        raise ValueError(f"library {name!r}: expected one of {', '.join(LIBRARIES)}.")
    return import_module(LIBRARIES[name]).LIBRARY
