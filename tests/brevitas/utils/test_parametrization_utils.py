"""Weights that are rotated or scaled by a parametrization."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import brevitas.nn as qnn
from brevitas.optim import CaileySGD
from brevitas.utils.parametrization_utils import (
    RotationWeightParametrization,
    ScaleWeightParametrization,
    extract_trainable_rotation_matrices,
)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, generator=generator))[0]


def multiply(tensor, matrix, K):
    return tensor @ matrix


# Rotation ----------------------------------------------------------------------------------------


def test_an_axis_is_rotated():
    matrix, weight = rotation(4), torch.randn(4, 4)
    for axis, expected in ((1, weight @ matrix), (0, (weight.t() @ matrix).t())):
        part = RotationWeightParametrization(matrix, multiply, axis)
        torch.testing.assert_close(part(weight), expected)
    # The bias of a layer has one dimension, whatever the axis.
    bias = torch.randn(4)
    for axis in (0, 1):
        part = RotationWeightParametrization(matrix, multiply, axis)
        torch.testing.assert_close(part(bias), bias @ matrix)


@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_are_rotated_each(axis):
    matrix, weight = rotation(4), torch.randn(3, 12)
    part = RotationWeightParametrization(matrix, multiply, axis, hidden_dim=4)
    given = weight if axis == 1 else weight.t()
    expected = torch.cat([block @ matrix for block in weight.split(4, 1)], 1)
    expected = expected if axis == 1 else expected.t()
    torch.testing.assert_close(part(given), expected)


def test_the_function_gets_what_it_needs():
    calls = []

    def record(tensor, matrix, K):
        calls.append((tuple(tensor.shape), matrix is part.rot_mat, K))
        return tensor

    part = RotationWeightParametrization(rotation(4), record, 1, K=12)
    part(torch.zeros(3, 4))
    assert calls == [((3, 4), True, 12)]


def test_a_parameter_is_trained_and_saved_a_tensor_is_not():
    trained = RotationWeightParametrization(nn.Parameter(rotation(4)), multiply, 1)
    fixed = RotationWeightParametrization(rotation(4), multiply, 1)
    assert list(trained.state_dict()) == ["rot_mat"] and list(trained.parameters())
    assert list(fixed.state_dict()) == [] and not list(fixed.parameters())


@pytest.mark.parametrize("axis", [-1, 2, None])
def test_another_axis(axis):
    with pytest.raises(ValueError, match=f"axis={axis}: expected 0"):
        RotationWeightParametrization(rotation(2), multiply, axis)


# Scale -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("axis", "shape"), [(0, (4, 3)), (1, (2, 4, 3, 3)), (0, (4,))])
def test_an_axis_is_scaled(axis, shape, inverse):
    factor, weight = torch.rand(4) + 0.5, torch.randn(shape)
    part = ScaleWeightParametrization(factor, axis, use_inverse_scaling=inverse)
    around = [1] * len(shape)
    around[axis] = 4
    expected = factor.reshape(around)
    torch.testing.assert_close(part(weight), weight / expected if inverse else weight * expected)


def test_a_part_of_the_axis_by_a_part_of_the_factors():
    weight, factor = torch.ones(2, 6), torch.arange(2.0, 8.0)
    part = ScaleWeightParametrization(factor, 1, start_end_idxs=(1, 4), slice_idxs=(2, 5))
    assert part(weight)[0].tolist() == [1.0, 4.0, 5.0, 6.0, 1.0, 1.0]
    part = ScaleWeightParametrization(factor[:3], 1, start_end_idxs=(1, 4))
    assert part(weight)[1].tolist() == [1.0, 2.0, 3.0, 4.0, 1.0, 1.0]
    part = ScaleWeightParametrization(factor, 1, start_end_idxs=(1, 4))
    with pytest.raises(ValueError, match="6 numbers for 3 elements of axis 1"):
        part(weight)


def test_a_scale_is_trained():
    part = ScaleWeightParametrization(nn.Parameter(torch.ones(3)), 1)
    weight = torch.randn(2, 3)
    part(weight).sum().backward()
    torch.testing.assert_close(part.scaling_factor.grad, weight.sum(0))
    assert list(part.state_dict()) == ["scaling_factor"]


# In a model --------------------------------------------------------------------------------------


def test_rotations_that_train_are_found_once():
    shared, own = nn.Parameter(rotation(4)), nn.Parameter(rotation(4, 1))
    frozen = nn.Parameter(rotation(4, 2), requires_grad=False)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
    for layer, matrix in zip(model, (shared, shared, own, frozen, rotation(4)), strict=True):
        part = RotationWeightParametrization(matrix, multiply, 1)
        parametrize.register_parametrization(layer, "weight", part)
    first, second = extract_trainable_rotation_matrices(model)
    assert first is shared and second is own


def test_a_rotation_between_quantized_layers_is_trained():
    """It cancels in floating point; training finds one that quantizes better, and stays one."""
    torch.manual_seed(0)
    first = qnn.QuantLinear(8, 8, bias=False, weight_bit_width=3)
    second = qnn.QuantLinear(8, 8, bias=False, weight_bit_width=3)
    model, x = nn.Sequential(first, second), torch.randn(64, 8)
    target = second.weight.detach() @ first.weight.detach()
    matrix = nn.Parameter(torch.eye(8))
    for layer, axis in ((first, 0), (second, 1)):
        part = RotationWeightParametrization(matrix, multiply, axis)
        parametrize.register_parametrization(layer, "weight", part)
    torch.testing.assert_close(second.weight @ first.weight, target)
    optimizer = CaileySGD(extract_trainable_rotation_matrices(model), lr=0.05, stiefel=True)
    losses = []
    for _ in range(60):
        loss = (model(x) - x @ target.t()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses) < 0.9 * losses[0]
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(8), rtol=0, atol=1e-5)
    torch.testing.assert_close(second.weight @ first.weight, target, rtol=1e-4, atol=1e-4)
