"""Tests of exact arithmetic against plain integer arithmetic in NumPy and Python."""

from __future__ import annotations

import itertools
import math
import operator
from fractions import Fraction

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.quant_tensor import IntQuantTensor, exact
from quant_tensors import make

seeds, bits, flags = st.integers(0, 1000), st.integers(1, 8), st.booleans()
zero_points = st.integers(-20, 20).map(float)
scales = st.sampled_from([0.25, 0.05, 3.0])
formats = st.tuples(bits, flags, zero_points)

PAIRS = {
    "add": (exact.add, operator.add),
    "sub": (exact.sub, operator.sub),
    "mul": (exact.mul, operator.mul),
}


def ends(bit_width, signed):
    return (-(2 ** (bit_width - 1)), 2 ** (bit_width - 1) - 1) if signed else (0, 2**bit_width - 1)


def smallest_bits(low, high, signed):
    return next(b for b in range(1, 64) if ends(b, signed)[0] <= low and high <= ends(b, signed)[1])


def draw(form, scale=0.25, seed=0, shape=(4, 5)):
    bit_width, signed, zero_point = form
    x, integers = make(shape, scale, zero_point, bit_width, signed, seed=seed)
    return x, integers.long().numpy()


def holds(result, integers, zero_point=None):
    """The tensor is valid, holds these integers, and its value is theirs, rounded once."""
    assert result.is_valid is True
    assert numpy.array_equal(result.int().long().numpy(), integers)
    if zero_point is not None:
        assert (result.zero_point == zero_point).all()
    steps = torch.as_tensor(integers).double() - result.zero_point
    assert torch.equal(result.value, (steps * result.scale).to(result.value.dtype))
    return True


def integers_of(default):
    """Integers of a default rule, whose bit width need not hold the worst case."""
    return default._exact_int_value()[0]


@pytest.mark.parametrize("name", PAIRS)
@given(seeds, formats, formats, scales)
def test_operations_are_those_of_integers_and_of_the_default_rules(name, seed, f1, f2, scale):
    function, reference = PAIRS[name]
    if name == "mul":  # the default product has no zero points
        f1, f2 = (*f1[:2], 0.0), (*f2[:2], 0.0)
    (x, i), (y, j) = draw(f1, scale, seed), draw(f2, scale, seed + 1)
    result, default = function(x, y), reference(x, y)
    zero_point = 0.0 if name == "mul" else reference(f1[2], f2[2])
    assert holds(result, reference(i, j), zero_point)
    assert torch.equal(result.int().double(), integers_of(default))
    assert torch.equal(result.scale, default.scale)
    # The default rounds each operand's value, and the result; the exact value is rounded once.
    largest = max(abs(x.value).max(), abs(y.value).max(), abs(default.value).max(), 1.0)
    bound = 0 if scale == 0.25 else 3 * torch.finfo(torch.float32).eps * largest**2
    assert (result.value - default.value).abs().max() <= bound


@given(seeds, formats, formats)
def test_product_subtracts_zero_points(seed, f1, f2):
    (x, i), (y, j) = draw(f1, seed=seed), draw(f2, seed=seed + 1)
    assert holds(exact.mul(x, y), (i - int(f1[2])) * (j - int(f2[2])), 0.0)


@given(seeds, formats)
def test_negative(seed, form):
    x, i = draw(form, seed=seed)
    assert holds(exact.neg(x), -i, -form[2])


@given(seeds, bits, flags, bits, flags, st.integers(0, 40))
def test_matrix_product(seed, b1, s1, b2, s2, inner):
    x, i = draw((b1, s1, 0.0), 0.05, seed, (3, inner))
    y, j = draw((b2, s2, 0.0), 0.25, seed + 1, (inner, 4))
    result = exact.matmul(x, y)
    assert holds(result, i @ j, 0.0)
    if inner:
        assert torch.equal(result.int().double(), integers_of(torch.matmul(x, y)))


