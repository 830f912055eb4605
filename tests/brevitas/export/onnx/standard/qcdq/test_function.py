"""QCDQ holds a spec exactly, or says which layer it cannot hold and what to do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.export.common.rounding import fake_quantize
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.standard.qcdq.function import cdq, qcdq, store, store_constant


@given(st.integers(2, 16), st.booleans(), st.booleans(), st.integers(0, 2**32 - 1))
def test_qcdq_equals_the_spec(bits: int, signed: bool, narrow: bool, seed: int) -> None:
    spec = QuantSpec(0.1, 0.0, bits, signed, narrow)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, generator=generator) * 0.1 * 2.0 ** (bits - 1)
    assert torch.equal(qcdq(x, store(spec, opset=21)), fake_quantize(x, spec))


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_may_lie_anywhere(axis: int) -> None:
    torch.manual_seed(0)
    shape = [1, 1, 1]
    shape[axis] = 3
    spec = QuantSpec(torch.tensor([0.1, 0.2, 0.4]).reshape(shape), 0.0, 8, True, False)
    x = torch.randn(3, 3, 2)
    assert torch.equal(qcdq(x, store(spec, opset=18)), fake_quantize(x, spec))


def test_width_without_clip() -> None:
    assert store(QuantSpec(0.1, 0.0, 8, True, False), 18).minimum is None
    assert store(QuantSpec(0.1, 0.0, 8, False, False), 18).minimum is None
    narrow = store(QuantSpec(0.1, 0.0, 8, True, True), 18)
    assert (int(narrow.minimum), int(narrow.maximum)) == (-127, 127)
    four = store(QuantSpec(0.1, 0.0, 4, False, False), 18)
    assert (int(four.minimum), int(four.maximum)) == (0, 15)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (QuantSpec(0.1, 0.0, 1, True, True, name="fc"), r"bit_width=1"),
        (QuantSpec(0.1, 0.0, 8, True, False, "FLOOR", "fc"), r"rounding_mode='FLOOR'"),
        (QuantSpec(0.1, 0.0, 12, True, False, name="fc"), r"opset_version=21"),
        (QuantSpec(0.1, 2.5, 8, False, False, name="fc"), r"zero_point: .* whole numbers"),
        (QuantSpec(0.1, 300.0, 8, False, False, name="fc"), r"from 0 to 255"),
        (QuantSpec(torch.ones(2, 2), 0.0, 8, True, False, name="fc"), r"scale of shape \(2, 2\)"),
    ],
)
def test_store_says_what_it_cannot_hold(spec: QuantSpec, message: str) -> None:
    with pytest.raises(ExportError, match=rf"{message}.*Layer: fc"):
        store(spec, opset=18)


@pytest.mark.parametrize(
    ("rounding", "remedy"),
    [("FLOOR", True), ("ceil", True), ("DPU", False), ("StochasticRoundSte", False)],
)
def test_qonnx_is_recommended_for_what_it_can_state(rounding: str, remedy: bool) -> None:
    with pytest.raises(ExportError, match="float_to_int_impl_type to ROUND") as caught:
        store(QuantSpec(0.1, 0.0, 8, True, False, rounding), 18)
    assert ("export_qonnx" in str(caught.value)) == remedy


def test_wide_weights_are_always_clipped() -> None:
    full = store_constant(QuantSpec(0.1, 0.0, 32, True, False), 18)
    assert full.limits is not None
    assert torch.equal(cdq(torch.tensor([3]), full, torch.float32), torch.tensor([0.3]))


def test_more_than_16_bits_have_no_opset() -> None:
    with pytest.raises(ExportError, match="at most 16 bits"):
        store(QuantSpec(0.1, 0.0, 17, True, False), opset=21)


@pytest.mark.parametrize(
    ("bits", "is_bias", "dtype", "clips"),
    [
        (4, False, torch.int8, True),
        (16, False, torch.int32, True),
        (32, True, torch.int32, False),
        (8, True, torch.int32, False),
    ],
)
def test_storage_of_constants(bits: int, is_bias: bool, dtype: torch.dtype, clips: bool) -> None:
    plan = store_constant(QuantSpec(0.1, 0.0, bits, True, False), 18, is_bias=is_bias)
    assert plan.grid.zero_point.dtype == dtype
    assert (plan.minimum is not None) == clips


def test_constants_that_do_not_fit() -> None:
    with pytest.raises(ExportError, match="at most 32 bits"):
        store_constant(QuantSpec(0.1, 0.0, 33, True, False), 18)
    with pytest.raises(ExportError, match="zero_point: 32-bit"):
        store_constant(QuantSpec(0.1, 3.0, 12, True, False), 18)


def test_cdq_dequantizes_integers() -> None:
    plan = store_constant(QuantSpec(0.5, 0.0, 4, True, True), 18)
    integers = torch.tensor([-8, 0, 7], dtype=torch.int8)
    assert cdq(integers, plan, torch.float32).tolist() == [-3.5, 0.0, 3.5]


def test_shared_storage_is_the_same_storage() -> None:
    session = ExportSession(opset=18)
    first = store(QuantSpec(0.1, 0.0, 4, True, False), 18).shared(session)
    second = store(QuantSpec(0.1, 0.0, 4, True, False), 18).shared(session)
    assert first.grid.scale is second.grid.scale
    assert first.minimum is second.minimum
