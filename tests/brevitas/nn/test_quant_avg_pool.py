"""Average pools of integers equal integer arithmetic: sum each window, then shift the sum.

Nothing here goes through real values but the layer itself: the reference sums int64 integers and
shifts them.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.common import QuantLayerConfigurationError
from brevitas.fx import brevitas_symbolic_trace, brevitas_value_trace
from brevitas.quant import (
    RoundTo8bit,
    ShiftRoundSaturateTo8bit,
    TruncTo8bit,
    Uint8ActPerTensorFloat,
)
from brevitas.quant_tensor import IntQuantTensor
from integer_shift import SHIFTS, limits, truncated
from quant_tensors import make

MODES = sorted(SHIFTS)


def window_sums(q: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Sums of int64 integers over windows, `[n, c, h, w]`."""
    windows = q.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
    return windows.sum((-2, -1))


def sum_bits(bits: int, elements: int, signed: bool) -> int:
    """Smallest width that holds every sum of so many integers."""
    low, high = (elements * limit for limit in limits(bits, signed))

    def holds(width: int) -> bool:
        smallest, largest = limits(width, signed)
        return smallest <= low and high <= largest

    return next(filter(holds, range(1, 64)))


POOLS = {
    "2x2": ({"kernel_size": 2}, (2, 2), (2, 2)),
    "3x3": ({"kernel_size": 3}, (3, 3), (3, 3)),
    "3x3, overlapping": ({"kernel_size": 3, "stride": 1}, (3, 3), (1, 1)),
    "3x2": ({"kernel_size": (3, 2), "stride": (2, 1)}, (3, 2), (2, 1)),
    "all": ({"kernel_size": 6}, (6, 6), (6, 6)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("bits", "bits_out"), [(8, 8), (4, 3)])
def test_sum_then_shift(mode, pool, signed, bits, bits_out):
    keywords, kernel, stride = POOLS[pool]
    elements = kernel[0] * kernel[1]
    x, q = make((2, 4, 6, 6), 0.037, bit_width=bits, signed=signed)
    layer = qnn.TruncAvgPool2d(**keywords, bit_width=bits_out, float_to_int_impl_type=mode)
    y = layer(x)
    bits_of_sum = sum_bits(bits, elements, signed)
    sums = window_sums(q.long(), kernel, stride)
    expected = truncated(sums, bits_of_sum, bits_out, mode, signed)
    assert y.is_valid and y.signed is signed and y.bit_width == bits_out
    assert torch.equal(y.int().long(), expected)
    step = x.scale / elements * 2.0 ** (bits_of_sum - bits_out)
    torch.testing.assert_close(y.scale, step, rtol=1e-6, atol=0)
    # The real average, up to the rounding of the shift and the saturation of a result that
    # rounds up to the integer after the largest.
    distance = (y.value - F.avg_pool2d(x.value, kernel, stride)).abs()
    assert float((distance / y.scale).max()) <= 1.0001


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 3, (2, 3), (None, 2), 4])
def test_adaptive(mode, size):
    x, q = make((2, 4, 6, 6), 0.037)
    layer = qnn.TruncAdaptiveAvgPool2d(size, float_to_int_impl_type=mode)
    y = layer(x)
    # Windows of 6 over 4 places: [0, 2), [1, 3), [3, 5), [4, 6).
    sums = F.adaptive_avg_pool2d(q, size)
    elements = {1: 36, 2: 9, 3: 4, (2, 3): 6, (None, 2): 3, 4: 4}[size]
    sums = torch.round(sums * elements).long()
    expected = truncated(sums, sum_bits(8, elements, True), 8, mode, True)
    assert y.is_valid and torch.equal(y.int().long(), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_the_older_meaning_keeps_the_scale_of_the_input(mode, kind):
    """The shifted sum at the input's scale, whatever the window's size: no average at all."""
    x, q = make((2, 4, 6, 6), 0.037)
    keywords = {"float_to_int_impl_type": mode, "keeps_scale": True}
    pools = {"fixed": qnn.TruncAvgPool2d(3, **keywords)}
    pools["adaptive"] = qnn.TruncAdaptiveAvgPool2d(2, **keywords)
    y = pools[kind](x)
    sums = window_sums(q.long(), (3, 3), (3, 3))
    assert torch.allclose(y.scale, x.scale, rtol=1e-6)
    assert torch.equal(y.int().long(), truncated(sums, 12, 8, mode, True))
    assert y.bit_width == 8


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (1, 5), (3, 3), (3, 7), (17, 17)])
def test_no_sum_overflows_its_accumulator(signed, bits, kernel):
    """Each window full of one end of the range: the sum fits its bits, and they are needed."""
    elements = kernel[0] * kernel[1]
    # One signed bit may also stand for -1 and 1, whose sums need a bit for the sign.
    needed = sum_bits(bits, elements, signed) + (signed and bits == 1)
    for extreme in limits(bits, signed):
        value = torch.full((1, 2, *kernel), float(extreme))
        x = IntQuantTensor(value, 1.0, 0.0, bits, signed, False)
        for pool in (
            qnn.TruncAvgPool2d(kernel, trunc_quant=None),
            qnn.TruncAdaptiveAvgPool2d(1, trunc_quant=None),
        ):
            total = pool(x)
            assert total.is_valid and total.bit_width == needed
            assert total.int().unique().tolist() == [extreme * elements]
        y = qnn.TruncAvgPool2d(kernel, trunc_quant=TruncTo8bit)(x)
        expected = truncated(torch.tensor([extreme * elements]), needed, 8, "FLOOR", signed)
        assert y.is_valid and y.int().long().unique().tolist() == expected.tolist()


