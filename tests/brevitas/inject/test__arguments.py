"""Arguments read off code objects agree with `inspect.signature`."""

from __future__ import annotations

import gc
import inspect
import weakref

import pytest

from brevitas.inject._arguments import _BY_CONSTRUCTOR, arguments_of_class, arguments_of_function


@pytest.mark.parametrize(
    "function",
    [
        lambda: 0,
        lambda a: 0,
        lambda a, b=1: 0,
        lambda a, /, b, *, c, d=1: 0,
        lambda a=1, /, *args, b, **kwargs: 0,
        lambda *args, **kwargs: 0,
    ],
)
def test_same_as_inspect(function):
    named = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    arguments = arguments_of_function(function)
    assert arguments.wanted == tuple((p.name, p.default is p.empty) for p in named)
    assert arguments.positional == sum(p.kind is p.POSITIONAL_ONLY for p in named)


def test_self_is_left_out_also_when_it_is_positional_only():

    class Example:
        def __init__(self, a, /, b):
            pass

    assert arguments_of_class(Example).wanted == (("a", True), ("b", True))
    assert arguments_of_class(Example).positional == 1


def test_classes_are_not_kept_alive():

    class Example(dict):
        def __init__(self, a):
            super().__init__()  # makes the constructor refer to its class

    assert arguments_of_class(Example) is arguments_of_class(Example)
    assert Example.__init__ in _BY_CONSTRUCTOR
    reference = weakref.ref(Example)
    del Example
    gc.collect()
    assert reference() is None
