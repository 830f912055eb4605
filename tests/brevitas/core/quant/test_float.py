"""Minifloat quantizers equal the casts of another library, for every number of 16 bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.core.bit_width import BitWidthParameter
from brevitas.core.bit_width.float import ComputeExponentBias, ComputeMaxMantissa
from brevitas.core.function_wrapper import FloatClamp, FloorSte, RoundSte, TensorClamp
from brevitas.core.quant.float import FloatQuant, min_internal_scale
from brevitas.core.scaling import ConstScaling, FloatScaling, ParameterScaling
from brevitas.quant import Fp8e4m3Weight
from minifloats import ML_DTYPES, Format, every_half, same, sampled

numpy = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
E4M3 = Format(4, 3, 7, 448.0)
NUMPY = {torch.float16: numpy.float16, torch.bfloat16: ml_dtypes.bfloat16}


def part_by_part(float_quant: FloatQuant) -> FloatQuant:
    float_quant.float_to_int_impl.register_forward_hook(lambda *arguments: None)
    return float_quant


@pytest.mark.parametrize("name", ML_DTYPES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_casts_of_ml_dtypes(name: str, dtype: torch.dtype, fused: bool) -> None:
    fmt = ML_DTYPES[name]
    x = every_half(dtype) if dtype.itemsize == 2 else sampled(dtype)
    if dtype.itemsize == 2:
        values = x.view(torch.int16).numpy().view(NUMPY[dtype])
    else:
        values = x.numpy()
    with numpy.errstate(all="ignore"):
        expected = values.astype(getattr(ml_dtypes, name)).astype(numpy.float64)
    float_quant = fmt.build() if fused else part_by_part(fmt.build())
    assert float_quant.is_fused is fused
    actual = float_quant.to(dtype)(x)[0]
    assert actual.dtype is dtype
    if fmt.beyond == "max":  # formats without NaN have no common rule for it
        assert actual[x.isnan()].isnan().all()
        actual, expected = actual[~x.isnan()], expected[~x.isnan().numpy()]
    if dtype is torch.float64:
        # The other library rounds twice, to float32 first: where both are equal to the number.
        once = numpy.asarray(fmt.reference(x[~x.isnan()] if fmt.beyond == "max" else x))
        assert same(actual, once)
        return
    assert same(actual, expected)


def test_what_is_returned() -> None:
    x = torch.tensor([0.3, -900.0, 1.0])
    fmt = ML_DTYPES["float8_e5m2"]
    value, scale, zero_point, *fields = fmt.build(scaling_impl=ConstScaling(2.0))(x)
    exponent, mantissa, bias, saturating, inf_values, nan_values = fields
    assert torch.equal(value, torch.tensor([0.3125, -896.0, 1.0])) and scale == 2.0
    assert zero_point == 0 and (exponent, mantissa, bias) == (5, 2, 15)
    assert (saturating, inf_values, nan_values) == (False, ("00",), ("11",))


def test_without_a_scale_it_is_one() -> None:
    scale = E4M3.build()(torch.ones(2))[1]
    assert scale.shape == (1,) and scale == 1
    assert not list(E4M3.build().state_dict())


def test_the_largest_number_is_what_a_statistic_maps_to() -> None:
    scaled = E4M3.build(scaling_impl=ParameterScaling(2.0), float_scaling_impl=FloatScaling(448.0))
    value, scale, *_ = scaled(torch.tensor([2.0, 5.0]))
    assert scale.item() == pytest.approx(2 / 448)
    torch.testing.assert_close(value, torch.tensor([2.0, 2.0]))


def test_quantize_and_dequantize() -> None:
    ratio, scale = E4M3.build().quantize(torch.tensor([1.1, 0.3, 1e9]), torch.tensor(0.5))
    assert ratio.tolist()[:2] == [2.25, 0.625] and ratio[2] > 448  # without limits
    assert torch.equal(E4M3.build().dequantize(ratio, scale), ratio * 0.5)
    assert min_internal_scale(torch.tensor(7.0), torch.tensor(3.0)) == -9


def learned(exponent: int = 4, mantissa: int = 3) -> FloatQuant:
    exponent_impl, mantissa_impl = BitWidthParameter(exponent), BitWidthParameter(mantissa)
    return FloatQuant(
        True,
        exponent_impl,
        mantissa_impl,
        ComputeExponentBias(exponent_impl),
        FloatClamp(TensorClamp(), True),
        compute_max_mantissa=ComputeMaxMantissa(),
    )


def test_learned_bits_give_the_values_of_constant_ones() -> None:
    x = sampled(torch.float32)
    quantizer = learned()
    assert not quantizer.is_fused
    fmt = Format(4, 3, 7, None)
    assert same(quantizer(x)[0], fmt.reference(x.double().numpy()))
    assert list(quantizer.state_dict()) == [
        "exponent_bias_impl.exponent_bit_width_impl.bit_width_offset",
        "exponent_bit_width_impl.bit_width_offset",
        "mantissa_bit_width_impl.bit_width_offset",
    ]


@pytest.mark.parametrize("x", [0.0011, 0.017, 0.3, 500.0, -1000.0])
def test_gradients_of_learned_bits(x: float) -> None:
    """By hand: of the step inside, of the limit beyond, of the smallest step below."""
    quantizer, ln2 = learned(), math.log(2)
    value = quantizer(torch.tensor(x))[0]
    value.backward()
    exponent = quantizer.exponent_bit_width_impl.bit_width_offset.grad.item()
    mantissa = quantizer.mantissa_bit_width_impl.bit_width_offset.grad.item()
    rounded = value.item()
    if abs(x) > 480:
        # limit = (2 - 2**-m) * 2**(2**e - 1 - bias), bias = 2**(e - 1) - 1
        sign, power = math.copysign(1, x), 2.0**8
        assert mantissa == pytest.approx(sign * ln2 * 2.0**-3 * power, rel=1e-5)
        grows = 2**4 * ln2 - 2**3 * ln2
        assert exponent == pytest.approx(sign * 480 * ln2 * grows, rel=1e-5)
        return
    # y = round(x / step) * step, whose rounding is passed: dy/dstep = (y - x) / step.
    assert mantissa == pytest.approx(-ln2 * (rounded - x), rel=1e-3)
    if abs(x) < 2.0**-6:  # the smallest step is 2**(1 - bias - m)
        assert exponent == pytest.approx(-ln2 * 2**3 * ln2 * (rounded - x), rel=1e-3)
    else:
        assert exponent == 0


def test_refuses_what_is_no_part() -> None:
    with pytest.raises(TypeError, match="exponent_bit_width_impl=4: expected a torch.nn.Module"):
        FloatQuant(True, 4, BitWidthParameter(3), RoundSte(), RoundSte())


def test_a_subclass_runs_part_by_part() -> None:
    class Mine(FloatQuant):
        def dequantize(self, y: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            return y * scale + 1

    quantizer = E4M3.build()
    quantizer.__class__ = Mine
    assert not quantizer.is_fused and quantizer(torch.tensor(2.0))[0] == 3.0


def test_a_rounding_of_choice() -> None:
    assert E4M3.build(float_to_int_impl=FloorSte())(torch.tensor([-17.0, 17.9]))[0].tolist() == [
        -18.0,
        16.0,
    ]


class Given(nn.Module):
    """A scale that is given."""

    def __init__(self, scale: torch.Tensor) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor, threshold: torch.Tensor | None = None) -> torch.Tensor:
        return self.scale


@pytest.mark.parametrize("fmt", [E4M3, ML_DTYPES["float8_e5m2"]], ids=str)
def test_compiled_equals_eager(fmt: Format) -> None:
    weight = torch.linspace(-1.0, 2.0, 240).reshape(4, 60)
    results = []
    for compiled in (False, True):
        generator = torch.Generator().manual_seed(0)
        x = (torch.randn(4, 60, generator=generator) * 20).requires_grad_()
        scale = torch.tensor([[0.1], [0.3], [7.0], [1e-3]], requires_grad=True)
        with config.overrides(JIT_ENABLED=compiled):
            value = fmt.build(scaling_impl=Given(scale))(x)[0]
        (value.clamp(-1e6, 1e6) * weight).sum().backward()
        results.append((value, x.grad, scale.grad))
    (value, to_x, to_scale), (other, other_x, other_scale) = results
    assert torch.equal(value, other)
    torch.testing.assert_close(other_x, to_x, rtol=1e-6, atol=0)
    # Sums of 60 terms of up to twice the largest number.
    torch.testing.assert_close(other_scale, to_scale, rtol=1e-5, atol=1e-6 * 60, equal_nan=True)


def test_a_constant_scale_is_known_on_the_meta_device() -> None:
    with torch.device("meta"):
        layer = qnn.QuantLinear(4, 3, weight_quant=Fp8e4m3Weight)
    layer.load_state_dict(qnn.QuantLinear(4, 3).state_dict(), assign=True)
    weight = layer.quant_weight()
    assert weight.scale.equal(torch.ones(1)) and weight.is_valid
