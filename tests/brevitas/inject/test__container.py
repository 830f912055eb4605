"""The injector: what is built, what is shared, what is handed out, and that nothing is mutated."""

from __future__ import annotations

import copy
import enum
import functools
import pickle
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from brevitas.inject import (
    BaseInjector,
    DependencyError,
    ExtendedInjector,
    Injector,
    declaration_age,
    declared_names,
    let,
    record_reads,
    resolve,
    this,
    value,
)


class Scale:
    def __init__(self, init, floor=0.0):
        self.init, self.floor = init, floor


class Quant:
    def __init__(self, scale, bit_width):
        self.scale, self.bit_width = scale, bit_width


class Pair:
    def __init__(self, scale, quant):
        self.scale, self.quant = scale, quant


class Color(enum.Enum):
    RED = 1


class Quantizer(ExtendedInjector):
    """A quantizer that resolves."""

    init = 1.5
    scale = Scale
    quant = Quant
    pair = Pair
    bit_width = 8
    scale_class = Scale

    @value
    def levels(bit_width):
        return 2**bit_width


class Incomplete(ExtendedInjector):
    scale = Scale
    quant = Quant
    bit_width = 8


def test_one_class_under_three_names():
    assert BaseInjector is Injector is ExtendedInjector


class TestWhatIsBuilt:
    def test_class_gets_attributes_by_argument_name_at_any_depth(self):
        quant = Quantizer.quant
        assert (quant.scale.init, quant.bit_width) == (1.5, 8)

    def test_argument_with_default_is_optional_and_injected_when_declared(self):
        assert Quantizer.scale.floor == 0.0
        assert Quantizer.let(floor=0.25).scale.floor == 0.25

    def test_none_is_a_value(self):
        assert Quantizer.let(init=None).scale.init is None

    def test_subclass_inherits_its_constructor(self):
        derived = type("Derived", (Scale,), {})
        assert Quantizer.let(scale=derived).scale.init == 1.5

    def test_class_with_unused_star_arguments_is_built_without_them(self):
        class Star:
            def __init__(self, init, *args, **kwargs):
                self.seen = (init, args, kwargs)

        assert Quantizer.let(part=Star, args=1, kwargs=2).part.seen == (1.5, (), {})
        assert isinstance(Quantizer.let(part=nn.Identity).part, nn.Identity)

    def test_keyword_only_arguments(self):

        class KeywordOnly:
            def __init__(self, *, init, other=3):
                self.seen = (init, other)

        assert Quantizer.let(part=KeywordOnly).part.seen == (1.5, 3)

    def test_positional_only_arguments(self):

        class PositionalOnly:
            def __init__(self, init, undeclared=2, bit_width=3, /, levels=4):
                self.seen = (init, undeclared, bit_width, levels)

        # Nothing can be passed behind the undeclared one.
        assert Quantizer.let(part=PositionalOnly).part.seen == (1.5, 2, 3, 256)

    def test_named_tuple_and_dataclass(self):
        tuple_class = namedtuple("tuple_class", "init bit_width")
        data_class = dataclass(type("data_class", (), {"__annotations__": {"bit_width": int}}))
        assert Quantizer.let(part=tuple_class).part == (1.5, 8)
        assert Quantizer.let(part=data_class).part.bit_width == 8

    def test_constructor_wrapped_by_a_decorator(self):

        class Wrapped:
            @functools.wraps(Scale.__init__)
            def __init__(self, *args, **kwargs):
                self.seen = kwargs

        assert Quantizer.let(part=Wrapped).part.seen == {"init": 1.5}

    def test_replaced_constructor_is_read_anew(self):
        class Patched:
            def __init__(self, init):
                self.seen = init

        injector = Quantizer.let(part=Patched)
        assert injector.part.seen == 1.5

        def other(self, bit_width):
            self.seen = bit_width

        Patched.__init__ = other
        assert injector.part.seen == 8

    def test_builtin_classes(self):
        assert Quantizer.let(part=int).part == 0
        assert Quantizer.let(part=dict).part == {}


