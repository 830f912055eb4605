"""Tests of changes of sign and of concatenation, which every kind of quantized tensor keeps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import FloatQuantTensor, IntQuantTensor
from quant_tensors import make, make_float

seeds, flags = st.integers(0, 1000), st.booleans()
zero_points = st.integers(-20, 20).map(float)


@pytest.mark.parametrize("zero_point", [0.0, 3.0])
@pytest.mark.parametrize("signed", [False, True])
def test_absolute(signed, zero_point):
    x, i = make((100,), 0.05, zero_point, 8, signed, narrow=True)
    y = abs(x)
    assert not y.signed and y.is_valid
    assert torch.equal(y.int().double(), (i - zero_point).abs())
    assert y.bit_width == (7 if signed and zero_point == 0 else 8)


@given(seeds, st.integers(0, 1))
def test_concatenation_of_shared_and_of_own_scales(seed, dim):
    x, i = make((3, 3), 0.05, 1.0, seed=seed)
    y, j = make((3, 3), 0.05, 1.0, seed=seed + 1)
    assert torch.equal(torch.cat([x, y], dim).int().double(), torch.cat([i, j], dim))
    scale = torch.rand(1, 3, generator=torch.Generator().manual_seed(seed)) + 0.1
    x, i = make((3, 3), scale, seed=seed)
    y, j = make((3, 3), 2 * scale, seed=seed + 1)
    together = torch.cat((x, y), dim=1)
    assert together.scale.shape == (1, 6)
    assert torch.equal(together.int().double(), torch.cat([i, j], 1))


def test_concatenation_checks_its_operands():
    x, _ = make((4,), 0.1, 1.0)
    for change, message in (
        ({"scale": 0.2}, "Scaling factors"),
        ({"zero_point": 0.0}, "Zero points"),
        ({"bit_width": 4.0}, "Bit widths"),
        ({"signed": False}, "Signs"),
    ):
        with pytest.raises(RuntimeError, match=f"^{message} are different"):
            torch.cat([x, x.set(**change)])
    assert type(torch.cat([x, torch.ones(1)])) is torch.Tensor
    averaged = torch.cat([x.set(training=True), x.set(scale=0.3, zero_point=2.0)])
    # The mean of two float32 scales.
    torch.testing.assert_close(averaged.scale, torch.tensor(0.2))
    assert averaged.zero_point == 1.5
    assert torch.equal(IntQuantTensor.cat([x, x], 0).value, torch.cat([x, x]).value)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concatenation_of_minifloats(dim):
    x, numbers = make_float((3, 4), 0.1)
    y, others = make_float((3, 4), 0.1, seed=5)
    together = torch.cat([x, y], dim)
    assert type(together) is FloatQuantTensor and together.is_valid
    assert torch.equal(together.minifloat().double(), torch.cat([numbers, others], dim))
    assert together.scale is x.scale


def test_concatenation_of_scales_that_run_along():
    scales = torch.rand(2, 3, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    x, numbers = make_float((3, 4), scales[0])
    y, others = make_float((3, 4), scales[1])
    together = torch.cat([x, y])
    assert torch.equal(together.scale, torch.cat([scales[0], scales[1]]))
    assert torch.equal(together.minifloat().double(), torch.cat([numbers, others]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.2}, "Scaling factors are different"),
        ({"mantissa_bit_width": 2}, "Bit widths are different"),
        ({"exponent_bias": 6}, "Exponent biases are different"),
        ({"nan_values": None}, "Floating point representations are different"),
        ({"signed": False}, "Signs are different"),
    ],
)
def test_concatenation_of_minifloats_checks_its_operands(change, message):
    x, _ = make_float((3, 4), 0.1)
    with pytest.raises(RuntimeError, match=message):
        torch.cat([x, x.set(**change)])


def test_concatenation_of_minifloats_in_training():
    x, _ = make_float((3, 4), 0.1, training=True)
    together = torch.cat([x, x.set(scale=0.3, training=False)])
    assert together.training and float(together.scale) == pytest.approx(0.2)


def test_concatenation_with_another_kind_is_plain():
    x, y = make_float((3, 4))[0], make((3, 4))[0]
    for tensors in ([x, y], [y, x], [x, torch.ones(3, 4)], [torch.ones(3, 4), x]):
        assert type(torch.cat(tensors)) is torch.Tensor


def test_signs_of_minifloats():
    x, numbers = make_float((30,))
    assert torch.equal((-x).minifloat().double(), -numbers)
    magnitude = abs(x)
    assert not magnitude.signed and magnitude.is_valid
    assert torch.equal(magnitude.minifloat().double(), numbers.abs())
    assert (-magnitude).signed and (-magnitude).is_valid
    assert magnitude.scale is x.scale