@pytest.mark.parametrize(
    ("left", "right"),
    [((5,), (5,)), ((3, 5), (5,)), ((5,), (5, 4)), ((2, 3, 5), (5, 4)), ((5,), (2, 5, 4))],
)
def test_matrix_product_of_any_rank_and_with_zero_points(left, right):
    x, i = draw((8, False, 3.0), 0.05, 0, left)
    y, j = draw((4, True, -2.0), 0.25, 1, right)
    assert holds(exact.matmul(x, y), (i - 3) @ (j + 2), 0.0)


def test_matrix_product_with_scales_per_channel():
    rows, columns = torch.rand(3, 1) + 0.1, torch.rand(1, 4) + 0.1
    x, i = draw((8, True, 0.0), rows, 0, (3, 5))
    y, j = draw((8, True, 0.0), columns, 1, (5, 4))
    product = exact.matmul(x, y)
    assert holds(product, i @ j) and torch.equal(product.scale, rows * columns)
    vector, k = draw((8, True, 0.0), 0.5, 2, (5,))
    assert holds(exact.matmul(x, vector), i @ k)
    assert holds(exact.matmul(vector, y), k @ j)
    for first, second in ((x.t(), x), (y, y.t()), (draw((8, True, 0.0), shape=(2, 3))[0], x)):
        with pytest.raises(RuntimeError, match="differ within a sum.*exact.rescale"):
            exact.matmul(first, second)


@given(seeds, formats, formats, st.integers(0, 1))
def test_concatenation_holds_both_formats(seed, f1, f2, dim):
    f2 = (*f2[:2], f1[2])
    (x, i), (y, j) = draw(f1, seed=seed), draw(f2, seed=seed + 1)
    result = exact.cat([x, y], dim)
    assert holds(result, numpy.concatenate([i, j], dim), f1[2])
    if f1[:2] == f2[:2]:
        assert torch.equal(result.value, torch.cat([x, y], dim).value)
        assert result.bit_width == f1[0]


def test_concatenation_of_channels():
    scale = torch.rand(1, 5) + 0.1
    zero_point = torch.arange(5.0).reshape(1, 5)
    x, i = draw((8, False, zero_point), scale)
    y, j = draw((8, True, zero_point - 2), 2 * scale, 1)
    result = exact.cat([x, y], dim=1)
    assert holds(result, numpy.concatenate([i, j], 1))
    assert result.scale.shape == result.zero_point.shape == (1, 10)


ALL_FORMATS = list(itertools.product((1, 2, 3, 8), (False, True)))


@pytest.mark.parametrize("first", ALL_FORMATS)
@pytest.mark.parametrize("second", ALL_FORMATS)
def test_default_registers_hold_the_worst_case_and_no_more(first, second):
    corners = [(a, b) for a in ends(*first) for b in ends(*second)]
    columns = [torch.tensor(column, dtype=torch.float32) for column in zip(*corners, strict=True)]
    x = IntQuantTensor(columns[0], 1.0, 0.0, first[0], first[1], False)
    y = IntQuantTensor(columns[1], 1.0, 0.0, second[0], second[1], False)
    either = first[1] or second[1]
    for function, reference, signed in (
        (exact.add, operator.add, either),
        (exact.sub, operator.sub, True),
        (exact.mul, operator.mul, either),
    ):
        integers = [reference(a, b) for a, b in corners]
        result = function(x, y)
        assert holds(result, numpy.array(integers))
        assert result.signed is signed
        assert result.bit_width == smallest_bits(min(integers), max(integers), signed)
    terms = 7
    products = [terms * a * b for a, b in corners]
    for a, b in corners:
        row = x.set(value=torch.full((1, terms), float(a)))
        column = y.set(value=torch.full((terms, 1), float(b)))
        result = exact.matmul(row, column)
        assert holds(result, numpy.array([[terms * a * b]]))
        assert result.bit_width == smallest_bits(min(products), max(products), either)


