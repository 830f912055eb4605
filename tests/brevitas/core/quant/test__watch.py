"""The key of parts: equal where they compute the same, gone where they may not be baked in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from brevitas.core.function_wrapper import CeilSte
from brevitas.core.quant._watch import Watched
from brevitas.core.restrict_val import LogFloatRestrictValue, PowerOfTwoRestrictValue
from brevitas.core.scaling import IntScaling
from brevitas.core.scaling._restriction import ScaleRestriction
from brevitas.core.utils import StatelessBuffer


def restriction(smallest=1e-5, kind=PowerOfTwoRestrictValue):
    return ScaleRestriction(kind(), smallest)


class Own(nn.Module):
    """A user's part."""

    def forward(self, x):
        return x


CHANGES = {
    "another part": lambda r: setattr(r.restrict_value_impl, "float_to_int_impl", CeilSte()),
    "a user's part": lambda r: setattr(r.restrict_value_impl, "float_to_int_impl", Own()),
    "another class": lambda r: setattr(r.restrict_value_impl.float_to_int_impl, "__class__", Own),
    "a hook": lambda r: r.clamp_scaling.register_forward_hook(lambda *arguments: None),
    "a forward": lambda r: setattr(r.clamp_scaling, "forward", lambda x: x),
    "a constant": lambda r: setattr(r.clamp_scaling.clamp_min_ste, "min_val", 0.5),
    "an attribute added": lambda r: setattr(r.clamp_scaling, "largest", 2.0),
    "a tensor added": lambda r: r.clamp_scaling.register_buffer("largest", torch.ones(1)),
    "a part added": lambda r: setattr(r, "restrict_scale_threshold_impl", CeilSte()),
}


def test_equal_parts_have_equal_keys():
    first, second = Watched([restriction()]), Watched([restriction()])
    assert first.key is not None and first.key == second.key and hash(first.key) == hash(second.key)


def test_keys_tell_constants_and_classes_apart():
    keys = [
        Watched([restriction()]).key,
        Watched([restriction(1e-4)]).key,
        Watched([restriction(None)]).key,
        Watched([restriction(kind=LogFloatRestrictValue)]).key,
        Watched([IntScaling(False, True)]).key,
        Watched([IntScaling(True, True)]).key,
    ]
    assert None not in keys and len(set(keys)) == len(keys)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changes_are_seen(change):
    part = restriction()
    watched, before = Watched([part]), Watched([restriction()]).key
    assert watched.is_current()
    change(part)
    assert not watched.is_current()
    assert Watched([part]).key != before


@pytest.mark.parametrize("name", ["a user's part", "another class", "a hook", "a forward"])
def test_parts_that_may_not_be_baked_in_have_no_key(name):
    part = restriction()
    CHANGES[name](part)
    assert Watched([part]).key is None


@pytest.mark.parametrize("part", [StatelessBuffer(1.0), nn.Identity()])
def test_tensors_and_foreign_classes_have_no_key(part):
    assert Watched([part]).key is None


def test_parametrized_parts_have_no_key():
    part = IntScaling(False, True)
    part.weight = nn.Parameter(torch.ones(2))
    parametrize.register_parametrization(part, "weight", Own())
    assert Watched([part]).key is None


def test_modules_around_count_by_class_and_hooks_only():
    around = StatelessBuffer(1.0)
    watched = Watched([restriction()], [around])
    assert watched.key is not None
    around.number = 2.0
    assert watched.is_current()
    around.register_forward_hook(lambda *arguments: None)
    assert not watched.is_current() and Watched([restriction()], [around]).key is None
