"""Zero points against their formulas; how a collected one behaves is tested with its base class."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.core.function_wrapper import FloorSte, OverOutputChannelView, OverTensorView
from brevitas.core.quant import IntQuant
from brevitas.core.stats import NegativeMinOrZero
from brevitas.core.zero_point import (
    ParameterFromRuntimeZeroPoint,
    ParameterFromStatsFromParameterZeroPoint,
    ParameterZeroPoint,
    PreZeroCenterZeroPoint,
    RuntimeDynamicGroupZeroPoint,
    StatsFromParameterZeroPoint,
    ZeroZeroPoint,
    _ScaleShiftQuantZeroPoint,
)

SCALE, BITS = torch.tensor(0.3), torch.tensor(4.0)
SHIFTED = [StatsFromParameterZeroPoint, ParameterFromStatsFromParameterZeroPoint]


def _integer(offset: Tensor, signed: bool, quantized: bool, scale: Tensor = SCALE) -> Tensor:
    """Zero point at four bits of a real offset, the formula in plain PyTorch."""
    lower, upper = (-8, 7) if signed else (0, 15)
    zero_point = offset / scale + lower
    return zero_point.round().clamp(lower, upper) if quantized else zero_point


def _from_parameter(
    kind: type[nn.Module], weight: nn.Parameter, signed: bool = False, quantized: bool = True
) -> nn.Module:
    view = OverOutputChannelView()
    shape = (weight.shape[0], 1)
    int_quant = IntQuant(False, signed)
    return kind(int_quant, quantized, view, 1, NegativeMinOrZero(1), shape, [weight])


def test_zero() -> None:
    zero_point = ZeroZeroPoint()(torch.ones(2), SCALE, BITS)
    assert zero_point.shape == () and zero_point.item() == 0.0
    assert ZeroZeroPoint(dtype=torch.float64)(torch.ones(2), SCALE, BITS).dtype is torch.float64
    assert not ZeroZeroPoint().state_dict()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("kind", SHIFTED)
def test_statistic_of_the_parameter(kind: type[nn.Module], signed: bool, quantized: bool) -> None:
    weight = nn.Parameter(torch.randn(3, 9) + torch.tensor([[0.0], [9.0], [-2.0]]))
    zero_point = _from_parameter(kind, weight, signed, quantized)(weight, SCALE, BITS)
    smallest = weight.detach().amin(1, keepdim=True).clamp(max=0)
    assert torch.equal(zero_point, _integer(-smallest, signed, quantized))
    assert not quantized or torch.equal(zero_point, zero_point.round())


def test_gradient_of_a_statistic() -> None:
    weight = nn.Parameter(torch.tensor([[-0.6, 2.0]]))
    scale = torch.tensor(0.25, requires_grad=True)
    _from_parameter(StatsFromParameterZeroPoint, weight)(weight, scale, BITS).sum().backward()
    # z = -min / scale: dz / dmin = -1 / scale and dz / dscale = min / scale ** 2
    assert weight.grad.tolist() == [[-4.0, 0.0]]
    assert scale.grad.item() == pytest.approx(-0.6 / 0.25**2)


def test_rounding_of_the_quantizer_is_used() -> None:
    for rounding, expected in ((None, 4.0), (FloorSte(), 3.0)):
        int_quant = IntQuant(False, False, float_to_int_impl=rounding)
        assert ParameterZeroPoint(3.6, int_quant, True)(None, torch.tensor(1.0), BITS) == expected


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("init", [1.3, 2, torch.tensor(1.3), torch.tensor([[0.4], [90.0]])])
def test_learned(init: float | Tensor, signed: bool, quantized: bool) -> None:
    part = ParameterZeroPoint(init, IntQuant(False, signed), quantized)
    zero_point = part(torch.zeros(2, 3), SCALE, BITS)
    start = torch.as_tensor(init, dtype=torch.float32)
    assert torch.equal(zero_point, _integer(start, signed, quantized))
    zero_point.sum().backward()
    inside = torch.ones_like(start)
    if quantized:
        inside = (start / SCALE).round().le(15).float()
    torch.testing.assert_close(part.value.grad, inside / SCALE)


def test_shape_and_dtype_of_a_learned_zero_point() -> None:
    int_quant = IntQuant(False, False)
    assert ParameterZeroPoint(1.0, int_quant, True, (2, 1)).value.shape == (2, 1)
    part = ParameterZeroPoint(1, int_quant, True, dtype=torch.float64)
    assert part.value.dtype is torch.float64
    assert part.half()(None, SCALE, BITS).dtype is torch.float32


@pytest.mark.parametrize("signed", [False, True])
def test_collected_then_learned(signed: bool) -> None:
    int_quant = IntQuant(False, signed)
    part = ParameterFromRuntimeZeroPoint(2, int_quant, True, NegativeMinOrZero())
    average = None
    for step in (1, 2):
        x = torch.randn(50) * step
        smallest = x.min().clamp(max=0)
        assert torch.equal(part(x, SCALE, BITS), _integer(-smallest, signed, True))
        average = smallest if average is None else 0.9 * average + 0.1 * smallest
    expected = _integer(-average, signed, True)
    assert torch.equal(part(torch.randn(50), SCALE, BITS), expected)
    assert torch.equal(part.eval()(torch.randn(50), SCALE, BITS), expected)


def test_collected_per_channel() -> None:
    part = ParameterFromRuntimeZeroPoint(
        2, IntQuant(False, False), True, NegativeMinOrZero(1), (3, 1), OverOutputChannelView()
    )
    x = torch.randn(3, 9)
    smallest = x.amin(1, keepdim=True).clamp(max=0)
    assert torch.equal(part(x, SCALE, BITS), _integer(-smallest, False, True))


def test_starts_from_the_parameter_then_stays() -> None:
    weight = nn.Parameter(torch.tensor([[-0.6, 2.0]]))
    part = _from_parameter(ParameterFromStatsFromParameterZeroPoint, weight)
    assert not part.state_dict()
    for _ in range(2):
        assert torch.equal(part(weight, SCALE, BITS), torch.tensor([[2.0]]))
        weight.data.mul_(3)
    assert list(part.state_dict()) == ["value"] and part.value.tolist() == [[pytest.approx(-0.6)]]
    other = _from_parameter(ParameterFromStatsFromParameterZeroPoint, weight)
    other.load_state_dict(part.state_dict())
    assert torch.equal(other(weight, SCALE, BITS), torch.tensor([[2.0]]))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@pytest.mark.parametrize("kind", SHIFTED)
def test_copies(kind: type[nn.Module], copied: Callable[[nn.Module], nn.Module]) -> None:
    weight = nn.Parameter(torch.randn(3, 9))
    part = _from_parameter(kind, weight)
    expected = part(weight, SCALE, BITS)
    assert torch.equal(copied(part)(weight, SCALE, BITS), expected)


def test_missing_key() -> None:
    part = ParameterZeroPoint(1.0, IntQuant(False, False), True)
    with pytest.raises(RuntimeError, match='Missing key.*"value"'):
        part.load_state_dict({})
    with config.overrides(IGNORE_MISSING_KEYS=True):
        part.load_state_dict({})


def test_zero_centering_removes_the_mean_of_each_channel() -> None:
    x = torch.randn(3, 4, 5)
    part = PreZeroCenterZeroPoint(1, OverOutputChannelView())
    zero_point = part(x, SCALE, BITS)
    expected = -x.flatten(1).mean(1).reshape(3, 1, 1) / SCALE
    torch.testing.assert_close(zero_point, expected)
    centered = x + zero_point * SCALE
    # Means of 20 numbers of order 1.
    assert centered.flatten(1).mean(1).abs().max() < 20 * 1.2e-7


def test_dynamic_groups() -> None:
    x = torch.randn(3, 4, 5)
    part = RuntimeDynamicGroupZeroPoint(
        nn.Identity(), NegativeMinOrZero(-1, keepdim=True), IntQuant(False, False), True
    )
    smallest = x.amin(-1, keepdim=True).clamp(max=0)
    assert torch.equal(part(x, SCALE, BITS), _integer(-smallest, False, True))


def test_view_of_the_whole_tensor() -> None:
    weight = nn.Parameter(torch.tensor([[-0.6, 2.0], [-1.2, 0.0]]))
    part = StatsFromParameterZeroPoint(
        IntQuant(False, False), True, OverTensorView(), 0, NegativeMinOrZero(), (), [weight]
    )
    assert part(weight, SCALE, BITS).item() == 4.0


class _Offset(nn.Module):
    """Statistic with a given result, so that the collected offset is known."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full((), self.offset)


