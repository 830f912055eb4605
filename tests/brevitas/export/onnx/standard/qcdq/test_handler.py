"""What each QCDQ handler stores."""

from __future__ import annotations

import pytest
import torch

from brevitas.export.common.rounding import fake_quantize
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError, QuantSpec
from brevitas.export.onnx.standard.qcdq.function import store_constant
from brevitas.export.onnx.standard.qcdq.handler import (
    QCDQActHandler,
    QCDQBiasHandler,
    QCDQDynamicActHandler,
    QCDQTruncHandler,
    QCDQWeightHandler,
    integers_of,
)
from integer_shift import truncated

INT4 = QuantSpec(0.1, 0.0, 4, True, True, name="fc")


def in_session(handler: torch.nn.Module, **options: bool) -> torch.nn.Module:
    handler.session = ExportSession(opset=18, **options)
    return handler


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 24])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_integers_come_back(bits: int, dtype: torch.dtype) -> None:
    spec = QuantSpec(0.1, 0.0, bits, True, False)
    plan = store_constant(spec, 18)
    limit = 2 ** (bits - 1)
    integers = torch.linspace(-limit, limit - 1, 257, dtype=torch.float64).round()
    value = integers.to(dtype) * spec.scale
    assert torch.equal(integers_of(value, plan).double(), integers)


@pytest.mark.parametrize("value", [0.05, 0.8, -0.8])
def test_values_off_the_grid_are_refused(value: float) -> None:
    with pytest.raises(ExportError, match=r"whole multiples.*Layer: fc"):
        integers_of(torch.tensor([value]), store_constant(INT4, 18))


def test_weight_as_integers() -> None:
    handler = in_session(QCDQWeightHandler())
    x = torch.randn(8, generator=torch.Generator().manual_seed(0))
    value = fake_quantize(x, INT4)
    data, plan = handler.constant(x, value, handler.plan(INT4))
    assert data.dtype == torch.int8
    assert torch.equal(handler.node(x, data, plan), value)


def test_weight_as_float() -> None:
    handler = in_session(QCDQWeightHandler(), weight_quantize_node=True)
    x = torch.randn(8, generator=torch.Generator().manual_seed(0))
    value = fake_quantize(x, INT4)
    data, plan = handler.constant(x, value, handler.plan(INT4))
    assert data is None
    assert torch.equal(handler.node(x, data, plan), value)
    # A rounding of the quantizer's own: the rounded values are stored.
    floor = torch.floor(x / 0.1).clamp(-7, 7) * 0.1
    data, plan = handler.constant(x, floor, handler.plan(INT4))
    assert torch.equal(data, floor)


def test_binary_weight() -> None:
    handler = in_session(QCDQWeightHandler())
    spec = QuantSpec(0.5, 0.0, 1, True, True)
    x = torch.tensor([-2.0, 0.0, 3.0])
    value = fake_quantize(x, spec)
    data, plan = handler.constant(x, value, handler.plan(spec))
    assert data.tolist() == [-1, 1, 1]
    assert torch.equal(handler.node(x, data, plan), value)


def test_bias_has_32_bits() -> None:
    handler = in_session(QCDQBiasHandler())
    spec = QuantSpec(0.001, 0.0, 16, True, False)
    x = torch.tensor([0.1, -0.25])
    data, plan = handler.constant(x, fake_quantize(x, spec), handler.plan(spec))
    assert data.dtype == torch.int32
    assert data.tolist() == [100, -250]
    assert plan.minimum is None


def test_activations_round_to_nearest() -> None:
    floor = QuantSpec(0.1, 0.0, 8, True, False, "FLOOR", "fc")
    for handler in (QCDQActHandler(), QCDQDynamicActHandler()):
        with pytest.raises(ExportError, match="rounds to nearest"):
            in_session(handler).plan(floor)


@pytest.mark.parametrize("mode", ["ROUND", "FLOOR", "CEIL", "ROUND_TO_ZERO"])
@pytest.mark.parametrize("keeps_scale", [False, True])
def test_truncation_is_the_shift_of_integers(mode: str, keeps_scale: bool) -> None:
    handler = in_session(QCDQTruncHandler())
    handler.keeps_scale = keeps_scale
    source = QuantSpec(0.1, 0.0, 9, True, False)
    target = QuantSpec(0.1 if keeps_scale else 0.8, 0.0, 6, True, True, mode)
    q = torch.arange(-256, 256)
    y = handler.node(q * source.scale, handler.plan(source, target))
    expected = truncated(q, 9, 6, mode, signed=True, narrow=True)
    assert torch.equal(y, expected * target.scale)


def test_truncation_needs_a_rounding_with_a_name_and_a_whole_zero_point() -> None:
    handler = in_session(QCDQTruncHandler())
    handler.keeps_scale = False
    source = QuantSpec(0.1, 1.0, 9, True, False)
    with pytest.raises(ExportError, match=r"rounding_mode='DPU'.*Layer: fc"):
        handler.plan(source, QuantSpec(0.8, 0.0, 6, True, True, "DPU", "fc"))
    with pytest.raises(ExportError, match=r"zero_point: expected whole numbers.*Layer: fc"):
        handler.plan(source, QuantSpec(0.8, 0.125, 6, True, True, "ROUND", "fc"))
    with pytest.raises(ExportError, match=r"bit_width=12.*opset_version=21"):
        handler.plan(source, QuantSpec(0.8, 0.0, 12, True, True, "FLOOR", "fc"))


def test_a_dynamic_scale_is_one_for_the_tensor() -> None:
    spec = QuantSpec(torch.tensor([[0.1], [0.2]]), 0.0, 8, True, False, name="fc")
    with pytest.raises(ExportError, match=r"one scale per tensor.*Layer: fc"):
        in_session(QCDQDynamicActHandler()).plan(spec)
