"""Helpers on tensors and modules, against plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from brevitas.utils import torch_utils
from brevitas.utils.torch_utils import (
    KwargsForwardHook,
    StopFwdException,
    TupleSequential,
    compute_channel_view_shape,
    float_internal_scale,
    init_process_group,
    is_broadcastable,
    kthvalue,
    pad_to_dim,
    padding_to_multiple,
    rename_tensor,
    rename_tensor_,
    same_storage,
    torch_dtype,
    torch_partial_deepcopy,
)


class SumAndDifference(nn.Module):
    def forward(self, a, b):
        return a + b, a - b


class Scaled(nn.Module):
    def forward(self, x, *, factor=1.0):
        return x * factor


def test_tuple_sequential():
    one = torch.ones(1)
    outputs = TupleSequential(SumAndDifference(), SumAndDifference())(one, one)
    assert outputs == (2 * one, 2 * one)
    assert TupleSequential(Scaled(), Scaled())(one) == one
    assert TupleSequential()(one) is one
    assert TupleSequential().output(Scaled(), (one,)) == one


def test_kwargs_forward_hook():
    seen = []
    module = Scaled()
    hooked = KwargsForwardHook(module, lambda *args, **kwargs: seen.append((args, kwargs)))
    output = hooked(torch.ones(1), factor=3.0)
    assert output == 3.0
    ((args, kwargs),) = seen
    assert args[0] is module and args[1] == 1.0 and args[2] is output
    assert kwargs == {"factor": 3.0}
    assert hooked.module is module


def test_stop_fwd_exception():
    assert issubclass(StopFwdException, Exception)


class TestTorchDtype:
    def test_block_and_decorator(self):

        @torch_dtype(torch.float64)
        def make():
            return torch.tensor(1.0)

        for _ in range(2):
            assert make().dtype is torch.float64
        with torch_dtype(torch.float16):
            assert torch.tensor(1.0).dtype is torch.float16
        assert torch.tensor(1.0).dtype is torch.float32

    def test_restores_after_an_error(self):
        with pytest.raises(RuntimeError):
            with torch_dtype(torch.float64):
                raise RuntimeError
        assert torch.get_default_dtype() is torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_kthvalue(dtype, dim, keepdim):
    x = torch.randperm(24, generator=torch.Generator().manual_seed(0)).reshape(4, 6).to(dtype)
    along = -1 if dim is None else dim
    expected = x.sort(dim=along).values.narrow(along, 2, 1)
    values, indices = kthvalue(x, 3, dim, keepdim)
    assert torch.equal(values, expected if keepdim else expected.squeeze(along))
    gathered = x.gather(along, indices if keepdim else indices.unsqueeze(along))
    assert torch.equal(gathered, expected)


def test_kthvalue_out():
    out = torch.empty(2), torch.empty(2, dtype=torch.long)
    kthvalue(torch.tensor([[3.0, 1.0], [5.0, 6.0]]), 1, out=out)
    assert out[0].tolist() == [1.0, 5.0]


def test_compute_channel_view_shape():
    x = torch.zeros(2, 3, 4)
    assert [compute_channel_view_shape(x, dim) for dim in (0, 1, -1)] == [
        (-1, 1, 1),
        (1, -1, 1),
        (1, 1, -1),
    ]


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (3,), (2,), (), (4, 2, 3), (2, 1), (4, 1, 2)])
def test_is_broadcastable(shape):
    try:
        torch.broadcast_shapes(shape, (2, 3))
        expected = True
    except RuntimeError:
        expected = False
    assert is_broadcastable(shape, (2, 3)) is is_broadcastable((2, 3), shape) is expected
    assert is_broadcastable(torch.zeros(shape), torch.zeros(2, 3)) is expected


def test_padding():
    x = torch.arange(24.0).reshape(2, 3, 4)
    for dim in (0, 1, 2, -1, -2):
        size = x.shape[dim]
        padded = pad_to_dim(x, dim, size + 3)
        assert padded.shape[dim] == size + 3
        assert torch.equal(padded.narrow(dim, 0, size), x)
        assert not padded.narrow(dim, size, 3).any()
    assert padding_to_multiple(x, 1, 2).shape == (2, 4, 4)
    assert padding_to_multiple(x, -1, 4) is x
    with pytest.raises(ValueError, match="new_dim=2: expected at least 3"):
        pad_to_dim(x, 1, 2)


class TestFloatInternalScale:
    mantissa, smallest = torch.tensor(3.0), torch.tensor(-9.0)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_the_step_of_the_format(self, dtype):
        x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype) * 100
        steps = float_internal_scale(x, self.mantissa, self.smallest, 0.0)
        expected = [2.0 ** max(math.frexp(abs(element))[1] - 1 - 3, -9) for element in x.tolist()]
        assert steps.tolist() == expected

    def test_zero_has_the_smallest_step_and_no_gradient(self):
        for eps in (0.0, 1e-8):
            x = torch.zeros(3, requires_grad=True)
            steps = float_internal_scale(x, self.mantissa, self.smallest, eps)
            steps.sum().backward()
            assert steps.tolist() == [2.0**-9] * 3
            assert x.grad.tolist() == [0.0] * 3

    def test_gradient_passes_floor(self):
        # d/dx 2 ** (log2|x| - m), with the step in place of the power: step / x.
        x = torch.tensor([0.5, 1.5, -7.0, 1e-6], requires_grad=True)
        mantissa = torch.tensor(3.0, requires_grad=True)
        smallest = torch.tensor(-9.0, requires_grad=True)
        steps = float_internal_scale(x, mantissa, smallest, 0.0)
        steps.sum().backward()
        # Three roundings of log2, exp2 and their derivatives.
        close = {"rtol": 1e-5, "atol": 0.0}
        expected = (steps / x).detach()
        expected[3] = 0.0
        torch.testing.assert_close(x.grad, expected, **close)
        torch.testing.assert_close(mantissa.grad, -math.log(2) * steps[:3].sum().detach(), **close)
        torch.testing.assert_close(smallest.grad, math.log(2) * steps[3].detach(), **close)

    def test_keeps_the_type(self):
        half = float_internal_scale(
            torch.ones(2, dtype=torch.float16), self.mantissa.half(), self.smallest.half(), 1e-8
        )
        assert half.dtype is torch.float16


def test_renaming_does_nothing():
    x = torch.zeros(2, 3)
    assert torch_utils.NAMED_TENSORS_SUPPORTED is False
    assert rename_tensor(x, "a", "b") is x
    assert rename_tensor_(x, None) is x


def test_same_storage():
    x = torch.zeros(2, 3)
    for view in (x, x[1], x.view(-1), x.detach(), x.t()):
        assert same_storage(x, view)
    assert not same_storage(x, x.clone())
    assert not same_storage(torch.zeros(0), torch.zeros(0))
    meta = torch.zeros(2, device="meta")
    assert same_storage(meta, meta[1:])
    assert not same_storage(meta, torch.zeros(2, device="meta"))


def test_torch_partial_deepcopy():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    clone = torch_partial_deepcopy(model)
    for old, new in zip(model.parameters(), clone.parameters(), strict=True):
        assert new is not old and same_storage(new, old)
        assert isinstance(new, nn.Parameter) and new.requires_grad == old.requires_grad
    assert clone[2].weight is clone[0].weight
    assert not same_storage(clone[1].running_mean, model[1].running_mean)


def test_init_process_group_does_nothing_in_a_single_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    init_process_group("gloo")
    monkeypatch.setenv("WORLD_SIZE", "1")
    init_process_group("gloo")
    assert not torch.distributed.is_initialized()


def test_init_process_group_joins_once(monkeypatch):
    joined = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "init_process_group", joined.append)
    init_process_group("gloo")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    init_process_group("gloo")
    assert joined == ["gloo"]
