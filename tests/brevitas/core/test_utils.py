"""Stateless buffers, slices and in-place updates."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from brevitas.core.utils import (
    ParameterWrapper,
    SingleArgStatelessBuffer,
    SliceTensor,
    StatelessBuffer,
    inplace_momentum_update,
    inplace_tensor_add,
    inplace_tensor_mul,
)


def test_buffer_leaves_no_key_and_needs_none() -> None:
    buffer = StatelessBuffer(torch.tensor(3.0))
    assert list(buffer.state_dict()) == []
    buffer.load_state_dict({}, strict=True)
    assert buffer().item() == 3.0 and not buffer().requires_grad


def test_buffer_keeps_its_precision_through_half() -> None:
    third = torch.tensor(1 / 3)
    buffer = StatelessBuffer(third).half().float()
    assert torch.equal(buffer(), third)


def test_buffer_survives_to_empty_and_the_meta_device() -> None:
    buffer = StatelessBuffer(torch.tensor([3.0, 4.0])).to("meta").to_empty(device="cpu")
    assert buffer().tolist() == [3.0, 4.0]
    with torch.device("meta"):
        built_on_meta = StatelessBuffer(5.0)
    assert built_on_meta().is_meta
    assert built_on_meta.to_empty(device="cpu")().item() == 5.0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_buffer_is_copied(duplicate) -> None:
    original = StatelessBuffer(torch.tensor(3.0))
    other = duplicate(original)
    other.value.fill_(4.0)
    assert original().item() == 3.0


def test_single_argument_is_ignored() -> None:
    assert SingleArgStatelessBuffer(torch.tensor(2.0))(object()).item() == 2.0


def test_parameter_wrapper_keeps_the_parameter() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert ParameterWrapper(parameter)() is parameter
    assert isinstance(ParameterWrapper(torch.ones(2))(), torch.nn.Parameter)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [([None], (3, 4)), ([], (3, 4)), ([None, (0, 2)], (3, 2)), ([(1, 2), (1, 4)], (1, 3))],
)
def test_slice(selection: list, expected: tuple[int, ...]) -> None:
    part = SliceTensor()
    part.subtensor_slice_list = selection
    assert part(torch.zeros(3, 4)).shape == expected


def test_inplace_arithmetic() -> None:
    x = torch.tensor(2.0)
    assert inplace_tensor_add(x, torch.tensor(1.0)) is x and x.item() == 3.0
    assert inplace_tensor_mul(x, torch.tensor(2.0)) is x and x.item() == 6.0


def test_update_without_momentum_is_the_mean() -> None:
    observations = torch.randn(7, dtype=torch.float64)
    average = torch.tensor(0.0, dtype=torch.float64)
    for count, observation in enumerate(observations):
        inplace_momentum_update(average, observation, None, count, count + 1)
    # 7 steps of 2 roundings each
    assert torch.allclose(average, observations.mean(), rtol=0, atol=14 * 2**-52)


def test_update_with_momentum() -> None:
    average = inplace_momentum_update(torch.tensor(1.0), torch.tensor(3.0), 0.25, 5, 6)
    assert average.item() == 1.5