@pytest.mark.parametrize("divisor", [3, 4, 16])
def test_a_divisor_of_ones_own_is_part_of_the_scale(divisor):
    x, q = make((2, 4, 6, 6), 0.037)
    for keeps_scale in (False, True):
        layer = qnn.TruncAvgPool2d(2, divisor_override=divisor, keeps_scale=keeps_scale)
        y = layer(x)
        sums = window_sums(q.long(), (2, 2), (2, 2))
        assert torch.equal(y.int().long(), truncated(sums, 10, 8, "ROUND", True))
        expected = x.scale if keeps_scale else x.scale / divisor * 4
        torch.testing.assert_close(y.scale, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("zero_point", [8.0, -4.0])
def test_a_zero_point_is_summed_and_shifted_with_the_integers(zero_point):
    x, q = make((2, 4, 6, 6), 0.037, zero_point)
    y = qnn.TruncAvgPool2d(2)(x)
    assert y.is_valid and y.zero_point == zero_point
    sums = window_sums(q.long(), (2, 2), (2, 2))
    assert torch.equal(y.int().long(), truncated(sums, 10, 8, "ROUND", True))


def test_a_scale_per_channel():
    scale = torch.rand(1, 4, 1, 1) + 0.1
    x, q = make((2, 4, 6, 6), scale)
    y = qnn.TruncAvgPool2d(2)(x)
    sums = window_sums(q.long(), (2, 2), (2, 2))
    assert y.scale.shape == (1, 4, 1, 1)
    assert torch.equal(y.int().long(), truncated(sums, 10, 8, "ROUND", True))


def test_a_learned_shift_uses_the_bits_that_are_needed():
    layer = qnn.TruncAvgPool2d(2, trunc_quant=ShiftRoundSaturateTo8bit, collect_stats_steps=1)
    q = torch.randint(-20, 20, (2, 4, 6, 6))
    x = IntQuantTensor(q * 0.5, 0.5, 0.0, 8, True, True)
    layer(x)
    y = layer.eval()(x)
    # Sums of at most 80 fit 8 bits, so that nothing is dropped, of 10 bits.
    sums = window_sums(q, (2, 2), (2, 2))
    assert y.scale == 0.125 and torch.equal(y.int().long(), sums)
    large = IntQuantTensor(torch.full((1, 1, 2, 2), 63.5), 0.5, 0.0, 8, True, False)
    assert layer(large).int().item() == 127 and large.int().sum() == 508
    assert list(layer.state_dict()) == [
        "trunc_quant.tensor_quant.trunc_scaling_impl.scaling_impl.value"
    ]


def test_gradients_are_those_of_the_average():
    """Straight through: where nothing saturates, as of `torch.nn.AvgPool2d`."""
    x, _ = make((2, 4, 6, 6), 0.037)
    leaf = x.value.clone().requires_grad_()
    twin = x.value.clone().requires_grad_()
    qnn.TruncAvgPool2d(2)(x.set(value=leaf)).value.square().sum().backward()
    gradient = 2 * qnn.TruncAvgPool2d(2)(x).value
    F.avg_pool2d(twin, 2).backward(gradient)
    torch.testing.assert_close(leaf.grad, twin.grad)


@pytest.mark.parametrize("layer", [qnn.TruncAvgPool2d(2), qnn.TruncAdaptiveAvgPool2d(3)])
def test_a_plain_input_is_averaged_in_floating_point(layer):
    x = torch.randn(2, 4, 6, 6)
    with pytest.raises(QuantLayerConfigurationError, match="its output is not quantized"):
        layer(x)
    layer.return_quant_tensor = False
    assert torch.equal(layer(x), F.avg_pool2d(x, 2))
    layer.return_quant_tensor = True


@pytest.mark.parametrize("kind", ["fixed", "adaptive"])
def test_without_quantizer_all_bits_stay(kind):
    x, q = make((2, 4, 6, 6))
    keywords = {"trunc_quant": None}
    pools = {"fixed": qnn.TruncAvgPool2d(2, **keywords)}
    pools["adaptive"] = qnn.TruncAdaptiveAvgPool2d(3, **keywords)
    y = pools[kind](x)
    assert y.bit_width == 10 and y.is_valid
    assert torch.equal(y.int().long(), window_sums(q.long(), (2, 2), (2, 2)))


def test_windows_of_different_sizes_are_refused():
    x, _ = make((2, 4, 7, 7))
    with pytest.raises(QuantLayerConfigurationError, match="equally many elements.*divide the inp"):
        qnn.TruncAdaptiveAvgPool2d(5)(x)
    with pytest.raises(QuantLayerConfigurationError, match=r"Layer: TruncAvgPool2d\(kernel_size=3"):
        qnn.TruncAvgPool2d(3, ceil_mode=True)(x)
    plain = qnn.TruncAdaptiveAvgPool2d(5, trunc_quant=None, return_quant_tensor=False)
    torch.testing.assert_close(plain(x), F.adaptive_avg_pool2d(x.value, 5))


def test_properties():
    fixed, adaptive = qnn.TruncAvgPool2d(3, 2), qnn.TruncAdaptiveAvgPool2d((2, None))
    assert (fixed.kernel_size, fixed.stride, fixed.padding) == (3, 2, 0)
    assert adaptive.output_size == (2, None) and adaptive.padding == 0
    for layer in (fixed, adaptive):
        assert layer.channelwise_separable and layer.requires_export_handler
        assert layer.is_trunc_quant_enabled and layer.trunc_quant.rounding_mode == "ROUND"
        assert layer.state_dict() == {}
    assert isinstance(fixed, nn.AvgPool2d) and isinstance(adaptive, nn.AdaptiveAvgPool2d)


@pytest.mark.parametrize("sizes", [((6, 6), (3, 2)), ((7, 7), (3, 3)), ((4, 7), (2, 1))])
def test_kernel_and_stride_give_the_output_shape(sizes):
    before, after = sizes
    kernel, stride = qnn.TruncAdaptiveAvgPool2d.compute_kernel_size_stride(before, after)
    assert F.avg_pool2d(torch.zeros(1, 1, *before), kernel, stride).shape[-2:] == after


class Model(nn.Module):
    """A convolution, a pool, and a layer that takes the pool's integers."""

    def __init__(self, quantizer=RoundTo8bit):
        super().__init__()
        self.input = qnn.QuantIdentity(return_quant_tensor=True, collect_stats_steps=1)
        self.conv = qnn.QuantConv2d(2, 3, 3, padding=1, return_quant_tensor=True)
        self.act = qnn.QuantReLU(
            act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True, collect_stats_steps=1
        )
        self.pool = qnn.TruncAvgPool2d(2, trunc_quant=quantizer)
        self.head = qnn.QuantConv2d(3, 2, 1, bias=False, return_quant_tensor=True)
        self.last = qnn.TruncAdaptiveAvgPool2d(1, return_quant_tensor=False)

    def forward(self, x):
        return self.last(self.head(self.pool(self.act(self.conv(self.input(x))))))


def trained(**keywords):
    model = Model(**keywords)
    model(torch.randn(2, 2, 8, 8))
    return model


def assert_one_graph(model: nn.Module, x: Tensor, *modes: bool) -> None:
    torch._dynamo.reset()
    for mode in modes:
        compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled.train(mode)(x), copy.deepcopy(model).train(mode)(x))


