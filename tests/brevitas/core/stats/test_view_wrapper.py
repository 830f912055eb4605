"""Parameters read through a view."""

from __future__ import annotations

import torch
from torch import nn

from brevitas.core.function_wrapper import OverOutputChannelView, OverTensorView
from brevitas.core.stats.view_wrapper import _ViewCatParameterWrapper, _ViewParameterWrapper


def test_parameter_or_argument_in_the_view() -> None:
    parameter, other = nn.Parameter(torch.randn(3, 2, 2)), torch.randn(5, 6)
    wrapper = _ViewParameterWrapper(parameter, OverOutputChannelView())
    assert torch.equal(wrapper(), parameter.view(3, 4))
    assert torch.equal(wrapper(None), parameter.view(3, 4))
    assert torch.equal(wrapper(other), other)


def test_argument_is_appended() -> None:
    parameter, other = nn.Parameter(torch.randn(3, 4)), torch.randn(5)
    wrapper = _ViewCatParameterWrapper(parameter, OverTensorView(), cat_dim=0)
    assert torch.equal(wrapper(other), torch.cat([parameter.flatten(), other]))


def test_parameter_is_shared_and_not_saved() -> None:
    parameter = nn.Parameter(torch.randn(3, 4))
    for wrapper in (
        _ViewParameterWrapper(parameter, OverTensorView()),
        _ViewCatParameterWrapper(parameter, OverTensorView(), 0),
    ):
        assert next(wrapper.parameters()) is parameter
        assert not wrapper.state_dict()
        wrapper.load_state_dict({}, strict=True)
