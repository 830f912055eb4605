"""Sessions share tensors and count calls."""

from __future__ import annotations

import torch

from brevitas.export.common.session import ExportSession


def test_equal_small_tensors_become_one() -> None:
    session = ExportSession(opset=18)
    first = session.shared(torch.tensor([0.5, 1.0]))
    assert session.shared(torch.tensor([0.5, 1.0])) is first
    assert session.shared(torch.tensor([[0.5, 1.0]])) is not first
    assert session.shared(torch.tensor([0.5, 1.0], dtype=torch.float64)) is not first


def test_large_tensors_stay_apart() -> None:
    session = ExportSession(opset=18)
    first, second = torch.zeros(5000), torch.zeros(5000)
    assert session.shared(first) is first
    assert session.shared(second) is second


def test_restart_forgets_the_pass() -> None:
    session = ExportSession(opset=18)
    assert [session.count_call("fc"), session.count_call("fc")] == [0, 1]
    session.restart()
    assert session.count_call("fc") == 0
    assert session.sites == []