def _learned_from_a_number(offset: float) -> nn.Module:
    return ParameterZeroPoint(offset, IntQuant(False, False), False)


def _learned_from_batches(offset: float) -> nn.Module:
    part = ParameterFromRuntimeZeroPoint(1, IntQuant(False, False), False, _Offset(offset))
    part(torch.ones(2), SCALE, BITS)
    return part


def _learned_from_the_parameter(offset: float) -> nn.Module:
    weight = nn.Parameter(torch.ones(2))
    part = ParameterFromStatsFromParameterZeroPoint(
        IntQuant(False, False), False, OverTensorView(), 0, _Offset(offset), (), [weight]
    )
    part(weight, SCALE, BITS)
    return part


LEARNED = [_learned_from_a_number, _learned_from_batches, _learned_from_the_parameter]


@pytest.mark.parametrize("build", LEARNED)
@pytest.mark.parametrize(("offset", "slope"), [(0.5, 1.0), (0.0, 1.0), (-0.5, -1.0)])
def test_the_offset_is_the_magnitude_of_the_value(
    build: Callable[[float], nn.Module], offset: float, slope: float
) -> None:
    """``z = |value| / scale``; its slope at zero is that of positive values, not zero."""
    part = build(offset)
    assert part.value.item() == offset
    zero_point = part(torch.ones(2), SCALE, BITS)
    assert torch.equal(zero_point, torch.tensor(abs(offset)) / SCALE)
    part.zero_grad()
    zero_point.backward()
    assert torch.equal(part.value.grad, torch.tensor(slope) / SCALE)


