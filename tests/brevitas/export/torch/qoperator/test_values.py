"""Values on quantized tensors."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.integers import Integers
from brevitas.export.common.spec import ExportError
from brevitas.export.torch.qoperator.values import Quantized, Waiting

pytestmark = pytest.mark.filterwarnings(
    # 2026-11: PyTorch deprecates the tensors that these values are.
    "ignore:.*quantized tensor creation functions:UserWarning"
)

REAL = torch.tensor([-2.0, 0.5, 3.0])


def _grid() -> Integers:
    zero_point = torch.tensor(128, dtype=torch.uint8)
    return Integers.full_range("x", torch.tensor(0.5), zero_point, None, "quant")


def _quantize(grid: Integers) -> torch.Tensor:
    return torch.quantize_per_tensor(
        REAL, float(grid.scale), int(grid.zero_point), torch.quint8
    )  # fmt: skip


def test_limits_clamp_integers() -> None:
    value = Quantized(_grid(), _quantize(_grid()))
    limited = value.limited(128, 131)
    assert limited.dequantized().tolist() == [0.0, 0.5, 1.5]
    assert (limited.grid.low, limited.grid.high) == (128, 131)
    assert value.limited(-5, 500) is value


def test_what_waits_is_computed_on_the_grid_of_its_quantizer() -> None:
    waiting = Waiting("fc", _quantize).limited(0.0, 2.0).followed_by(lambda x: x.reshape(3, 1))
    value = waiting.quantized(_grid())
    assert value.dequantized().tolist() == [[0.0], [0.5], [2.0]]


def test_zeros_that_wait_are_remembered() -> None:
    waiting = Waiting("fc", _quantize).followed_by(lambda x: x.reshape(3, 1))
    assert not waiting.is_padded
    padded = waiting.followed_by(lambda x: torch.nn.functional.pad(x, (0, 1)), pads=True)
    assert padded.followed_by(lambda x: x).is_padded
    assert padded.quantized(_grid()).dequantized().tolist() == [[-2.0, 0.0], [0.5, 0.0], [3.0, 0.0]]


def test_what_waits_may_have_real_values() -> None:
    waiting = Waiting("", _quantize, lambda: REAL).limited(0.0, 2.5)
    assert waiting.real("Sigmoid").tolist() == [0.0, 0.5, 2.5]
    with pytest.raises(ExportError, match="Sigmoid.*Layer: fc"):
        Waiting("fc", _quantize).real("Sigmoid")
