"""Sessions share tensors and count calls."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError


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
    session.pin("domain", 1, "fc")
    session.restart()
    assert session.pinned == {}
    assert session.count_call("fc") == 0
    assert session.sites == []


def test_a_domain_has_one_version() -> None:
    session = ExportSession(opset=18)
    session.pin("domain", 1, "first")
    session.pin("domain", 1, "second")
    session.pin("other", 2, "second")
    message = "version 2 of domain is needed here, version 1 in first.*keeps_scale. Layer: third"
    with pytest.raises(ExportError, match=message):
        session.pin("domain", 2, "third")