def test_bit_widths_of_the_document():
    x, _ = draw((6, False, 0.0))
    y, _ = draw((8, False, 0.0))
    z, _ = draw((8, True, 0.0))
    assert (exact.add(x, y).bit_width, exact.add(x, y).signed) == (9, False)
    assert (exact.add(z, y).bit_width, exact.add(z, y).signed) == (10, True)


@pytest.mark.parametrize("name", PAIRS)
@given(seeds, st.sampled_from([(8, numpy.int8), (16, numpy.int16)]))
def test_wrap_is_the_arithmetic_of_numpy(name, seed, width):
    bit_width, dtype = width
    function, reference = PAIRS[name]
    (x, i), (y, j) = (draw((bit_width, True, 0.0), 1.0, s) for s in (seed, seed + 1))
    result = function(x, y, bit_width=bit_width, overflow="wrap")
    expected = reference(i.astype(dtype), j.astype(dtype))
    assert result.int().numpy().dtype == dtype
    assert numpy.array_equal(result.int().numpy(), expected)


@given(seeds, formats, formats, st.integers(1, 12), flags)
def test_saturation_and_the_stated_register(seed, f1, f2, bit_width, signed):
    (x, i), (y, j) = draw(f1, seed=seed), draw(f2, seed=seed + 1)
    result = exact.sub(x, y, bit_width=bit_width, signed=signed)
    assert holds(result, numpy.clip(i - j, *ends(bit_width, signed)), f1[2] - f2[2])
    assert (result.bit_width, result.signed) == (bit_width, signed)
    unsigned = exact.sub(x, y, signed=False)
    assert holds(unsigned, numpy.maximum(i - j, 0)) and not unsigned.signed


def test_overflow_as_an_error():
    x, i = draw((8, True, 0.0))
    assert holds(exact.add(x, x, bit_width=9, overflow="error"), i + i)
    with pytest.raises(RuntimeError, match="Integers overflow.*accepted -128 to 127"):
        exact.add(x, x, bit_width=8, overflow="error")


@given(seeds, formats, st.integers(0, 10))
def test_shifts_are_those_of_numpy(seed, form, distance):
    x, i = draw(form, 0.05, seed)
    steps = i - int(form[2])
    right = exact.right_shift(x, distance, rounding="FLOOR")
    assert holds(right, steps >> distance, 0.0) and torch.equal(right.scale, x.scale)
    assert holds(exact.left_shift(x, distance), steps << distance, 0.0)
    if form[2] == 0:
        assert exact.left_shift(x, distance).bit_width == form[0] + distance
        assert right.bit_width == max(form[0] - distance, 1)


ROUNDINGS = {
    "ROUND": round,
    "CEIL": math.ceil,
    "FLOOR": math.floor,
    "ROUND_TO_ZERO": math.trunc,
    # Halves of negative numbers go up.
    "DPU": lambda x: math.ceil(x) if x < 0 and x.denominator == 2 else round(x),
}


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(seeds, formats, st.integers(0, 10))
def test_right_shift_rounds_as_stated(rounding, seed, form, distance):
    x, i = draw(form, 0.05, seed)
    expected = [ROUNDINGS[rounding](Fraction(int(q) - int(form[2]), 2**distance)) for q in i.flat]
    result = exact.right_shift(x, distance, rounding=rounding)
    assert holds(result, numpy.array(expected).reshape(i.shape))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@given(
    seeds,
    formats,
    st.floats(2**-7, 2**7, width=32),
    st.one_of(st.floats(2**-7, 2**7, width=32), st.sampled_from([0.5, 1.5, 6.0])),
    zero_points,
)
def test_rescale_is_rational_arithmetic(rounding, seed, form, scale, ratio, zero_point):
    x, i = draw(form, torch.tensor(scale), seed)
    new_scale = torch.tensor(scale) * ratio
    result = exact.rescale(x, new_scale, zero_point, rounding=rounding)
    factor = Fraction(scale) / Fraction(new_scale.item())
    expected = [
        ROUNDINGS[rounding]((int(q) - int(form[2])) * factor + int(zero_point)) for q in i.flat
    ]
    assert holds(result, numpy.array(expected).reshape(i.shape), zero_point)
    assert torch.equal(result.scale, new_scale)