class TestWhatIsHandedOut:
    @pytest.mark.parametrize(
        "part",
        [
            3,
            "text",
            None,
            Color.RED,
            Color,
            torch.float32,
            torch.Size([2]),
            len,
            lambda self: 1,
            Scale(1),
            functools.partial(Scale, 1),
            list[int],
            {"a": Scale},
        ],
        ids=lambda v: type(v).__name__,
    )
    def test_plain(self, part):
        assert Quantizer.let(part=part).part is part

    def test_module_instance(self):
        module = nn.Linear(2, 2)
        assert Quantizer.let(module=module).module is module

    def test_names_ending_in_class(self):
        assert Quantizer.scale_class is Scale
        assert Quantizer.let(nested_class=Quantizer).nested_class is Quantizer
        assert Quantizer.let(any_class=3).any_class == 3

    def test_function_in_class_body_is_no_method(self):
        def part(undeclared):
            return undeclared

        assert Quantizer.let(part=part).part is part


class TestValue:
    def test_computes_from_other_names(self):
        assert Quantizer.levels == 256
        assert Quantizer.let(bit_width=4).levels == 16

    def test_returned_class_is_built(self):
        injector = Quantizer.let(part=value(lambda bit_width: Scale))
        assert injector.part.init == 1.5

    def test_returned_class_is_handed_out_under_a_class_name(self):
        assert Quantizer.let(part_class=value(lambda: Scale)).part_class is Scale

    def test_returned_enum_class_and_injector_are_handed_out(self):
        assert Quantizer.let(part=value(lambda: Color)).part is Color
        assert Quantizer.let(part=value(lambda: Incomplete)).part is Incomplete

    @pytest.mark.parametrize("result", [None, 3, len, "text"])
    def test_returned_object(self, result):
        assert Quantizer.let(part=value(lambda: result)).part is result

    def test_returned_reference_and_value_are_followed(self):
        assert Quantizer.let(part=value(lambda: this.levels)).part == 256
        assert Quantizer.let(part=value(lambda: value(lambda levels: levels + 1))).part == 257

    def test_default_arguments(self):
        assert Quantizer.let(part=value(lambda bit_width, other=7: (bit_width, other))).part == (
            8,
            7,
        )
        assert Quantizer.let(part=value(lambda bit_width=1: bit_width)).part == 8

    def test_chain_of_values_and_references(self):
        injector = Quantizer.let(
            one=value(lambda bit_width: bit_width + 1),
            two=this.one,
            three=value(lambda two: two * 10),
        )
        assert injector.three == 90


class TestScope:
    def test_each_name_is_built_once_per_access(self):
        pair = Quantizer.pair
        assert pair.scale is pair.quant.scale

    def test_each_access_builds_anew(self):
        assert Quantizer.scale is not Quantizer.scale

    def test_reference_shares_the_object(self):
        class Two:
            def __init__(self, scale, alias):
                self.same = scale is alias

        assert Quantizer.let(alias=this.scale, two=Two).two.same

    def test_values_run_once(self):
        calls = []
        injector = Quantizer.let(
            init=value(lambda: calls.append(1)), a=Scale, part=value(lambda a, scale: None)
        )
        assert injector.part is None
        assert calls == [1]


class TestInheritance:
    def test_first_base_wins(self):
        class Left(ExtendedInjector):
            a = "left"

        class Right(ExtendedInjector):
            a = "right"
            b = "right"

        class Both(Left, Right, ExtendedInjector):
            pass

        assert (Both.a, Both.b) == ("left", "right")
        assert (Left & Right).a == "left"

    def test_left_base_wins_with_what_it_inherits(self):
        class Base(ExtendedInjector):
            a = "base"

        class Left(Base):
            pass

        class Right(Base):
            a = "right"

        class Both(Left, Right):
            pass

        assert Both.a == "base"

    def test_own_body_wins(self):
        class Derived(Quantizer, Incomplete):
            bit_width = 2

        assert Derived.levels == 4

    def test_let_is_a_subclass_with_the_same_name(self):
        derived = Quantizer.let(bit_width=4).let(init=2.0)
        assert issubclass(derived, Quantizer)
        assert derived.__name__ == "Quantizer"
        assert (derived.levels, derived.scale.init, Quantizer.levels) == (16, 2.0, 256)
        assert let(Quantizer, bit_width=3).levels == 8

    def test_subclass_of_let(self):
        class Derived(Quantizer.let(bit_width=4)):
            init = 3.0

        assert (Derived.levels, Derived.scale.init) == (16, 3.0)

    def test_let_does_not_change_its_base(self):
        before = dict(Quantizer.__declarations__)
        Quantizer.let(new=1, bit_width=1)
        assert Quantizer.__declarations__ == before

    def test_metadata_in_the_body(self):

        class Annotated(ExtendedInjector):
            """Documented."""

            bit_width: int = 8

        assert (Annotated.bit_width, Annotated.__doc__) == (8, "Documented.")


