"""What is kept belongs to one parameter, by identity, and to the format of an input."""

from __future__ import annotations

import copy

import torch

from brevitas.proxy._kept import KeptParameters
from brevitas.quant_tensor import IntQuantTensor
from brevitas.utils.quant_utils import _CachedIO


def cached(number: float, metadata_only: bool = False) -> _CachedIO:
    value = torch.full((2,), number)
    return _CachedIO(IntQuantTensor(value, 0.5, 0.0, 8, True, False), metadata_only)


def test_found_by_identity_not_by_value() -> None:
    first, second = torch.ones(2), torch.ones(2)
    one, two = cached(1.0), cached(2.0)
    kept = KeptParameters().keeping(first, one).keeping(second, two)
    assert kept.find(first) is one and kept.find(second) is two
    assert kept.find(torch.ones(2)) is None


def test_newer_takes_the_place_of_older() -> None:
    parameter, newer = torch.ones(2), cached(2.0)
    kept = KeptParameters().keeping(parameter, cached(1.0)).keeping(parameter, newer)
    assert kept.find(parameter) is newer and len(kept._entries) == 1


def test_another_format_of_the_input_is_another_weight() -> None:
    parameter, one = torch.ones(2), cached(1.0)
    kept = KeptParameters().keeping(parameter, one, (8.0, 1.0))
    assert kept.find(parameter, (8.0, 1.0)) is one
    assert kept.find(parameter, (4.0, 1.0)) is None
    assert kept.find(parameter) is one  # of any format


def test_metadata_only_where_all_are() -> None:
    parameters = [torch.ones(2), torch.ones(2)]
    kept = KeptParameters().keeping(parameters[0], cached(1.0, metadata_only=True))
    assert kept.metadata_only
    assert not kept.keeping(parameters[1], cached(1.0)).metadata_only


def test_made_in_inference_mode_and_used_there() -> None:
    parameter = torch.ones(2)
    with torch.inference_mode():
        kept = KeptParameters().keeping(parameter, cached(1.0))
        assert kept.find(parameter) is not None
    assert kept.find(parameter) is None


def test_copies_belong_to_copied_parameters() -> None:
    parameter = torch.ones(2)
    kept = KeptParameters().keeping(parameter, cached(3.0))
    same, other = copy.deepcopy((parameter, kept))
    assert other.find(same) is not None and other.find(parameter) is None