def test_rescale_rounds_ties_only():
    """A quotient by a rounded ratio would miss the tie of 21 / 6, or make one."""
    x = IntQuantTensor(torch.arange(-60.0, 60), 1.0, 0.0, 8, True, False)
    expected = [round(Fraction(q, 6)) for q in range(-60, 60)]
    assert exact.rescale(x, 6.0).int().tolist() == expected


def test_rescale_keeps_what_is_not_given():
    x, i = draw((8, False, 3.0))
    same = exact.rescale(x)
    assert holds(same, i, 3.0) and same.bit_width == 8 and not same.signed
    narrow = exact.rescale(x, bit_width=4)
    assert holds(narrow, i.clip(0, 15), 3.0) and not narrow.signed
    # Without a register, a negative integer makes the result signed; with one, it saturates.
    finer = exact.rescale(x, 0.125)
    assert holds(finer, (i - 3) * 2 + 3) and finer.signed
    held = exact.rescale(x, 0.125, bit_width=10)
    assert holds(held, ((i - 3) * 2 + 3).clip(0, None)) and not held.signed
    y, j = draw((8, False, 0.0))
    shifted = exact.rescale(y, zero_point=-4.0)
    assert holds(shifted, j - 4, -4.0) and shifted.signed


def test_rescale_per_channel():
    scale, zero_point = torch.rand(4, 1) + 0.1, torch.arange(4.0).reshape(4, 1)
    x, i = draw((8, False, zero_point), scale)
    result = exact.rescale(x, 0.3, 1.0)
    ratio = scale.double() / torch.tensor(0.3).double()
    expected = torch.round((torch.as_tensor(i) - zero_point.double()) * ratio + 1)
    assert holds(result, expected.long().numpy(), 1.0)
    halved = numpy.rint((i - zero_point.numpy()) / 2 + zero_point.numpy())
    assert holds(exact.rescale(x, scale * 2), halved.astype(int))


def test_per_channel_fields_broadcast():
    scale, zero_point = torch.rand(4, 1) + 0.1, torch.arange(4.0).reshape(4, 1)
    x, i = draw((8, False, zero_point), scale)
    y, j = draw((4, True, 2.0), scale, 1)
    assert holds(exact.add(x, y), i + j) and exact.add(x, y).zero_point.shape == (4, 1)
    steps = i - zero_point.long().numpy()
    assert holds(exact.mul(x, y), steps * (j - 2), 0.0)
    assert holds(exact.left_shift(x, 3), steps * 8)
    wide, k = draw((4, True, 2.0), 0.5, 2, (3, 4, 1))
    assert holds(exact.mul(wide, x), (k - 2) * steps)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_holds_what_its_significand_does(dtype):
    # One rounding of a value with p significant bits moves q by q * 2**-p: up to 2**(p - 1) it
    # stays nearest.
    largest = 2 ** (-math.log2(torch.finfo(dtype).eps))
    integers = torch.arange(-largest, largest)
    x = IntQuantTensor((integers * 0.1).to(dtype), 0.1, 0.0, 12, True, False)
    i = integers.long().numpy()
    assert exact.add(x, x).dtype == torch.float32
    assert holds(exact.add(x, x), i + i) and holds(exact.mul(x, x), i * i)


