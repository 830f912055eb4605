"""What holds for every predefined quantizer of groups, of integers and of minifloats.

A quantizer joins by being listed in `__all__` of its module and by having a scale per group.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.core.quant.float import FloatQuant
from brevitas.core.zero_point import RuntimeDynamicGroupZeroPoint
from brevitas.inject.enum import ScalingPerOutputType
from brevitas.quant.base import MinMaxStatsScaling, ShiftedMinUintQuant
from brevitas.quant.solver import ActQuantSolver
from brevitas.quant_tensor import GroupwiseFloatQuantTensor, GroupwiseIntQuantTensor
from tensor_quants import GROUP_FLOAT_ROWS, ROWS, Row, assert_declares, gradients, run


def _in_groups(row: Row) -> bool:
    declared = row.quantizer
    stated = "scaling_per_output_type" in declared and declared.scaling_per_output_type
    return stated is ScalingPerOutputType.GROUP


INT_ROWS = [row for row in ROWS if _in_groups(row)]
GROUP_ROWS = [*INT_ROWS, *GROUP_FLOAT_ROWS]
every_row = pytest.mark.parametrize("row", GROUP_ROWS, ids=str)
every_weight = pytest.mark.parametrize("row", [r for r in GROUP_ROWS if not r.is_act], ids=str)
every_act = pytest.mark.parametrize("row", [r for r in GROUP_ROWS if r.is_act], ids=str)
# Statistics of each group, without those that learn from where they start.
PLAIN = [r for r in GROUP_ROWS if not r.name.endswith(("MSE", "HQO"))]
plain_rows = pytest.mark.parametrize("row", PLAIN, ids=str)

# Layer, its arguments, the dimension of its groups by default, the shape of its input.
LAYERS: dict[str, tuple[Any, tuple[Any, ...], int, tuple[int, ...]]] = {
    "linear": (qnn.QuantLinear, (10, 6), 1, (2, 10)),
    "conv1d": (qnn.QuantConv1d, (10, 6, 3), 1, (2, 10, 5)),
    "conv2d": (qnn.QuantConv2d, (5, 6, (3, 2)), 1, (2, 5, 4, 4)),
    "grouped conv2d": (qnn.QuantConv2d, (10, 6, 3, 1, 0, 1, 2), 1, (2, 10, 4, 4)),
    "conv3d": (qnn.QuantConv3d, (5, 2, 2), 1, (2, 5, 3, 3, 3)),
    "transposed conv1d": (qnn.QuantConvTranspose1d, (10, 6, 3), 0, (2, 10, 5)),
    "transposed conv2d": (qnn.QuantConvTranspose2d, (5, 6, 3), 0, (2, 5, 4, 4)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)


def keep(tensor_quant: nn.Module) -> None:
    """Change nothing."""


def part_by_part(tensor_quant: nn.Module) -> None:
    """Force the parts to run one by one, by a hook that does nothing."""
    rounding = getattr(tensor_quant, "int_quant", tensor_quant).float_to_int_impl
    rounding.register_forward_hook(lambda *arguments: None)


def layer_of(row: Row, kind: str, size: int, **declared: Any) -> Any:
    layer, arguments, _, _ = LAYERS[kind]
    torch.manual_seed(0)
    keywords = {f"weight_{name}": value for name, value in declared.items()}
    return layer(*arguments, weight_quant=row.quantizer, weight_group_size=size, **keywords)


# Declarations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", GROUP_FLOAT_ROWS, ids=str)
def test_declares_what_the_contract_lists(row: Row, contract_path: Callable[[str], Path]) -> None:
    listed = json.loads(contract_path("quantizer_declarations.json").read_text())
    assert_declares(row.quantizer, listed[f"{row.module}.{row.name}"])


def test_every_listed_quantizer_of_groups_has_a_row(contract_path: Callable[[str], Path]) -> None:
    listed = json.loads(contract_path("quantizer_declarations.json").read_text())
    names = {
        name
        for name, declared in listed.items()
        if declared["values"].get("scaling_per_output_type") == "ScalingPerOutputType.GROUP"
        and not name.endswith("Mixin")
    }
    assert names == {f"{row.module}.{row.name}" for row in GROUP_ROWS}


# Values ------------------------------------------------------------------------------------------


@every_weight
@every_layer
@pytest.mark.parametrize("size", [1, 4, 32])
def test_weights_have_a_scale_per_group(row: Row, kind: str, size: int) -> None:
    layer, (_, _, dim, _) = layer_of(row, kind, size), LAYERS[kind]
    weight = layer.weight
    quantized = layer.quant_weight()
    is_float = type(layer.weight_quant.tensor_quant) is FloatQuant
    assert type(quantized) is (GroupwiseFloatQuantTensor if is_float else GroupwiseIntQuantTensor)
    groups = -(-weight.shape[dim] // size)
    shape = (*weight.shape[:dim], groups, size, *weight.shape[dim + 1 :])
    assert quantized.value_.shape == shape and quantized.shape == weight.shape
    assert quantized.value.shape == weight.shape
    assert quantized.scale_.shape == (*shape[: dim + 1], 1, *shape[dim + 2 :])
    assert (quantized.group_size, quantized.group_dim) == (size, dim)
    # What fills up the last group is zero, and stays zero where zero is on the grid.
    if size > weight.shape[dim] and not row.has_real_zero_point:
        filled = quantized.value_.narrow(dim + 1, weight.shape[dim], size - weight.shape[dim])
        assert not filled.any()


@pytest.mark.parametrize(
    # Half-quadratic optimization ends for all groups at once.
    "row",
    [r for r in GROUP_ROWS if not r.is_act and not r.name.endswith("HQO")],
    ids=str,
)
def test_each_group_is_quantized_by_itself(row: Row) -> None:
    """Every group equals the quantizer of one group alone."""
    whole = qnn.QuantLinear(10, 3, weight_quant=row.quantizer, weight_group_size=4)
    value, scale = whole.quant_weight().value, whole.quant_weight().scale
    for out in range(3):
        for start in (0, 4, 8):
            place = (slice(out, out + 1), slice(start, min(start + 4, 10)))
            width = whole.weight[place].shape[1]
            part = qnn.QuantLinear(width, 1, weight_quant=row.quantizer, weight_group_size=4)
            part.weight.data = whole.weight.data[place].clone()
            assert torch.equal(part.quant_weight().value, value[place])
            assert torch.equal(part.quant_weight().scale, scale[place])


@every_weight
@every_layer
def test_a_negative_dimension_counts_from_the_end(row: Row, kind: str) -> None:
    dim = LAYERS[kind][2]
    expected = layer_of(row, kind, 4).quant_weight()
    ndims = expected.value.dim()
    actual = layer_of(row, kind, 4, group_dim=dim - ndims).quant_weight()
    assert torch.equal(actual.value, expected.value) and torch.equal(actual.scale_, expected.scale_)


@every_weight
def test_the_other_dimension(row: Row) -> None:
    layer = layer_of(row, "linear", 4, group_dim=0)
    other = qnn.QuantLinear(6, 10, weight_quant=row.quantizer, weight_group_size=4)
    other.weight.data = layer.weight.data.t().clone()
    assert torch.equal(layer.quant_weight().value, other.quant_weight().value.t())


@every_act
@pytest.mark.parametrize("shape", [(2, 10), (2, 3, 10), (10,), (0, 10), (2, 0)])
@pytest.mark.parametrize("dim", [-1, 0])
def test_activations_of_any_shape(row: Row, shape: tuple[int, ...], dim: int) -> None:
    torch.manual_seed(0)
    declared = {"group_dim": dim, "group_size": 4}
    x = torch.randn(shape)
    for training in (True, False):
        layer = qnn.QuantIdentity(row.quantizer, return_quant_tensor=True, **declared)
        quantized = layer.train(training)(x)
        assert quantized.value.shape == x.shape and quantized.shape == x.shape
        rounded = -(-shape[dim] // 4)
        assert quantized.scale_.shape[dim % len(shape)] == rounded
        # Twice the largest number of a group is more than the grid holds.
        assert (quantized.value - x).abs().le(x.abs() / 2 + quantized.scale).all()


@every_act
def test_an_activation_function_comes_first(row: Row) -> None:
    x = torch.randn(3, 10)
    declared = {"group_dim": 1, "group_size": 4, "return_quant_tensor": True}
    relu = qnn.QuantReLU(row.quantizer, **declared)
    assert torch.equal(relu(x).value, qnn.QuantIdentity(row.quantizer, **declared)(x.relu()).value)


class ShiftedAct(ShiftedMinUintQuant, MinMaxStatsScaling, ActQuantSolver):
    """A user's quantizer: unsigned integers with a zero point per group of an activation."""

    bit_width = 8
    restrict_scaling_type = "fp"
    scaling_per_output_type = "group"
    zero_point_impl = RuntimeDynamicGroupZeroPoint


