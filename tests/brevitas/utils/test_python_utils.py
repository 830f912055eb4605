"""Helpers on plain Python objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import auto
from types import FunctionType

import pytest

from brevitas.utils import python_utils
from brevitas.utils.python_utils import (
    AutoName,
    Registry,
    convert_str_dict,
    did_you_mean,
    hooked_on_a_function,
    islambda,
    levels_to_caller,
    parse_dataclass_dicts,
    patch,
    recurse_getattr,
)


def test_levels_to_caller():
    assert levels_to_caller() == 1

    def warn() -> int:
        return levels_to_caller()

    inside = FunctionType(warn.__code__, {**globals(), "__name__": "brevitas.nn"})
    assert inside() == 2


class Fruit(AutoName):
    APPLE = auto()
    pear = auto()


class Other(AutoName):
    APPLE = auto()


class TestAutoName:
    def test_value_is_the_name(self):
        assert (Fruit.APPLE.value, Fruit.pear.value) == ("APPLE", "pear")
        assert (str(Fruit.APPLE), f"{Fruit.APPLE:>6}") == ("APPLE", " APPLE")

    def test_equals_strings_in_any_case(self):
        assert Fruit.APPLE == "APPLE" == Fruit.APPLE
        assert Fruit.APPLE == "apple" and not Fruit.APPLE != "apple"
        assert Fruit.APPLE != "pear" and Fruit.APPLE != Fruit.pear
        assert Fruit.APPLE == Other.APPLE
        assert Fruit.APPLE != 3 and Fruit.APPLE is not None

    def test_found_in_dicts_under_its_value(self):
        assert {Fruit.APPLE: 1}["APPLE"] == {"APPLE": 1}[Fruit.APPLE] == 1


class TestRegistry:
    def test_register_and_get(self):
        registry = Registry("parts")
        assert registry.register("a")(int) is int
        registry.register(["b", "c"])(str)
        assert list(registry.get_registered_keys()) == ["a", "b", "c"]
        assert (registry.get("a"), registry.get("c")) == (int, str)
        assert (registry.registry_name, Registry().registry_name) == ("parts", "Registry")

    def test_unknown_name(self):
        registry = Registry("parts")
        registry.register("a")(int)
        with pytest.raises(ValueError, match="'z' not found in parts. The registered keys are: a"):
            registry.get("z")

    def test_overwriting_warns(self):
        registry = Registry("parts")
        registry.register("a")(int)
        with pytest.warns(UserWarning, match="'a' is already registered in parts"):
            registry.register("a")(float)
        assert registry.get("a") is float


def test_numbers_as_text():
    for text in ("1", "+1", "-1"):
        assert python_utils.INT_RE.match(text)
    for text in ("1", "+1.5", "-.5e3", "1.", "1e-3"):
        assert python_utils.FLOAT_RE.match(text)
    for text in ("", "abc", "1e", ".", "1.5.2"):
        assert not python_utils.FLOAT_RE.match(text)
        assert not python_utils.INT_RE.match(text)


def test_convert_str_dict():
    given = {"a": "1", "b": "2.5", "c": "True", "d": "none", "e": 3, "f": {"g": "-3"}, "h": None}
    assert convert_str_dict(given) == {
        "a": 1,
        "b": 2.5,
        "c": True,
        "d": "none",
        "e": 3,
        "f": {"g": -3},
        "h": None,
    }
    assert given["a"] == "1"


@dataclass
class Settings:
    weight: dict | str | None = field(default_factory=dict)
    count: int = 3


@pytest.mark.parametrize(
    "given, expected",
    [
        ('{"a": "1", "b": {"c": "2.5"}, "d": true}', {"a": 1, "b": {"c": 2.5}, "d": True}),
        ({"a": "1"}, {"a": "1"}),
        (None, {}),
    ],
)
def test_parse_dataclass_dicts(given, expected):
    settings = Settings(given)
    parse_dataclass_dicts(settings, ["weight"])
    assert settings.weight == expected


@pytest.mark.parametrize(
    "given, name, message",
    [
        ("{bad", "weight", "Settings.weight='{bad': expected a JSON object"),
        ("[1]", "weight", "expected a dict or a JSON object as text"),
        (None, "count", "Settings.count=3: expected a dict"),
        (None, "wieght", "no such attribute. Did you mean 'weight'"),
    ],
)
def test_parse_dataclass_dicts_errors(given, name, message):
    with pytest.raises(ValueError, match=message):
        parse_dataclass_dicts(Settings(given), [name])


def test_recurse_getattr():
    assert recurse_getattr(Settings(), "__class__.__name__") == "Settings"
    with pytest.raises(AttributeError):
        recurse_getattr(Settings(), "weight.nothing")


def test_hooked_on_a_function():
    calls = []

    def add(a, b=1):
        calls.append("function")
        return a + b

    hooked = hooked_on_a_function(add, lambda *args, **kwargs: calls.append((args, kwargs)))
    assert hooked(1, b=2) == 3
    assert calls == [((1,), {"b": 2}), "function"]
    assert (hooked.__name__, hooked.__wrapped__) == ("add", add)


def test_islambda():
    assert islambda(lambda: 0)
    assert not any(map(islambda, (test_islambda, int, 3)))


def test_patch_restores_also_after_an_error():

    class Holder:
        attribute = 1

    with pytest.raises(RuntimeError):
        with patch(Holder, "attribute", 2) as new:
            assert new == Holder.attribute == 2
            raise RuntimeError
    assert Holder.attribute == 1
    with pytest.raises(AttributeError):
        with patch(Holder, "nothing", 2):
            pass


def test_did_you_mean():
    assert did_you_mean("bit_widht", ["bit_width"]) == " Did you mean 'bit_width'?"
    assert did_you_mean("x", ["bit_width"]) == ""