def test_double_precision_holds_products_of_24_bits():
    integers = torch.tensor([2**23 - 1, -(2**23)], dtype=torch.float64)
    x = IntQuantTensor(integers * 0.1, 0.1, 0.0, 24, True, False)
    x = x.set(scale=torch.tensor(0.1, dtype=torch.float64))
    assert exact.mul(x, x).int().tolist() == [(2**23 - 1) ** 2, 2**46]
    with pytest.raises(RuntimeError, match="too large for a float32 value: .*`x.double\\(\\)`"):
        exact.mul(x.float(), x.float())


def test_worst_cases_beyond_float64_are_refused():
    x = IntQuantTensor(torch.zeros(2, 2), 1.0, 0.0, 32, True, False)
    assert exact.add(x, x).bit_width == 33
    for compute in (lambda: exact.mul(x, x), lambda: exact.matmul(x, x)):
        with pytest.raises(RuntimeError, match=r"too large for exact arithmetic.*up to 2\*\*52"):
            compute()
    wide = x.set(bit_width=64.0)
    with pytest.raises(RuntimeError, match="too large for exact arithmetic"):
        exact.right_shift(wide, 32)


@pytest.mark.parametrize("name", PAIRS)
def test_empty_tensors(name):
    x, _ = draw((8, False, 3.0), shape=(0, 5))
    assert PAIRS[name][0](x, x).shape == (0, 5)
    channels = x.set(scale=torch.ones(0, 1), zero_point=torch.ones(0, 1))
    assert PAIRS[name][0](channels, channels).shape == (0, 5)
    assert exact.rescale(channels, 0.3).shape == (0, 5)
    assert exact.matmul(x.t(), x).int().tolist() == [[0] * 5] * 5


def test_nan_stays_and_infinities_saturate():
    value = torch.tensor([torch.nan, torch.inf, -torch.inf])
    x = IntQuantTensor(value, 1.0, 0.0, 8, True, False)
    total = exact.add(x, x).value
    assert total[0].isnan() and total[1:].tolist() == [254, -256]


def test_scales_and_zero_points_must_agree_in_training_too():
    x, _ = draw((8, True, 1.0))
    for training in (False, True):
        other = x.set(scale=0.5, training=training)
        for function in (exact.add, exact.sub, lambda a, b: exact.cat([a, b])):
            with pytest.raises(
                RuntimeError, match=r"Scaling factors are different\n.*exact.rescale"
            ):
                function(x, other)
        with pytest.raises(RuntimeError, match=r"Zero points are different\n.*exact.rescale"):
            exact.cat([x, x.set(zero_point=0.0, training=training)])
    assert exact.add(x, exact.rescale(x.set(scale=0.5), 0.25)).is_valid


@pytest.mark.parametrize("function", [exact.mul, exact.matmul])
def test_products_and_shifts_need_integer_zero_points(function):
    x, _ = draw((8, False, 2.0), shape=(3, 3))
    fractional = x.set(zero_point=2.5)
    for operands in ((x, fractional), (fractional, x)):
        with pytest.raises(RuntimeError, match=r"no integers: found \[2.5\].*zero_point=0"):
            function(*operands)
    for shift in (exact.left_shift, exact.right_shift):
        with pytest.raises(RuntimeError, match="no integers"):
            shift(fractional, 1)
    assert function(x, exact.rescale(fractional, zero_point=0)).is_valid


def test_other_operands_are_refused():
    x, _ = draw((8, True, 0.0))
    for other in (1.0, 2, x.value, None):
        with pytest.raises(TypeError, match=r"exact.add\(.*\): expected an IntQuantTensor"):
            exact.add(x, other)
    with pytest.raises(ValueError, match="expected at least one"):
        exact.cat([])
    for distance in (-1, 1.0, True, 53):
        with pytest.raises(ValueError, match="expected an int from 0 to 52"):
            exact.left_shift(x, distance)
    with pytest.raises(ValueError, match="scale=0.0.*number > 0"):
        exact.rescale(x, 0.0)
    with pytest.raises(ValueError, match="scale of shape"):
        exact.rescale(x, torch.ones(3))