@pytest.mark.parametrize("size", [1, 4, 16])
def test_a_zero_point_per_group_of_an_activation(size: int) -> None:
    declared = {"group_dim": 1, "group_size": size, "return_quant_tensor": True}
    layer, x = qnn.QuantIdentity(ShiftedAct, **declared), torch.randn(2, 10, 3) + 0.5
    quantized = layer(x)
    moved = nn.functional.pad(x.movedim(1, -1), [0, -10 % size]).reshape(2, 3, -1, size)
    smallest = moved.amin(-1).clamp_max(0)
    scale = (moved.amax(-1) - smallest).clamp_min(1e-10) / 255
    zero_point = (-smallest / scale).round().clamp(0, 255)
    assert torch.equal(quantized.scale_.squeeze(2).movedim(1, -1), scale)
    assert torch.equal(quantized.zero_point_.squeeze(2).movedim(1, -1), zero_point)
    assert quantized.is_valid and quantized.int().dtype is torch.uint8


# Ways of running ---------------------------------------------------------------------------------


INT_FIELDS = ("value", "scale", "zero_point", "bit_width")
FLOAT_FIELDS = ("value", "scale", "zero_point", "exponent", "mantissa", "bias")


def fields_of(row: Row) -> tuple[str, ...]:
    return FLOAT_FIELDS if row in GROUP_FLOAT_ROWS else INT_FIELDS


