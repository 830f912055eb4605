"""`this`, `value` and `DependencyError` of the package `dependencies` work in our injectors.

The package need not be installed: a stand-in with the same instance dictionaries takes its place,
in a process of its own, since the base of our errors is chosen at import.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import brevitas
from brevitas.inject import DependencyError, ExtendedInjector
from brevitas.inject._foreign import to_native

STAND_IN = {
    "_dependencies/__init__.py": "",
    "_dependencies/parts.py": """
        class This:
            def __init__(self, expression):
                self.__dict__["__expression__"] = expression
            def __getattr__(self, name):
                return This(self.__expression__ + ((".", name),))
            def __getitem__(self, key):
                return This(self.__expression__ + (("[]", key),))
            def __lshift__(self, levels):
                return This(self.__expression__ + ((".", "__parent__"),) * levels)
        class Value:
            def __init__(self, function):
                self.__function__ = function
        class DependencyError(Exception):
            pass
        """,
    "dependencies/__init__.py": """
        from _dependencies.parts import This, Value as value
        this = This(())
        """,
    "dependencies/exceptions.py": "from _dependencies.parts import DependencyError",
}

PROGRAM = """
    import sys
    import brevitas.inject as inject
    from dependencies import this, value
    from dependencies.exceptions import DependencyError

    class Part:
        def __init__(self, a):
            self.a = a

    class Example(inject.ExtendedInjector):
        a = 3
        part = Part
        table = {"k": 5}
        b = this.part.a
        c = this.table["k"]
        made = value(lambda a: Part)
        chained = inject.value(lambda: this.a)
        class Inner(inject.ExtendedInjector):
            up = (this << 1).a

    assert Example.b == 3 and Example.c == 5 and Example.chained == 3
    assert Example.made.a == 3 and Example.Inner.up == 3
    assert Example.let(a=this.c).b == 5
    assert issubclass(inject.DependencyError, DependencyError)
    try:
        Example.let(x=this.nothing).x
    except DependencyError as error:
        assert "can not resolve attribute 'nothing' while building 'x'" in str(error)
    else:
        raise SystemExit("no error")
    print("done")
    """


def run(extra_path=None):
    source = str(Path(brevitas.__file__).parents[1])
    paths = [source] if extra_path is None else [str(extra_path), source]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.stdout == "done\n", done.stderr


def test_stand_in(tmp_path):
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    run(tmp_path)


def test_installed_package():
    pytest.importorskip("dependencies")
    run()


def test_unknown_path():
    this = type("This", (), {"__module__": "_dependencies.this"})()
    this.__dict__["__expression__"] = (("()", "a"),)
    with pytest.raises(DependencyError, match="is not a path"):
        to_native(this)


def test_injector_class_of_the_package_is_handed_out():
    meta = type("InjectorType", (type,), {"__module__": "_dependencies.injector"})
    foreign = meta("Injector", (), {})
    assert ExtendedInjector.let(part=foreign).part is foreign


@pytest.mark.parametrize("part", [3, None, int, "this", len])
def test_everything_else_is_left_alone(part):
    assert to_native(part) is part
