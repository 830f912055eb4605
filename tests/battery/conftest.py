"""Fixtures of the batteries: quantizers to check, and a count of the fused operation's calls."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from brevitas.core.quant import int as rescaling
from brevitas.core.quant import int_base


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grow by one name at each call of the fused operation."""
    calls: list[str] = []

    def counting(original: Callable[..., Tensor], name: str) -> Callable[..., Tensor]:
        def counted(*arguments: object) -> Tensor:
            calls.append(name)
            return original(*arguments)

        return counted

    for module in (rescaling, int_base):
        monkeypatch.setattr(module, "fake_quant", counting(module.fake_quant, module.__name__))
    return calls
