"""Cayley SGD: iterates stay orthonormal, follow the paper, and descend."""

from __future__ import annotations

import copy
import io
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from brevitas.optim.cailey_sgd import (
    CaileySGD,
    cayley_loop,
    epsilon,
    matrix_norm_one,
    norm,
    qr_retraction,
    unit,
)

EPS = torch.finfo(torch.float32).eps


def orthonormal(rows: int, columns: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(columns, rows, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(matrix)[0].t().float().contiguous()


def skew(size: int, seed: int = 0) -> Tensor:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
    return matrix - matrix.t()


def off_the_manifold(matrix: Tensor) -> float:
    rows = matrix.detach().reshape(matrix.shape[0], -1).double()
    return float((rows @ rows.t() - torch.eye(rows.shape[0])).abs().max())


# Functions ---------------------------------------------------------------------------------------


def test_norms():
    matrix = torch.randn(3, 4)
    for dim in (0, 1):
        expected = matrix.square().sum(dim, keepdim=True).sqrt()
        torch.testing.assert_close(norm(matrix, dim), expected)
        scaled, norms = unit(matrix, dim)
        torch.testing.assert_close(norms, expected)
        torch.testing.assert_close(scaled * norms, matrix)
        torch.testing.assert_close(norm(scaled, dim), torch.ones_like(expected))
    assert torch.equal(matrix_norm_one(matrix), matrix.abs().sum(0).max())
    assert unit(torch.zeros(1, 2))[0].tolist() == [[0.0, 0.0]] and epsilon == 1e-8


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 100))
def test_qr_retraction(rows, more, seed):
    matrix = torch.randn(rows, rows + more, generator=torch.Generator().manual_seed(seed))
    retracted = qr_retraction(matrix)
    # A Householder factorisation is off by a few roundings for each of its reflections.
    assert off_the_manifold(retracted) < 8 * EPS * (rows + more)
    # Rows span the same as the first rows of the matrix: the triangle of products below is full.
    products = (matrix @ retracted.t()).triu(1)
    assert float(products.abs().max()) < 8 * EPS * (rows + more) * float(matrix.norm())
    again = qr_retraction(retracted)
    torch.testing.assert_close(again, retracted, rtol=0, atol=8 * EPS * (rows + more))


@pytest.mark.parametrize("iterations", [1, 2, 5, 30])
def test_the_loop_approaches_the_cayley_transform(iterations):
    X, W, t = orthonormal(3, 5).t(), skew(5), 0.05
    turned = cayley_loop(X, W, W @ X, t, iterations)
    eye = torch.eye(5)
    exact = torch.linalg.solve(eye - t / 2 * W, (eye + t / 2 * W) @ X).t()
    # Each iteration makes the error t / 2 * |W| times smaller; the first guess is off by t**2.
    contraction = t / 2 * float(torch.linalg.matrix_norm(W, 2))
    first = float((X + t * (W @ X) - exact.t()).norm())
    limit = first * contraction**iterations + 8 * EPS
    assert float((turned - exact).norm()) <= limit
    assert off_the_manifold(exact) < 16 * EPS


# Steps -------------------------------------------------------------------------------------------


def paper_steps(start: Tensor, gradients: list[Tensor], lr: float, momentum: float, iters: int):
    """Algorithm 1 of the paper in float64, for a parameter whose rows are orthonormal."""
    X, M = start.t().double(), torch.zeros_like(start.t().double())
    for gradient in gradients:
        M = momentum * M - gradient.t().double()
        hat = M @ X.t() - 0.5 * X @ (X.t() @ M @ X.t())
        W = hat - hat.t()
        alpha = min(lr, 2 * 0.5 / (float(W.abs().sum(0).max()) + 1e-8))
        Y = X + alpha * M
        for _ in range(iters):
            Y = X + alpha / 2 * W @ (X + Y)
        X, M = Y, W @ X
    return X.t()


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (1, 5), (3, 2, 2)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("iters", [2, 5])
def test_steps_are_those_of_the_paper(shape, momentum, iters):
    start = orthonormal(shape[0], torch.Size(shape[1:]).numel())
    parameter = torch.nn.Parameter(start.reshape(shape).clone())
    optimizer = CaileySGD([parameter], lr=0.1, momentum=momentum, stiefel=True, iters=iters)
    gradients = [torch.randn(shape) for _ in range(6)]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = paper_steps(start, [g.reshape(start.shape) for g in gradients], 0.1, momentum, iters)
    difference = (parameter.detach().reshape(start.shape) - expected).abs().max()
    # Six steps of some twenty roundings, on numbers of at most 1 and gradients of some.
    assert float(difference) < 6 * 100 * EPS


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 6),
    st.integers(0, 4),
    st.floats(0.001, 10.0),
    st.sampled_from([0.0, 0.9]),
    st.integers(0, 1000),
)
def test_rows_stay_orthonormal(rows, more, lr, momentum, seed):
    """Whatever the gradients and the learning rate, step after step."""
    generator = torch.Generator().manual_seed(seed)
    parameter = torch.nn.Parameter(orthonormal(rows, rows + more, seed))
    optimizer = CaileySGD([parameter], lr=lr, momentum=momentum, stiefel=True, iters=40)
    for _ in range(10):
        parameter.grad = 10 * torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    # The loop converges at least like 2**-iters, as lr * |W| / 2 is at most 1 / 2.
    assert off_the_manifold(parameter) < 1e-4