@pytest.mark.long
@pytest.mark.parametrize("quantizer", [RoundTo8bit, ShiftRoundSaturateTo8bit])
def test_a_model_is_one_graph(quantizer):
    model, x = trained(quantizer=quantizer), torch.randn(2, 2, 8, 8)
    assert_one_graph(model, x, True, False)
    program = torch.export.export(model.eval(), (x,), strict=True)
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.long
def test_under_jit_the_values_are_the_same():
    model, x = trained().eval(), torch.randn(2, 2, 8, 8)
    expected = model(x)
    with config.overrides(JIT_ENABLED=True):
        assert torch.equal(model(x), expected)


def test_a_traced_model_keeps_the_pools():
    model, x = trained().eval(), torch.randn(2, 2, 8, 8)
    for graph in (brevitas_symbolic_trace(model), brevitas_value_trace(model, value_args={"x": x})):
        targets = [node.target for node in graph.graph.nodes]
        assert "pool" in targets and "last" in targets
        assert torch.equal(graph(x), model(x))


@pytest.mark.parametrize("quantizer", [RoundTo8bit, TruncTo8bit, ShiftRoundSaturateTo8bit])
def test_training(quantizer):
    """Gradients reach everything below the pool, and the loss falls."""
    torch.manual_seed(0)
    model, x = trained(quantizer=quantizer), torch.randn(8, 2, 8, 8)
    target = torch.tensor([0.5, -0.25]).reshape(1, 2, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < 0.5 * losses[0]
