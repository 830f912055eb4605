"""Tests of the keywords: what is refused, and with which message."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from brevitas.quant_tensor.exact._settings import Options, Settings


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ({"rounding": "NEAREST"}, "rounding='NEAREST': expected one of ROUND, CEIL, FLOOR"),
        ({"overflow": "clip"}, "overflow='clip': expected one of saturate, wrap, error"),
        ({"bit_width": 0}, "bit_width=0: expected an int from 1 to 52"),
        ({"bit_width": 53}, "bit_width=53: expected an int from 1 to 52"),
        ({"bit_width": 8.0}, "bit_width=8.0: expected an int"),
        ({"bit_width": True}, "bit_width=True: expected an int"),
        ({"signed": "yes"}, "signed='yes': expected True, False, or None"),
    ],
)
def test_a_keyword_out_of_its_choices_is_refused(keyword, message):
    with pytest.raises(ValueError, match=message):
        Settings(**keyword)


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="bitwidth"):
        Settings(bitwidth=8)  # pyright: ignore[reportCallIssue]


def test_options_are_the_fields_of_the_settings():
    assert set(Options.__annotations__) == set(asdict(Settings()))
