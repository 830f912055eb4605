"""The compatibility path holds the predefined quantizers themselves."""

from __future__ import annotations

from brevitas import quant
from brevitas.inject import defaults
from brevitas.quant import scaled_int


def test_same_classes():
    for name in scaled_int.__all__:
        assert getattr(defaults, name) is getattr(scaled_int, name)
    assert defaults.Int8ActPerTensorFloat is quant.Int8ActPerTensorFloat