class TestIntrospection:
    def test_contains(self):
        assert "scale" in Quantizer
        assert "levels" in Quantizer.let(x=1)
        assert "nothing" not in Quantizer
        assert "let" not in Quantizer

    def test_dir(self):
        assert {"scale", "levels", "let"} <= set(dir(Quantizer))

    def test_declared_names(self):
        assert declared_names(Quantizer.let(new=1)) == {
            "init",
            "scale",
            "quant",
            "pair",
            "bit_width",
            "scale_class",
            "levels",
            "new",
        }

    def test_hasattr_tells_what_is_declared(self):
        assert hasattr(Quantizer, "scale")
        assert not hasattr(Quantizer, "nothing")
        assert getattr(Quantizer, "nothing", 5) == 5

    def test_hasattr_does_not_hide_a_failing_part(self):
        with pytest.raises(DependencyError):
            hasattr(Incomplete, "scale")

    def test_unknown_dunder_is_an_attribute_error(self):
        with pytest.raises(AttributeError):
            Quantizer.__deepcopy__  # noqa: B018


class TestReads:
    def test_record_reads_collects_declared_and_optional_names(self):
        with record_reads() as names:
            Quantizer.quant  # noqa: B018
        assert names == {"quant", "scale", "init", "floor", "bit_width"}

    def test_resolve_with_reads(self):
        names = set()
        resolve(Quantizer, "levels", reads=names)
        assert names == {"levels", "bit_width"}

    def test_several_resolutions_and_an_enclosing_recording(self):
        with record_reads() as outer:
            with record_reads() as inner:
                Quantizer.levels  # noqa: B018
            Quantizer.init  # noqa: B018
        assert inner == {"levels", "bit_width"}
        assert outer == {"levels", "bit_width", "init"}

    def test_reads_through_nested_injectors(self):
        class Outer(ExtendedInjector):
            a = 1

            class Inner(ExtendedInjector):
                b = (this << 1).a

        with record_reads() as names:
            assert Outer.let(c=this.Inner.b).c == 1
        assert names == {"c", "Inner", "b", "a"}

    def test_recording_ends_after_an_error(self):
        with pytest.raises(DependencyError), record_reads() as names:
            Incomplete.scale  # noqa: B018
        assert names == {"scale", "init"}
        Quantizer.levels  # noqa: B018
        assert names == {"scale", "init"}


class TestNothingIsMutated:
    def test_failed_resolution_leaves_all_classes_intact(self):
        family = [Quantizer, Incomplete, Incomplete.let(init=1.0), Incomplete.let(other=1)]
        before = [dict(injector.__declarations__) for injector in family]
        for _ in range(2):
            for name in ("quant", "scale", "nothing"):
                with pytest.raises(DependencyError):
                    getattr(Incomplete, name)
                with pytest.raises(DependencyError):
                    getattr(family[3], name)
        assert [dict(injector.__declarations__) for injector in family] == before
        assert Incomplete.let(init=2.0).quant.scale.init == 2.0
        assert family[2].quant.scale.init == 1.0
        assert Quantizer.quant.scale.init == 1.5
        with pytest.raises(DependencyError, match="'init'"):
            Incomplete.quant  # noqa: B018

    def test_failing_constructor_and_value(self):
        ready = False

        class Picky:
            def __init__(self, init):
                if not ready:
                    raise RuntimeError("not yet")

        injector = Quantizer.let(part=Picky, computed=value(lambda part: 1 / int(ready)))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not yet"):
                injector.computed  # noqa: B018
        ready = True
        assert injector.computed == 1
        assert isinstance(injector.part, Picky)

    def test_assignment_and_deletion_are_refused(self):
        with pytest.raises(DependencyError, match=r"let\(bit_width=\.\.\.\)"):
            Quantizer.bit_width = 4
        with pytest.raises(DependencyError):
            del Quantizer.bit_width
        assert Quantizer.bit_width == 8


