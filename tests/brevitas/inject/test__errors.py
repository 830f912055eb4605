"""Messages of resolution errors: first line, chain, owners, nearest names."""

from __future__ import annotations

import pickle
import sys

import pytest

from brevitas._compat import DependencyErrorBase
from brevitas.inject import (
    DependencyError,
    ExtendedInjector,
    QuantizerResolutionError,
    this,
    value,
)


class Init:
    def __init__(self, max_val):
        self.max_val = max_val


class Scaling:
    def __init__(self, scaling_init):
        self.scaling_init = scaling_init


class Quant:
    def __init__(self, scaling_impl):
        self.scaling_impl = scaling_impl


class Parts(ExtendedInjector):
    tensor_quant = Quant
    scaling_impl = Scaling


class MinMaxInit(Parts):
    scaling_init_impl = Init
    scaling_init = this.scaling_init_impl
    min_val = 0.0


def message_of(injector, name):
    with pytest.raises(QuantizerResolutionError) as caught:
        getattr(injector, name)
    return str(caught.value)


def test_hierarchy():
    assert issubclass(QuantizerResolutionError, DependencyError)
    assert issubclass(DependencyError, DependencyErrorBase)


def test_missing_name_names_injector_attribute_and_consumer():
    first = message_of(MinMaxInit, "tensor_quant").splitlines()[0]
    assert first == (
        "'MinMaxInit' can not resolve attribute 'max_val' while building 'scaling_init_impl'"
    )


def test_chain_and_who_declared_each_step():
    lines = message_of(MinMaxInit.let(scaling_impl=Scaling), "tensor_quant").splitlines()
    assert lines[1:6] == [
        "Chain: tensor_quant -> scaling_impl -> scaling_init -> scaling_init_impl -> max_val",
        "  tensor_quant = Quant, declared by Parts",
        "  scaling_impl = Scaling, declared by MinMaxInit.let(...)",
        "  scaling_init = this.scaling_init_impl, declared by MinMaxInit",
        "  scaling_init_impl = Init, declared by MinMaxInit",
    ]


def test_nearest_names_and_remedy():
    message = message_of(MinMaxInit.let(max_value=3.0), "tensor_quant")
    assert "Nearest declared names: 'max_value'" in message
    assert "MinMaxInit.let(max_val=...)" in message


def test_no_suggestion_where_nothing_is_similar():
    assert "Nearest" not in message_of(ExtendedInjector.let(bit_width=8), "scaling_init")


def test_missing_argument_of_a_value():
    injector = Parts.let(scaling_init=value(lambda max_val: max_val))
    assert message_of(injector, "tensor_quant").startswith(
        "'Parts' can not resolve attribute 'max_val' while building 'scaling_init'"
    )


def test_direct_read_of_an_undeclared_name():
    message = message_of(MinMaxInit, "tensor_qant")
    assert message.splitlines() == [
        "'MinMaxInit' can not resolve attribute 'tensor_qant'",
        "Nearest declared names: 'tensor_quant'.",
    ]


@pytest.mark.parametrize(
    "parts",
    [
        {"x": value(lambda y: y), "y": value(lambda x: x)},
        {"x": this.y, "y": this.x},
        {"x": value(lambda y: y), "y": this.x},
    ],
)
def test_circular_dependency(parts):
    message = message_of(ExtendedInjector.let(**parts), "x")
    assert "circular dependency" in message
    assert "Chain: x -> y -> x" in message


def test_circle_of_classes_and_of_one_name():
    injector = Parts.let(scaling_init=this.tensor_quant)
    assert "Chain: tensor_quant -> scaling_impl -> scaling_init -> tensor_quant" in message_of(
        injector, "tensor_quant"
    )
    assert "Chain: x -> x" in message_of(ExtendedInjector.let(x=this.x), "x")


def test_circle_through_a_nested_injector():

    class Outer(ExtendedInjector):
        x = this.Inner.y

        class Inner(ExtendedInjector):
            y = (this << 1).x

    assert "Chain: x -> y -> x" in message_of(Outer, "x")


def test_circle_that_an_override_breaks_is_none():
    injector = ExtendedInjector.let(x=this.y, y=this.x)
    assert injector.let(y=3).x == 3


def test_chain_goes_through_nested_injectors():

    class Outer(ExtendedInjector):
        x = this.Inner.y

        class Inner(ExtendedInjector):
            y = (this << 1).missing

    message = message_of(Outer, "x")
    assert "'Outer' can not resolve attribute 'missing' while building 'y'" in message
    assert "Chain: x -> y -> missing" in message


def test_bare_this():
    assert "name what it refers to" in message_of(ExtendedInjector.let(x=this), "x")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
def test_error_in_a_constructor_keeps_its_type_and_gets_the_chain():
    injector = MinMaxInit.let(max_val=value(lambda: 1 / 0))
    with pytest.raises(ZeroDivisionError) as caught:
        injector.tensor_quant  # noqa: B018
    (note,) = caught.value.__notes__
    assert note.startswith("Raised while resolving 'tensor_quant' of 'MinMaxInit'.")
    assert "scaling_init_impl -> max_val" in note


def test_errors_pickle():
    with pytest.raises(DependencyError) as caught:
        MinMaxInit.tensor_quant  # noqa: B018
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