@pytest.mark.parametrize("offset", [0.5, -0.5])
def test_the_magnitude_is_taken_while_collecting(offset: float) -> None:
    part = ParameterFromRuntimeZeroPoint(3, IntQuant(False, False), False, _Offset(offset))
    for mode in (True, False):
        zero_point = part.train(mode)(torch.ones(2), SCALE, BITS)
        assert torch.equal(zero_point, torch.tensor(0.5) / SCALE)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("fused", [True, False])
def test_integer_inputs_are_taken_as_real_numbers(dtype: torch.dtype, fused: bool) -> None:
    x = torch.arange(-5, 5) if dtype is not torch.uint8 else torch.arange(0, 10)
    results = []
    for given in (x.to(dtype), x.float()):
        layer = qnn.QuantIdentity(bit_width=3)
        if not fused:
            rounding = layer.act_quant.fused_activation_quant_proxy.tensor_quant.int_quant
            rounding.float_to_int_impl.register_forward_hook(lambda *arguments: None)
        results.append([layer(given), layer.eval()(given)])
    for actual, expected in zip(*results, strict=True):
        assert actual.dtype is torch.float32 and torch.equal(actual, expected)


class _Tenfold(nn.Module):
    """Stands for the quantizer of an offset."""

    def forward(self, x):
        return 10 * x, None, None, None


@pytest.mark.parametrize(("shape", "expected"), [(None, (2, 3)), ((2, 3, 1), (2, 3, 1))])
def test_a_quantized_offset_gives_the_zero_point(shape, expected):
    shift = _ScaleShiftQuantZeroPoint(_Tenfold(), IntQuant(False, True), (2, 3), shape)
    offset = torch.arange(6.0).view(2, 3)
    zero_point = shift(offset, torch.tensor(0.5), torch.tensor(8.0))
    assert torch.equal(zero_point, (offset * 20 - 128).view(expected))