def assert_near(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Equal outputs; gradients up to the order of sums of a group's terms, up to 2**9 each."""
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        if not name.startswith("grad"):
            assert torch.equal(actual[name], tensor), name
            continue
        near = torch.finfo(torch.float32).eps * 40 * 2**9 * max(1.0, float(tensor.abs().max()))
        torch.testing.assert_close(actual[name], tensor, rtol=0.0, atol=near)


@pytest.mark.parametrize("row", GROUP_FLOAT_ROWS, ids=str)
def test_both_ways_agree(row: Row, fused_calls: list[str]) -> None:
    fused = gradients(row, keep, torch.float32, FLOAT_FIELDS)
    assert fused_calls and not fused_calls.clear()
    separate = gradients(row, part_by_part, torch.float32, FLOAT_FIELDS)
    assert_near(separate, fused)


@plain_rows
def test_compiles_to_one_graph_of_equal_values(row: Row) -> None:
    tensor_quant, x = row.build(), row.data()
    expected = run(tensor_quant, x)
    compiled = torch.compile(tensor_quant, fullgraph=True, backend="aot_eager")
    actual = compiled(x)
    assert all(torch.equal(*pair) for pair in zip(expected[:4], actual[:4], strict=True))
    torch._dynamo.reset()


@pytest.mark.long
@plain_rows
def test_compiled_kernels_equal_eager(row: Row) -> None:
    eager = gradients(row, keep, torch.float32, fields_of(row))
    with config.overrides(JIT_ENABLED=True):
        compiled = gradients(row, keep, torch.float32, fields_of(row))
    assert_near(compiled, eager)


@pytest.mark.long
@pytest.mark.parametrize("row", [row for row in PLAIN if not row.is_act], ids=str)
@pytest.mark.parametrize("kind", ["conv2d", "transposed conv2d"])
def test_compiled_kernels_of_groups_between_other_dimensions(row: Row, kind: str) -> None:
    results = []
    for compiled in (False, True):
        layer = layer_of(row, kind, 4)
        x = torch.ones(LAYERS[kind][3])
        with config.overrides(JIT_ENABLED=compiled):
            layer(x).square().sum().backward()
        results.append((layer.quant_weight().value, layer.weight.grad))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


# Gradients ---------------------------------------------------------------------------------------


def _largest(x: Tensor) -> Tensor:
    """One where an element has the largest magnitude of its group, with its sign."""
    place = x.abs().argmax(-1, keepdim=True)
    return torch.zeros_like(x).scatter(-1, place, x.sign().gather(-1, place))


@pytest.mark.parametrize("restriction", ["fp", "power_of_two"])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_gradients_of_integers_are_the_written_formula(restriction: str, size: int) -> None:
    """Straight through the rounding, and through the largest magnitude of each group.

    With ``s = f(max|x|) / t``: ``d y / d s = integer - [not clamped] * x / s`` summed over the
    group, times ``d s / d max|x|``, which is ``1 / t``, or ``s / max|x|`` for a power of two whose
    exponent is rounded straight through.
    """
    torch.manual_seed(0)
    layer = qnn.QuantLinear(
        10,
        6,
        weight_scaling_per_output_type="group",
        weight_group_size=size,
        weight_restrict_scaling_type=restriction,
        weight_bit_width=4,
        dtype=torch.float64,
    )
    weighting = torch.randn(6, 10, dtype=torch.float64)
    quantized = layer.quant_weight()
    (quantized.value * weighting).sum().backward()
    missing = -10 % size
    in_groups = [
        nn.functional.pad(t.detach(), [0, missing]).reshape(6, -1, size)
        for t in (layer.weight, weighting)
    ]
    x, grad = in_groups
    scale = quantized.scale_.detach()
    integer = (x / scale).round()
    steps = integer.clamp(-7, 7) - x / scale  # a clamp that passes gradients
    to_scale = (grad * steps).sum(-1, keepdim=True)
    threshold = 7.0 if restriction == "fp" else None
    slope = 1 / threshold if threshold else scale / x.abs().amax(-1, keepdim=True)
    expected = grad + to_scale * slope * _largest(x)
    expected = expected.flatten(1)[:, :10]
    torch.testing.assert_close(layer.weight.grad, expected)


@plain_rows
def test_gradients_reach_every_element(row: Row) -> None:
    found = gradients(row, keep, torch.float32, fields_of(row))["grad x"]
    assert found.isfinite().all() and found.shape == row.data().shape


# Layers ------------------------------------------------------------------------------------------


@every_weight
@every_layer
def test_layers_compute_with_the_quantized_weight(row: Row, kind: str) -> None:
    layer = layer_of(row, kind, 4)
    x = torch.randn(LAYERS[kind][3])
    expected = layer.inner_forward_impl(x, layer.quant_weight().value, layer.bias)
    assert torch.equal(layer(x), expected)


@every_act
@every_layer
def test_inputs_and_outputs_in_groups_of_channels(row: Row, kind: str) -> None:
    layer, arguments, _, shape = LAYERS[kind]
    torch.manual_seed(0)
    quantized = {"input_quant": row.quantizer, "output_quant": row.quantizer}
    sizes = {"input_group_size": 4, "output_group_size": 4}
    built = layer(*arguments, **quantized, **sizes, return_quant_tensor=True)
    x = torch.randn(shape)
    y = built(x)
    dim = -1 if kind == "linear" else 1
    assert y.group_dim == dim and built.input_quant(x).group_dim == dim
    assert y.scale_.shape[dim % len(shape)] == -(-y.value.shape[dim] // 4)
    operands = (built.input_quant(x).value, built.quant_weight().value, built.bias)
    assert torch.equal(y.value, built.output_quant(built.inner_forward_impl(*operands)).value)
