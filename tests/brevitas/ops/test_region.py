"""Compiled regions against the same program run eagerly, in every mode of autograd."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from brevitas.ops import _kernel
from brevitas.ops.fake_quant import FakeQuantPlan, fake_quant
from brevitas.ops.layout import layout_of
from brevitas.ops.region import Region, can_run_region


def program(x, threshold, zero_point, bit_width):
    """4-bit-like quantization whose scale is an output of its own."""
    scale = threshold.abs() / 2 ** (bit_width - 1)
    upper = 2 ** (bit_width - 1) - 1
    return fake_quant(x, scale, zero_point, -upper - 1, upper, FakeQuantPlan()), scale


@pytest.fixture(scope="module")
def region():
    """One region for the module, so that each kernel is compiled once."""
    return Region(program)


def arguments(shape, threshold_shape, dtype=torch.float32):
    x = (3 * torch.randn(shape, dtype=dtype)).requires_grad_()
    threshold = (torch.rand(threshold_shape) + 1).requires_grad_()
    return x, threshold, None, torch.tensor(3.0)


def run(region, x, threshold, zero_point, bit_width):
    layout = layout_of(x, threshold.shape)
    return region(layout, (threshold.shape,), x, threshold, zero_point, bit_width)


def gradients(outputs, inputs, **kwargs):
    weights = [torch.linspace(-1, 2, o.numel()).reshape(o.shape).to(o.dtype) for o in outputs]
    return torch.autograd.grad(outputs, inputs, weights, **kwargs)


def assert_equal_up_to_sums(actual, expected):
    # A gradient of a scale is a sum of as many terms as the tensor has elements, in another order.
    for a, e in zip(actual, expected, strict=True):
        a, e = a.detach(), e.detach()
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(e.abs().max()))


SHAPES = [
    ((4, 5), ()),
    ((64, 64), ()),
    ((2, 3, 1), (1,)),
    ((64, 64), (64, 1)),
    ((3, 2, 2), (3, 1, 1)),
]


@pytest.mark.parametrize(("shape", "threshold_shape"), SHAPES)
def test_equals_the_program_at_every_size(region, shape, threshold_shape):
    tensors = arguments(shape, threshold_shape)
    outputs, expected = run(region, *tensors), program(*tensors)
    for output, other in zip(outputs, expected, strict=True):
        assert torch.equal(output, other) and output.shape == other.shape
    actual = gradients(outputs, tensors[:2])
    assert_equal_up_to_sums(actual, gradients(expected, tensors[:2]))


def test_one_forward_and_one_backward_kernel_serve_every_size_mode_and_memory(monkeypatch):
    compiled = []
    original = _kernel.standalone_compile
    monkeypatch.setattr(
        _kernel, "standalone_compile", lambda *a: compiled.append(1) or original(*a)
    )
    region, threads = Region(program), torch.get_num_threads()
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    inputs = [torch.randn(4, 5), torch.randn(70, 70), torch.randn(9)[::2], image, torch.randn(8192)]
    for x in inputs:
        tensors = (x.requires_grad_(), *arguments((2, 2), ())[1:])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs, expected = run(region, *tensors), program(*tensors)
        assert torch.equal(outputs[0], expected[0]) and outputs[0].stride() == expected[0].stride()
        # An expanded gradient, as that of a sum.
        ours, theirs = (torch.autograd.grad(y.sum(), tensors[:2]) for y, _ in (outputs, expected))
        assert_equal_up_to_sums(ours, theirs)
        with torch.inference_mode():
            torch.set_num_threads(threads + 1)
            assert torch.equal(run(region, *tensors)[0], expected[0])
            torch.set_num_threads(threads)
    assert len(compiled) == region.kernels_compiled == 2


def test_a_parameter_computed_from_the_input():
    """With and without a graph of the gradient: the way through the parameter counts once."""
    region, x = Region(program), torch.randn(4, 5, requires_grad=True)
    grads = []
    for function in (lambda *t: run(region, *t), program):
        y, _ = function(x, x.abs().mean(), None, torch.tensor(3.0))
        loss = y.square().sum()
        grads += torch.autograd.grad(loss, x, retain_graph=True)
        grads += torch.autograd.grad(loss, x, create_graph=True)
    for gradient in grads[:-1]:
        assert_equal_up_to_sums([gradient], grads[-1:])


def test_outputs_are_ordinary_tensors(region):
    tensors = arguments((4, 5), ())
    x, threshold = tensors[:2]
    y, scale = run(region, x, threshold.detach(), *tensors[2:])
    assert y.requires_grad and not scale.requires_grad
    y.add_(1), scale.mul_(2)
    (actual,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(actual, torch.autograd.grad(program(*tensors)[0].sum(), x)[0])


def test_an_argument_that_is_returned_is_copied():
    region, x, scale = (
        Region(lambda x, scale: (x * scale, scale)),
        torch.randn(3),
        torch.tensor(2.0),
    )
    _, other = region(layout_of(x, scale.shape), (scale.shape,), x, scale)
    other.add_(1)
    assert scale.item() == 2.0


def test_saves_its_inputs_and_nothing_else(region):
    x, threshold, _, bits = arguments((4, 5), ())
    saved = []
    with saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        run(region, x, threshold, None, bits)
    assert sorted(t.numel() for t in saved) == [1, 1, 20]
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (x, threshold, bits)}


def test_backward_runs_twice_and_is_differentiable(region):
    tensors = arguments((4, 5), ())
    outputs, expected = run(region, *tensors), program(*tensors)
    first = gradients(outputs, tensors[:2], retain_graph=True)
    second = gradients(outputs, tensors[:2], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    twice = []
    for results in (outputs, expected):
        of_x, of_threshold = gradients(results, tensors[:2], create_graph=True)
        twice.append(torch.autograd.grad(of_threshold.square() + of_x.sum(), tensors[:1]))
    assert_equal_up_to_sums(*twice)


@pytest.mark.parametrize(
    "mode",
    [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)],
    ids=["no_grad", "inference_mode", "autocast"],
)
def test_modes(region, mode):
    tensors = arguments((4, 5), ())
    with mode():
        outputs = run(region, *tensors)
        expected = program(*tensors)
    assert all(torch.equal(o, e) for o, e in zip(outputs, expected, strict=True))
    assert outputs[0].requires_grad == expected[0].requires_grad


@pytest.mark.parametrize("reentrant", [True, False])
def test_first_call_inside_a_checkpoint(reentrant):
    """Compiling inside a checkpoint must not leave tensors of its own among those saved."""
    tensors, fresh = arguments((4, 5), ()), Region(program)
    y = checkpoint(lambda x: run(fresh, x, *tensors[1:])[0], tensors[0], use_reentrant=reentrant)
    y.square().sum().backward()
    actual, expected = tensors[0].grad, program(*tensors)[0].square().sum()
    assert torch.equal(actual, torch.autograd.grad(expected, tensors[0])[0])


def test_tracers_see_plain_operations():
    x = torch.ones(3)
    assert can_run_region(x) and not can_run_region(x.int()) and not can_run_region(x.to("meta"))
    assert not can_run_region(torch.ones(3, dtype=torch.complex64).conj().imag)
    seen = []
    torch.func.vmap(lambda row: seen.append(can_run_region(row)) or row)(torch.ones(2, 3))
    with pytest.warns(DeprecationWarning, match="trace"):
        torch.jit.trace(lambda y: seen.append(can_run_region(y)) or y + 1, x, check_trace=False)
    with torch.device("cpu"):
        seen.append(can_run_region(x))
    torch.compile(lambda y: y + can_run_region(y), backend="eager", fullgraph=True)(x)
    assert seen == [False, False, False]