GRADIENTS = {
    "add": (exact.add, operator.add),
    "sub": (exact.sub, operator.sub),
    "mul": (exact.mul, operator.mul),
    "matmul": (lambda a, b: exact.matmul(a, b.t()), lambda a, b: a @ b.t()),
    "cat": (lambda a, b: exact.cat([a, b]), lambda a, b: torch.cat([a, b])),
    "neg": (lambda a, b: exact.neg(a), lambda a, b: -a),
    "left": (lambda a, b: exact.left_shift(a, 3), lambda a, b: a.value * 8),
    "right": (lambda a, b: exact.right_shift(a, 3), lambda a, b: a.value / 8),
    "rescale": (lambda a, b: exact.rescale(a, 0.3, bit_width=32), lambda a, b: a.value),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_those_of_the_default_rules(name, training):
    gradients = []
    for function in GRADIENTS[name]:
        leaves = [make((4, 5), 0.25, seed=seed)[0].value.requires_grad_() for seed in (0, 1)]
        scale = torch.tensor(0.25, requires_grad=True)
        operands = [IntQuantTensor(v, scale, 0.0, 8, True, training) for v in leaves]
        result = function(*operands)
        value = getattr(result, "value", result)
        weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
        (value * weights).sum().backward()
        gradients.append([None if leaf.grad is None else leaf.grad for leaf in leaves])
        assert scale.grad is None or scale.grad == 0
    for own, default in zip(*gradients, strict=True):
        assert (own is None) == (default is None)
        # Both add the same float32 products, the matrix product in another order: 5 of them.
        if own is not None:
            torch.testing.assert_close(own, default, rtol=1e-6, atol=1e-6)


def test_gradients_where_integers_are_limited_go_to_the_limit():
    value = torch.tensor([1.0, 100.0, -100.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    bit_width = torch.tensor(4.0, requires_grad=True)
    x = IntQuantTensor(value, scale, 0.0, bit_width, True, True)
    exact.add(x, x).value[:2].sum().backward()
    assert value.grad.tolist() == [2, 0, 0]
    # The second element is 2 * (2**(b - 1) - 1) * s.
    assert scale.grad == 2 * 7
    torch.testing.assert_close(bit_width.grad, torch.tensor(2 * 8 * 0.5) * math.log(2))


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_gradients_of_overflow(overflow):
    value = torch.tensor([1.0, 10.0, -10.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    x = IntQuantTensor(value, scale, 0.0, 8, True, False)
    exact.add(x, x, bit_width=4, overflow=overflow).value.sum().backward()
    passes = 2 if overflow == "wrap" else 0
    assert value.grad.tolist() == [2, passes, passes]
    assert scale.grad == (0 if overflow == "wrap" else 7 - 8)


def test_gradient_of_integers_is_that_of_the_ratio():
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    x = IntQuantTensor(value, 0.5, 3.0, 8, False, False)
    exact.as_integers(x).value.sum().backward()
    assert value.grad.tolist() == [2, 2]


def test_rounded_operands_are_the_factors_of_a_gradient():
    value = torch.tensor([1.2], requires_grad=True)
    x = IntQuantTensor(value, 1.0, 0.0, 8, True, False)
    other = IntQuantTensor(torch.tensor([3.4]), 1.0, 0.0, 8, True, False)
    product = exact.mul(x, other)
    assert product.value == 3
    product.value.backward()
    assert value.grad == 3


@given(seeds, formats)
def test_integers_as_a_view(seed, form):
    x, i = draw(form, 0.05, seed)
    view = exact.as_integers(x)
    assert view.value.tolist() == i.tolist() and view.int().tolist() == i.tolist()
    assert (view.scale, view.zero_point) == (1, 0)
    assert (view.bit_width, view.signed) == (x.bit_width, x.signed)
    total = exact.add(x, x, as_integers=True)
    assert total.value.tolist() == (i + i).tolist() and total.scale == 1
