"""Tests of the checks that do not stop a graph."""

from __future__ import annotations

import pytest
import torch

from brevitas.quant_tensor import _compare as compare


def test_equal_up_to_rounding():
    scale = torch.tensor(0.1)
    assert compare.known_equal(scale, scale)
    assert compare.known_equal(scale, scale * 3 / 3)
    assert not compare.known_equal(scale, scale * 1.001)
    assert compare.known_equal(torch.tensor(1e-12), torch.tensor(2e-12)) is False


def test_equal_broadcasts_and_tolerates_other_shapes():
    assert compare.known_equal(torch.ones(1, 4), torch.ones(())) is True
    assert compare.known_equal(torch.ones(3), torch.ones(4)) is False


def test_zero():
    assert compare.known_zero(torch.zeros(3)) and not compare.known_zero(torch.tensor([0.0, 1.0]))
    assert compare.known_zero(torch.zeros(1, device="meta")) is None


def test_messages_name_both_values_and_the_remedy():
    first, second = torch.tensor(1.0), torch.tensor(2.0)
    with pytest.raises(RuntimeError, match=r"^Scales differ\n1.0 and 2.0. Share one.$"):
        compare.require_equal(first, second, "Scales differ", "Share one.", in_step=False)
    with pytest.raises(RuntimeError, match=r"^Zero point: 1.0. None.$"):
        compare.require_zero(first, "Zero point", "None.", in_step=False)


def test_a_compiled_graph_asserts_what_eager_code_checks():
    def check(first, second):
        compare.require_equal(first, second, "Scales differ", "Share one.", in_step=False)
        return first + second

    compiled = torch.compile(check, backend="eager", fullgraph=True)
    assert compiled(torch.tensor(1.0), torch.tensor(1.0)) == 2
    with pytest.raises(RuntimeError, match="Scales differ"):
        compiled(torch.tensor(1.0), torch.tensor(2.0))


def test_required_conditions():
    compare.require(True, "Too large", lambda: "found 3.", in_step=False)
    compare.require(torch.tensor(True), "Too large", lambda: "found 3.", in_step=True)
    for holds in (False, torch.tensor(False)):
        with pytest.raises(RuntimeError, match=r"^Too large: found 3.$"):
            compare.require(holds, "Too large", lambda: "found 3.", in_step=True)


def test_a_compiled_graph_asserts_what_is_required():
    def check(x):
        compare.require((x < 3).all(), "Too large", lambda: f"found {x}.", in_step=False)
        return x + 1

    compiled = torch.compile(check, backend="eager", fullgraph=True)
    assert compiled(torch.tensor(1.0)) == 2
    with pytest.raises(RuntimeError, match="^Too large"):
        compiled(torch.tensor(3.0))
