"""What holds for every layer: dtypes, hooks, gradients, autocast, inference, evaluation."""

from __future__ import annotations

import pytest
import torch

from brevitas.quant_tensor import plain
from layer_rows import ROWS, Kind
from layers import build, build_as, data, enlarged, leaf, numbers, run, trained

every_row = pytest.mark.parametrize("name", ROWS)


def assert_of(dtype, layer):
    named = [*layer.named_parameters(), *layer.named_buffers()]
    assert {key: tensor.dtype for key, tensor in named if tensor.dtype != dtype} == {}


def loss(name, layer, x):
    return sum(plain(y).float().square().sum() for y in run(name, layer, x))


@every_row
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_reaches_everything(name, dtype):
    layer, x = build_as(name, dtype=dtype), leaf(data(name, dtype=dtype))
    assert_of(dtype, layer)
    outputs = run(name, layer, x)
    assert {output.dtype for output in outputs} == {dtype}
    sum(plain(output).sum() for output in outputs).backward()
    gradient = plain(x).grad
    assert (gradient is None) == (ROWS[name].kind is Kind.PLACES)
    assert gradient is None or gradient.dtype == dtype
    assert {output.dtype for output in run(name, layer.eval(), x)} == {dtype}


@every_row
def test_conversion_reaches_everything(name):
    layer = trained(name).double()
    assert_of(torch.float64, layer)
    outputs = run(name, layer, data(name, dtype=torch.float64))
    assert {output.dtype for output in outputs} == {torch.float64}


@every_row
def test_hooks_are_called(name):
    layer, calls = build(name), []
    layer.register_forward_pre_hook(lambda *_: calls.append("before"))
    layer.register_forward_hook(lambda *_: calls.append("after"))
    expected = ["before", "after"]
    # PyTorch warns of a backward hook where it sees no input with a gradient.
    goes_back = ROWS[name].kind is Kind.REAL and name != "cat"
    if goes_back:
        layer.register_full_backward_hook(lambda *_: calls.append("backward"))
        expected.append("backward")
    output = loss(name, layer, leaf(data(name)))
    if goes_back:
        output.backward()
    assert calls == expected
    assert repr(layer).startswith(type(layer).__name__)


@every_row
def test_every_parameter_gets_a_gradient(name):
    layer, x = build(name), leaf(data(name))
    loss(name, layer, x).backward()
    assert [key for key, p in layer.named_parameters() if p.grad is None] == []
    assert ROWS[name].kind is Kind.PLACES or bool(plain(x).grad.isfinite().all())


@every_row
def test_without_gradients_values_are_the_same(name):
    layer, x = trained(name).eval(), leaf(data(name))
    expected = numbers(name, layer, x)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            result = numbers(name, layer, x)
            assert not result.requires_grad and torch.equal(result, expected)
    layer.train()
    with torch.inference_mode():
        run(name, layer, x)


@every_row
def test_autocast(name):
    layer, x = build(name), leaf(data(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = run(name, layer, x)
    total = sum(plain(output).float().sum() for output in outputs)
    if total.requires_grad:
        total.backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or parameter.grad.dtype == torch.float32
        assert parameter.grad is None or bool(parameter.grad.isfinite().all())
    assert bool(total.isfinite())


@every_row
def test_evaluation_is_deterministic_and_frozen(name):
    layer = trained(name).eval()
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    first = numbers(name, layer, data(name))
    run(name, layer, enlarged(data(name, seed=5), 100))
    assert torch.equal(first, numbers(name, layer, data(name)))
    assert all(torch.equal(state[key], value) for key, value in layer.state_dict().items())


@every_row
def test_batch_of_size_zero(name):
    layer, x = trained(name).eval(), data(name)
    batch = 1 if name.startswith(("rnn", "attention_packed", "attention_separate")) else 0
    batch = 1 if name in ("lstm", "lstm_tied") else batch
    empty = x.narrow(batch, 0, 0)
    full, results = run(name, layer, x), run(name, layer, empty)
    assert len(full) == len(results)
    for ours, whole in zip(results, full, strict=True):
        assert ours.numel() == 0 and ours.dim() == whole.dim()
