"""SignSGD: the signs of what `torch.optim.SGD` would step along."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from brevitas.optim.sign_sgd import SignSGD, sign_sgd

OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.5},
    {"weight_decay": 0.3},
    {"momentum": 0.5, "maximize": True},
]


def expected_steps(start, gradients, lr, momentum=0.0, weight_decay=0.0, dampening=0.0, **flags):
    """The formula of the class, written out."""
    p, m = start.clone(), None
    for gradient in gradients:
        d = (-gradient if flags.get("maximize") else gradient) + weight_decay * p
        if momentum:
            m = d if m is None else momentum * m + (1 - dampening) * d
            d = d + momentum * m if flags.get("nesterov") else m
        p = p - lr * torch.sign(d)
    return p


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("foreach", [None, False, True])
def test_steps_are_those_of_the_formula(options, foreach):
    starts = [torch.randn(5), torch.randn(2, 3)]
    parameters = [torch.nn.Parameter(start.clone()) for start in starts]
    optimizer = SignSGD(parameters, lr=0.1, foreach=foreach, **options)
    gradients = [[torch.randn(start.shape) for _ in range(5)] for start in starts]
    for step in range(5):
        for parameter, own in zip(parameters, gradients, strict=True):
            parameter.grad = own[step].clone()
        optimizer.step()
    for parameter, start, own in zip(parameters, starts, gradients, strict=True):
        torch.testing.assert_close(
            parameter.detach(), expected_steps(start, own, 0.1, **options), rtol=0, atol=1e-6
        )


@given(st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_the_size_of_a_gradient_does_not_matter(seed, factor):
    gradient = torch.randn(6, generator=torch.Generator().manual_seed(seed))
    results = []
    for scale in (1.0, factor):
        parameter = torch.nn.Parameter(torch.zeros(6))
        parameter.grad = gradient * scale
        SignSGD([parameter], lr=0.5).step()
        results.append(parameter.detach())
    assert torch.equal(*results) and torch.equal(results[0], -0.5 * gradient.sign())


def test_a_gradient_of_zero_moves_nothing():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.tensor([0.0, 1e-30, -1e-30])
    SignSGD([parameter], lr=0.25).step()
    assert parameter.tolist() == [1.0, 0.75, 1.25]


@pytest.mark.parametrize("options", OPTIONS[:5])
def test_the_loss_falls(options):
    """To within the length of a step, which the learning rate sets."""
    target = torch.randn(20)
    parameter = torch.nn.Parameter(torch.zeros(20))
    optimizer = SignSGD([parameter], lr=0.01, **{**options, "weight_decay": 0.0})
    for _ in range(600):
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
    # With momentum a weight overshoots for as many steps as the momentum remembers.
    limit = 0.01 * (20 if "momentum" in options else 1.01)
    assert float((parameter.detach() - target).abs().max()) < limit


def test_state_dict_round_trip():
    gradients = [torch.randn(4) for _ in range(6)]

    def run(parameter, optimizer, some):
        for gradient in some:
            parameter.grad = gradient.clone()
            optimizer.step()

    def make():
        parameter = torch.nn.Parameter(torch.zeros(4))
        return parameter, SignSGD([parameter], lr=0.1, momentum=0.9)

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


def test_groups_have_their_own_options():
    slow, fast = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    optimizer = SignSGD([{"params": [slow]}, {"params": [fast], "lr": 1.0}], lr=0.1)
    slow.grad = fast.grad = torch.tensor([3.0, -4.0])
    optimizer.step()
    assert fast.tolist() == [-1.0, 1.0]
    torch.testing.assert_close(slow.detach(), torch.tensor([-0.1, 0.1]))


def test_a_step_is_outside_of_autograd():
    parameter, idle = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = SignSGD([parameter, idle], lr=0.1, momentum=0.9)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).requires_grad and calls == [True]
    assert parameter.is_leaf and parameter.grad_fn is None
    assert not optimizer.state[parameter]["momentum_buffer"].requires_grad
    assert idle.tolist() == [1.0, 1.0] and idle not in optimizer.state


def test_a_differentiable_step():
    """The step length is part of the graph: d p / d weight_decay is not, a sign has no slope."""
    start = torch.ones(2, requires_grad=True)
    parameter = start * 1.0
    parameter.grad = torch.tensor([2.0, -3.0])
    SignSGD([parameter], lr=0.1, differentiable=True).step()
    parameter.sum().backward()
    assert start.grad.tolist() == [1.0, 1.0]


def test_the_function():
    weight, gradient, buffers = torch.zeros(2), torch.tensor([4.0, -4.0]), [None]
    options = {"weight_decay": 0.0, "lr": 0.5, "dampening": 0.0, "nesterov": False}
    sign_sgd([weight], [gradient], buffers, momentum=0.9, maximize=False, **options)
    assert weight.tolist() == [-0.5, 0.5] and torch.equal(buffers[0], gradient)
    stop = torch.tensor(1.0)
    options |= {"momentum": 0.9, "maximize": False}
    sign_sgd([weight], [gradient], buffers, found_inf=stop, **options)
    assert weight.tolist() == [-0.5, 0.5]
    sign_sgd([weight], [gradient * 8], [None], grad_scale=torch.tensor(8.0), **options)
    assert weight.tolist() == [-1.0, 1.0]


def test_a_sparse_gradient():
    parameter = torch.nn.Parameter(torch.zeros(4, 2))
    rows, entries = torch.tensor([[2, 0, 2]]), torch.tensor([[1.0, 1], [-2, 2], [-3, 1]])
    with torch.sparse.check_sparse_tensor_invariants():
        parameter.grad = torch.sparse_coo_tensor(rows, entries, (4, 2))
    SignSGD([parameter], lr=0.5).step()
    # Row 2 has two entries, whose sum decides.
    assert parameter.tolist() == [[0.5, -0.5], [0.0, 0.0], [0.5, -0.5], [0.0, 0.0]]


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1.0},
        {"momentum": -0.1},
        {"weight_decay": -0.1},
        {"nesterov": True},
        {"fused": True},
    ],
)
def test_options_out_of_range(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value!r}.*expected"):
        SignSGD([torch.nn.Parameter(torch.zeros(1))], **options)