def test_errors_do_not_add_up():
    parameter = torch.nn.Parameter(orthonormal(4, 6))
    optimizer = CaileySGD([parameter], lr=0.01, stiefel=True)
    worst = 0.0
    for _ in range(500):
        parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
        worst = max(worst, off_the_manifold(parameter))
    # The rows are made orthonormal every hundred steps; five iterations leave less than 1e-6 each.
    assert worst < 1e-4


def test_a_start_off_the_manifold_is_moved_onto_it():
    start = torch.randn(3, 5)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = CaileySGD([parameter], stiefel=True)
    parameter.grad = torch.zeros(3, 5)
    optimizer.step()
    assert off_the_manifold(parameter) < 16 * EPS
    torch.testing.assert_close(parameter.detach(), qr_retraction(start))


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(3, 3), (2, 6)])
def test_the_loss_falls_to_the_nearest_rotation(shape, momentum):
    """Orthogonal Procrustes: the best rotation is known in closed form."""
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(shape, generator=generator)
    parameter = torch.nn.Parameter(qr_retraction(target) + 0.0)
    optimizer = CaileySGD([parameter], lr=0.1, momentum=momentum, stiefel=True)
    losses = []
    for _ in range(300):
        loss = (parameter - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    u, _, vh = torch.linalg.svd(target, full_matrices=False)
    best = float((u @ vh - target).square().sum())
    if momentum == 0:
        assert all(after <= before + 1e-5 for before, after in pairwise(losses))
    assert losses[0] > best + 1e-3 and losses[-1] < best + 1e-3


def test_what_cannot_be_orthonormal_is_trained_by_sgd():
    """More rows than columns, one dimension, or a group that does not ask for it."""
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    for shape, stiefel in (((5, 3), True), ((4,), True), ((3, 5), False)):
        start = torch.randn(shape)
        ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
        first = CaileySGD([ours], **options, stiefel=stiefel)
        second = torch.optim.SGD([theirs], **options)
        for _ in range(4):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            first.step()
            second.step()
        torch.testing.assert_close(ours, theirs)


def test_groups_have_their_own_options():
    rotation = torch.nn.Parameter(orthonormal(3, 3))
    weight = torch.nn.Parameter(torch.randn(3, 3))
    groups = [{"params": [rotation], "stiefel": True, "lr": 0.5}, {"params": [weight]}]
    optimizer = CaileySGD(groups, lr=0.1)
    before = weight.detach().clone()
    rotation.grad, weight.grad = torch.randn(3, 3), torch.randn(3, 3)
    optimizer.step()
    assert off_the_manifold(rotation) < 16 * EPS * 3
    torch.testing.assert_close(weight.detach(), before - 0.1 * weight.grad)
    for option in ("lr", "momentum", "stiefel", "iters", "grad_clip"):
        assert option in optimizer.param_groups[0]


def test_a_scheduler_reaches_the_step():
    rotation = torch.nn.Parameter(orthonormal(3, 3))
    optimizer = CaileySGD([rotation], lr=0.1, stiefel=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.0)
    before = rotation.detach().clone()
    rotation.grad = torch.randn(3, 3)
    optimizer.step()
    schedule.step()
    torch.testing.assert_close(rotation.detach(), before, rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("stiefel", [True, False])
def test_state_dict_round_trip(dtype, stiefel):
    """A run that is saved, and resumed elsewhere, goes on as if it had not stopped."""

    def make():
        parameter = torch.nn.Parameter(orthonormal(3, 5))
        options = {"lr": 0.1, "momentum": 0.9, "stiefel": stiefel, "dtype": dtype}
        return parameter, CaileySGD([parameter], **options)

    gradients = [torch.randn(3, 5) for _ in range(6)]

    def run(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    straight, optimizer = make()
    run(straight, optimizer, gradients)
    first, optimizer = make()
    run(first, optimizer, gradients[:3])
    stream = io.BytesIO()
    torch.save((first.detach(), optimizer.state_dict()), stream)
    stream.seek(0)
    value, state = torch.load(stream, weights_only=True)
    second, resumed = make()
    second.data.copy_(value)
    resumed.load_state_dict(state)
    run(second, resumed, gradients[3:])
    assert torch.equal(second, straight)
    if dtype is not None:
        assert resumed.state[second]["weight_buffer"].dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(dtype):
    start = orthonormal(3, 5)
    rounded = torch.nn.Parameter(start.to(dtype))
    exact = torch.nn.Parameter(start.clone())
    kept = torch.nn.Parameter(start.to(dtype))
    optimizers = [
        CaileySGD([rounded], lr=1e-3, stiefel=True),
        CaileySGD([exact], lr=1e-3, stiefel=True),
        CaileySGD([kept], lr=1e-3, stiefel=True, dtype="float32"),
    ]
    for _ in range(20):
        gradient = torch.randn(3, 5)
        for parameter, optimizer in zip((rounded, exact, kept), optimizers, strict=True):
            parameter.grad = gradient.to(parameter.dtype)
            optimizer.step()
    assert rounded.dtype == kept.dtype == dtype and bool(rounded.isfinite().all())
    # Kept in float32 between steps, it differs by the rounding of start, gradients and result.
    assert float((kept - exact).detach().abs().max()) < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("stiefel", [True, False])
def test_a_long_gradient_is_scaled_to_the_limit(stiefel):
    gradient = 100 * torch.randn(3, 3)
    results = []
    for limit, long in ((None, gradient / gradient.norm()), (True, gradient), (1.0, gradient)):
        parameter = torch.nn.Parameter(orthonormal(3, 3))
        optimizer = CaileySGD([parameter], lr=0.1, stiefel=stiefel, grad_clip=limit)
        parameter.grad = long.clone()
        optimizer.step()
        results.append(parameter.detach())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])


def test_a_step_is_outside_of_autograd():
    parameter = torch.nn.Parameter(orthonormal(3, 3))
    idle = torch.nn.Parameter(orthonormal(3, 3))
    optimizer = CaileySGD([parameter, idle], stiefel=True, momentum=0.9)
    target = torch.randn(3, 3)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (parameter - target).square().sum()
        loss.backward()
        return loss

    version, before = parameter._version, idle.detach().clone()
    loss = optimizer.step(closure)
    assert calls == [True] and loss.requires_grad and torch.is_grad_enabled()
    assert parameter.is_leaf and parameter.requires_grad and parameter.grad_fn is None
    assert parameter._version > version
    assert not optimizer.state[parameter]["momentum_buffer"].requires_grad
    # Without a gradient there is no step, and nothing to remember.
    assert torch.equal(idle, before) and idle not in optimizer.state


def test_a_parameter_that_is_not_contiguous():
    parameter = torch.nn.Parameter(orthonormal(3, 3).t())
    assert not parameter.is_contiguous()
    twin = torch.nn.Parameter(parameter.detach().clone().contiguous())
    for p in (parameter, twin):
        torch.manual_seed(0)
        optimizer = CaileySGD([p], stiefel=True)
        p.grad = torch.randn(3, 3)
        optimizer.step()
    torch.testing.assert_close(parameter.detach(), twin.detach())


def test_copies_are_independent():
    parameter = torch.nn.Parameter(orthonormal(3, 3))
    optimizer = CaileySGD([parameter], stiefel=True, momentum=0.5)
    other, duplicate = copy.deepcopy((parameter, optimizer))
    before = parameter.detach().clone()
    other.grad = torch.randn(3, 3)
    duplicate.step()
    assert torch.equal(parameter, before) and not torch.equal(other, before)


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"iters": 0},
        {"iters": 2.5},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        {"dtype": "float128"},
        {"dtype": "randn"},
        {"dtype": "int32"},
    ],
)
def test_options_out_of_range(options):
    parameter = torch.nn.Parameter(torch.eye(2))
    name, value = next(iter(options.items()))
    with pytest.raises(ValueError, match=f"{name}={value!r}.*: expected"):
        CaileySGD([parameter], **options)
    with pytest.raises(ValueError, match=f"{name}="):
        CaileySGD([{"params": [parameter], **options}])
