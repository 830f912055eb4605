"""Quantizers of all kinds and of different shapes under `BREVITAS_JIT=1`: none falls back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sign_quants
from brevitas import config
from brevitas.inject.enum import BitWidthImplType
from brevitas.ops import region
from tensor_quants import FLOAT_ROWS, GROUP_FLOAT_ROWS, ROWS, Row, run

NAMED = {str(row): row for row in (*ROWS, *FLOAT_ROWS, *GROUP_FLOAT_ROWS, *sign_quants.ROWS)}
LEARNED_BITS = {"bit_width_impl_type": BitWidthImplType.PARAMETER}
# Kind -> quantizers; those of one kind differ in their part or in the range of their integers.
KINDS: dict[str, list[str]] = {
    "integers per tensor": [
        "Int8WeightPerTensorFloat",
        "Int8WeightPerTensorFloatMSE",
        "ShiftedUint8WeightPerTensorFloat",
        "Int8ActPerTensorFloat-collecting",
        "Uint8ActPerTensorFloat-collecting",
        "ShiftedUint8ActPerTensorFloat-collecting",
        "SignedTernaryWeightPerTensorConst",
    ],
    "integers per channel": [
        "Int8WeightPerChannelFloat",
        "Int8WeightPerChannelFloatHQO",
        "ShiftedUint8WeightPerChannelFloat",
        "Int8WeightPerChannelFloatDecoupled",
        "Int8AccumulatorAwareWeightQuant",
    ],
    "integers per group": [
        "ShiftedUint8WeightGroupQuantFloat",
        "MXInt8Weight",
        "MXInt8Act",
        "ShiftedMXUInt8Weight",
    ],
    "scale given from outside": [
        "Int8Bias",
        "Int16Bias",
    ],
    "learned scale": [
        "Int8ActPerTensorFloat-learned",
        "Uint8ActPerTensorFloat-learned",
        "ShiftedUint8ActPerTensorFloat-learned",
        "Int8ActPerTensorFloatMinMaxInit",
    ],
    "power of two": [
        "Int8WeightPerTensorFixedPoint",
        "Int8WeightPerChannelFixedPoint",
        "Int8ActPerTensorFixedPoint-learned",
        "Uint8ActPerTensorFixedPoint-collecting",
        "ShiftedUint8ActPerTensorFixedPoint-learned",
    ],
    "binary": [
        "SignedBinaryWeightPerTensorConst",
        "binary-weight",
        "binary-weight-per-channel",
        "clamped-weight",
        "binary-act",
        "binary-act-stats",
    ],
    "ternary": [
        "ternary-weight",
        "ternary-weight-per-channel",
        "ternary-act",
    ],
    "minifloat": [
        "Fp8e4m3Weight",
        "Fp8e5m2WeightPerChannelFloat",
        "Fp8e4m3ActPerTensorFloat-learned",
        "Fp8e4m3OCPWeightPerTensorFloat",
        "FpOCPActPerChannelFloat2d-learned",
        "Fp8e5m2FNUZWeight",
        "MXFloat8e4m3Weight",
        "MXFloat8e4m3Act",
    ],
}
LEARNS_BITS = [
    "Int8WeightPerTensorFloat",
    "Int8WeightPerChannelFloat",
    "Int8ActPerTensorFloat-learned",
    "Uint8ActPerTensorFloat-learned",
    "ShiftedUint8ActPerTensorFloat-learned",
]
CASES = [(NAMED[name], {}) for names in KINDS.values() for name in names]
CASES += [(NAMED[name], LEARNED_BITS) for name in LEARNS_BITS]


def shaped(row: Row, index: int) -> torch.Tensor:
    """Data of a shape of its own, where the quantizer does not fix the whole shape."""
    x = row.data()
    repeats = [1] * x.dim()
    if row.is_act:
        repeats[0] = 1 + index % 5
    return x.repeat(repeats).requires_grad_()


@pytest.mark.long
def test_forty_quantizers_of_different_kinds_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs: list[Any] = []
    original = region.Region.__call__

    def watched(self: region.Region, *arguments: Any) -> Any:
        outputs.append(original(self, *arguments))
        return outputs[-1]

    monkeypatch.setattr(region.Region, "__call__", watched)
    assert len(CASES) >= 40
    fell_back = []
    for index, (row, declared) in enumerate(CASES):
        outputs.clear()
        tensor_quant, x = row.build(**declared), shaped(row, index)
        with config.overrides(JIT_ENABLED=True):
            run(tensor_quant, x)[0].sum().backward()
        if not outputs or any(output is None for output in outputs):
            fell_back.append(str(row))
        assert x.grad is not None and x.grad.isfinite().all()
    assert fell_back == []