class TestWrongDeclarations:
    def test_instances(self):
        with pytest.raises(DependencyError, match="no instances"):
            Quantizer()

    @pytest.mark.parametrize("name", ["let", "mro", "__init__", "__call__"])
    def test_reserved_names(self, name):
        with pytest.raises(DependencyError, match="reserved"):
            Quantizer.let(**{name: 1})

    def test_base_that_is_no_injector(self):
        with pytest.raises(DependencyError, match="expected injectors only"):
            type(Quantizer)("Mixed", (Scale, ExtendedInjector), {})


class TestCopyAndPickle:
    def test_class_statement_by_name(self):
        assert pickle.loads(pickle.dumps(Quantizer)) is Quantizer

    def test_let_as_base_and_overrides(self):
        derived = Quantizer.let(bit_width=4).let(part=Scale, alias=this.levels)
        loaded = pickle.loads(pickle.dumps(derived))
        assert loaded is not derived and issubclass(loaded, Quantizer)
        assert (loaded.levels, loaded.part.init, loaded.alias) == (16, 1.5, 16)

    def test_nested(self):
        loaded = pickle.loads(pickle.dumps(Outer.let(a=5).Inner))
        assert (loaded.up, loaded.b) == (5, 2)

    def test_deepcopy_gives_the_class_itself(self):
        derived = Quantizer.let(bit_width=4)
        assert copy.deepcopy(derived) is derived
        assert copy.copy(derived) is derived

    def test_unpicklable_override_fails_only_when_pickled(self):
        derived = Quantizer.let(bit_width=value(lambda: 2))
        assert derived.levels == 4
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(derived)

    def test_torch_save(self, tmp_path):
        torch.save(Quantizer.let(bit_width=4), tmp_path / "injector.pt")
        assert torch.load(tmp_path / "injector.pt", weights_only=False).levels == 16


class Outer(ExtendedInjector):
    a = 1
    scale = Scale
    init = 0.5

    class Inner(ExtendedInjector):
        a = 2
        b = this.a
        up = (this << 1).a
        scale = Scale
        init = (this << 1).init

        class Core(ExtendedInjector):
            near = (this << 1).a
            far = (this << 2).a
            too_far = (this << 3).a


class TestNested:
    def test_sees_itself_and_the_outer_injectors(self):
        assert (Outer.Inner.b, Outer.Inner.up) == (2, 1)
        assert (Outer.Inner.Core.near, Outer.Inner.Core.far) == (2, 1)
        assert Outer.Inner.scale.init == 0.5

    def test_sees_overrides_of_the_outer_injector(self):
        assert Outer.let(a=5).Inner.up == 5
        assert Outer.let(a=5).Inner.Core.far == 5
        assert type(Outer)("Derived", (Outer,), {"a": 6}).Inner.up == 6

    def test_let_keeps_the_outer_injector(self):
        assert Outer.Inner.let(a=7).b == 7
        assert Outer.Inner.let(a=7).up == 1

    def test_is_an_injector_when_injected(self):
        class Part:
            def __init__(self, Inner):
                self.up = Inner.up

        assert Outer.let(part=Part, a=3).part.up == 3

    def test_is_bound_where_it_is_declared(self):
        assert Quantizer.let(a=10, nested=Outer.Inner).nested.up == 10

    def test_climbing_too_far(self):
        with pytest.raises(DependencyError, match=r"\(this << 3\)\.a, which climbs more levels"):
            Outer.Inner.Core.too_far  # noqa: B018
        with pytest.raises(DependencyError, match="climbs more levels"):
            Quantizer.let(part=(this << 1).a).part  # noqa: B018


class TestDeclarationAge:
    def test_the_latest_declaration_is_the_youngest(self):
        class Base(ExtendedInjector):
            a, b = 1, 2

        class Derived(Base):
            b = 3

        assert declaration_age(Derived, "b") == 1 < declaration_age(Derived, "a")
        told = Derived.let(a=5)
        assert declaration_age(told, "a") == 1 < declaration_age(told, "b")
        # What is declared beside it makes both older.
        bound = told.let(c=0)
        assert declaration_age(bound, "a") == 2 and declaration_age(bound, "b") == 3

    def test_of_two_bases(self):
        class First(ExtendedInjector):
            a = 1

        class Second(ExtendedInjector):
            a, b = 2, 2

        class Both(First, Second):
            pass

        assert Both.a == 1
        assert declaration_age(Both, "a") == declaration_age(Both, "b") == 2
