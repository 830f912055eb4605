"""Errors of tracers become errors that say where and what to do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.failures import expect_no_state, tracing_failed
from brevitas.export.common.spec import ExportError


def test_an_error_of_ours_comes_out_from_under_the_tracers() -> None:
    ours = ExportError("no node. Layer: fc")
    try:
        try:
            raise ours
        except ExportError as error:
            raise RuntimeError("tracing went wrong") from error
    except RuntimeError as wrapper:
        assert tracing_failed(wrapper, "net") is ours


def test_the_reason_is_what_the_first_paragraph_says() -> None:
    error = ValueError("Found conflicts:\n  - x is 6,\n    not 4\n\nSee the manual.")
    assert "ValueError: Found conflicts: - x is 6, not 4. Make forward" in str(
        tracing_failed(error, "net")
    )
    assert str(tracing_failed(error, "net")).endswith("Layer: net")
    assert "Layer" not in str(tracing_failed(error))
    assert len(str(tracing_failed(ValueError("very " * 1000)))) < 600


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


# 2026-11: PyTorch says so of its own programs when it copies them.
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_a_model_that_keeps_state_is_refused() -> None:
    program = torch.export.export(Counter(), (torch.ones(2),), strict=False)
    with pytest.raises(ExportError, match=r"buffer 'calls'.*no state.*Layer: Counter$"):
        expect_no_state(program.run_decompositions({}), "Counter")
    expect_no_state(torch.export.export(nn.ReLU(), (torch.ones(2),)), "ReLU")
