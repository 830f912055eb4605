"""Fixtures of the batteries: quantizers to check, and a count of the fused operations' calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from brevitas.core._trial import on_trial
from brevitas.core.quant import _direct, _sign, int_base
from brevitas.core.quant import float as minifloat
from brevitas.core.quant import int as rescaling


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grow by one name at each call of a fused operation, but for the trials of a search."""
    calls: list[str] = []

    def counting(original: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        def counted(*arguments: object) -> Tensor:
            if not on_trial():
                calls.append(name)
            return original(*arguments)

        return counted

    for module in (rescaling, int_base, _direct):
        monkeypatch.setattr(module, "fake_quant", counting(module.fake_quant, module.__name__))
    self_scaled = counting(_direct.self_scaled_quant, _direct.__name__)
    monkeypatch.setattr(_direct, "self_scaled_quant", self_scaled)
    monkeypatch.setattr(_sign, "sign_quant", counting(_sign.sign_quant, _sign.__name__))
    counted = counting(minifloat.minifloat_quant, minifloat.__name__)
    monkeypatch.setattr(minifloat, "minifloat_quant", counted)
    return calls
