"""`this`: paths, climbing, immutability."""

from __future__ import annotations

import copy
import pickle

import pytest

from brevitas.inject import DependencyError, ExtendedInjector, This, this


class Part:
    def __init__(self, a):
        self.a = a


class Example(ExtendedInjector):
    a = 1
    table = {"key": [10, 20], "link": this.a}
    part = Part
    part_class = Part


@pytest.mark.parametrize(
    "reference, expected",
    [
        (this.a, 1),
        (this.part.a, 1),
        (this.table["key"][1], 20),
        (this.table["key"][-1], 20),
        (this.table["key"][:1], [10]),
        (this.table["link"], 1),
        (this.part_class.__name__, "Part"),
    ],
    ids=repr,
)
def test_follows(reference, expected):
    assert Example.let(x=reference).x == expected


def test_class_found_by_a_reference_is_built():
    assert Example.let(x=this.part_class).x.a == 1
    assert Example.let(x_class=this.part_class).x_class is Part


@pytest.mark.parametrize(
    "reference, error",
    [
        (this.part.b, AttributeError),
        (this.table["none"], KeyError),
        (this.table["key"][5], IndexError),
        (this.nothing, DependencyError),
    ],
)
def test_path_that_leads_nowhere(reference, error):
    with pytest.raises(error):
        Example.let(x=reference).x  # noqa: B018


def test_repr():
    assert repr((this << 1 << 1).a["k"].b) == "(this << 2).a['k'].b"


@pytest.mark.parametrize("levels", [0, -1, "1", True, 1.0])
def test_levels_are_positive_integers(levels):
    with pytest.raises(ValueError, match="expected an int >= 1"):
        this << levels


def test_climbing_comes_first():
    with pytest.raises(DependencyError, match="climb first"):
        this.a << 1
    with pytest.raises(DependencyError, match="name an attribute first"):
        this["a"]


def test_immutable_and_not_iterable():
    with pytest.raises(AttributeError, match="immutable"):
        this.a = 1
    with pytest.raises(TypeError):
        iter(this.a)


def test_copies_and_pickles():
    reference = (this << 1).a["k"]
    assert isinstance(reference, This)
    for other in (copy.deepcopy(reference), pickle.loads(pickle.dumps(reference))):
        assert repr(other) == repr(reference)
