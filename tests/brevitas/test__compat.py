"""Versions compare in release order; missing packages are named with their extra."""

from __future__ import annotations

import sys

import pytest
import torch

from brevitas import _compat
from brevitas._compat import Version, add_note, optional, require, torch_version


def test_torch_version():
    assert torch.__version__.startswith(str(torch_version))
    with pytest.raises(AttributeError, match="nothing"):
        _compat.nothing  # noqa: B018


@pytest.mark.parametrize("lower, higher", [("2.9.1", "2.13.0"), ("2.13", "2.13.1"), ("1.99", "2")])
def test_order(lower, higher):
    assert Version(lower) < Version(higher) and Version(higher) > lower
    assert Version(lower) <= higher and Version(higher) >= lower
    assert Version(lower) != higher


@pytest.mark.parametrize("other", ["2.13", "2.13.0", (2, 13), (2, 13, 0), "2.13.0a0+git1"])
def test_equal(other):
    assert Version("2.13.0+cpu") == other
    assert not Version("2.13.0+cpu") < other
    assert hash(Version("2.13")) == hash(Version("2.13.0"))


def test_compares_with_packaging():
    version = pytest.importorskip("packaging.version")
    assert Version("2.13.0") >= version.parse("2.9")
    assert version.parse("2.9") <= Version("2.13.0")
    assert Version("2.13.0") == version.parse("2.13")


def test_no_version():
    assert Version("1.0") != "none"
    with pytest.raises(ValueError, match="expected numbers first"):
        Version("none")


def test_optional():
    assert optional("json", "dumps") is sys.modules["json"].dumps
    assert optional("brevitas_has_no_such_dependency", "dumps") is None
    assert optional("json", "no_such_function") is None


def test_require():
    assert require("json", "export") is sys.modules["json"]
    with pytest.raises(ImportError, match=r'pip install "brevitas\[export\]"'):
        require("brevitas_has_no_such_dependency", "export")
    with pytest.raises(ImportError, match=r'pip install "brevitas\[export\]"'):
        require("brevitas_has_no_such_dependency.part", "export")


def test_require_does_not_blame_a_package_for_what_it_misses_itself(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import brevitas_has_no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="brevitas_has_no_such_dependency") as caught:
        require("half_installed", "export")
    assert "pip install" not in str(caught.value)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
def test_add_note():
    error = ValueError("message")
    add_note(error, "note")
    assert error.__notes__ == ["note"]
