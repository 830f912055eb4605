"""`value`: what it accepts."""

from __future__ import annotations

import functools
import pickle

import pytest

from brevitas.inject import DependencyError, ExtendedInjector, value


def double(a):
    return 2 * a


class Callable:
    def __call__(self, a):
        return a


@pytest.mark.parametrize(
    "function, expected",
    [
        (double, 4),
        (lambda *, a: a, 2),
        (lambda *args, **kwargs: (args, kwargs), ((), {})),
        (lambda a, /, b=1: (a, b), (2, 3)),
        (functools.partial(lambda a, b, c: (a, b, c), c=5), (2, 3, 5)),
        (staticmethod(double), 4),
        (Callable(), 2),
        (dict, None),
    ],
)
def test_functions(function, expected):
    if isinstance(function, type):
        with pytest.raises(DependencyError, match="expected a function; a class"):
            value(function)
    else:
        assert ExtendedInjector.let(a=2, b=3, x=value(function)).x == expected


def test_not_callable():
    with pytest.raises(DependencyError, match="expected a function"):
        value(3)


def test_methods():
    with pytest.raises(DependencyError, match="takes 'self'"):
        value(lambda self: 1)


def test_pickles_with_its_function():
    assert ExtendedInjector.let(a=3, x=pickle.loads(pickle.dumps(value(double)))).x == 6
    assert repr(value(double)) == "value(double)"
