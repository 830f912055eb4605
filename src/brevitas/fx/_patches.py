"""What torch resolves before a stand-in can answer, replaced for the time of one trace.

torch.fx itself replaces `Module.__call__` and `Module.__getattr__` in the same way.
Layer: fx (L2).
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.fx._symbolic_trace as torch_tracing
from torch.fx import Proxy, Tracer, has_side_effect, wrap
from torch.fx.node import map_aggregate

__all__ = [
    "FNS_TO_PATCH",
    "always_recorder",
    "apply_function",
    "concrete_execution",
    "is_switch",
    "patch_isinstance",
    "patched_attribute",
    "patched_constructors",
    "patched_functions",
    "record_if_traced",
    "tracer_of",
]

# Functions that make a tensor from numbers: they refuse stand-ins for these numbers, and without
# any stand-in they would be run once, so that every call of the traced model shared the result.
_FACTORIES = [
    torch.arange,
    torch.tensor,
    torch.zeros,
    torch.ones,
    torch.full,
    torch.empty,
    torch.eye,
    torch.linspace,
]
# Run once, these would give the traced model one draw for good.
_RANDOM = [torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal]
# Where every context manager of the gradient mode and of automatic casts ends up.
_MODES = [
    (torch._C, torch._C._set_grad_enabled),
    (torch, torch.set_autocast_enabled),
    (torch, torch.set_autocast_dtype),
    (torch, torch.set_autocast_cache_enabled),
    (torch, torch.autocast_increment_nesting),
    (torch, torch.autocast_decrement_nesting),
    (torch, torch.clear_autocast_cache),
]
for _, _mode in _MODES:
    has_side_effect(_mode)
FNS_TO_PATCH = [*_FACTORIES, *_RANDOM, torch.finfo]

_LEFT_ALONE = ("", "builtins", "torch")
_OWN_PACKAGE = __name__.rpartition(".")[0] + "."

_AUTOGRAD_FUNCTIONS: dict[str, Any] = {}

Record = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


@contextmanager
def patched_attribute(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Replace an attribute of a module or class, and put the original back."""
    original = vars(owner)[name]
    setattr(owner, name, replacement)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def concrete_execution() -> Iterator[None]:
    """Run code on values in the middle of a trace: compiled functions refuse to run inside one."""
    tracing = torch_tracing._is_fx_tracing_flag
    torch_tracing._is_fx_tracing_flag = False
    try:
        yield
    finally:
        torch_tracing._is_fx_tracing_flag = tracing


def tracer_of(*arguments: Any) -> Tracer | None:
    """Return the tracer of the first stand-in among the arguments, at any depth."""
    found: list[Any] = []

    def look(item: Any) -> Any:
        if isinstance(item, Proxy):
            found.append(item.tracer)
        return item

    map_aggregate(arguments, look)
    return found[0] if found else None


def record_if_traced(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Record a call among whose arguments there is a stand-in, and run any other."""
    tracer = tracer_of(args, kwargs)
    if tracer is None:
        return function(*args, **kwargs)
    return tracer.create_proxy("call_function", function, args, kwargs)


@contextmanager
def patched_functions(
    record: Record = record_if_traced,
    record_constant: Record | None = None,
    record_always: Record | None = None,
) -> Iterator:
    """Let stand-ins into functions that make tensors, into `finfo`, and into autograd functions.

    Args:
        record: What to do with a call: `record(function, args, kwargs)`.
        record_constant: The same for functions that make the same tensor in every call without
            any stand-in; None: as the others.
        record_always: The same for draws of random numbers, and for what switches the gradient
            mode and automatic casts; None: draws are as the others, switches are not recorded.
    """
    constant = record_constant or record
    with ExitStack() as stack:
        for function in _FACTORIES:
            stack.enter_context(_patched(torch, function, constant))
        for function in _RANDOM:
            stack.enter_context(_patched(torch, function, record_always or constant))
        stack.enter_context(_patched(torch, torch.finfo, record))
        if record_always is not None:
            for owner, function in _MODES:
                stack.enter_context(_patched(owner, function, record_always))
        stack.enter_context(_patched_apply(record))
        yield


def always_recorder(tracer: Tracer) -> Record:
    """Return what records calls that no stand-in takes part in, for `patched_functions`.

    Args:
        tracer: The tracer that is at work.
    """

    def record(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            tracer.create_arg((args, kwargs))
        except NotImplementedError:
            return function(*args, **kwargs)
        result = tracer.create_proxy("call_function", function, args, kwargs)
        # What a context manager reads of a switch is what it would be outside of a trace.
        return function(*args, **kwargs) if is_switch(function) else result

    return record


def is_switch(function: Callable[..., Any]) -> bool:
    """Whether a function switches the gradient mode or automatic casts."""
    return any(function is mode for _, mode in _MODES)


def _patched(owner: Any, function: Callable[..., Any], record: Record) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        return record(function, args, kwargs)

    return patched_attribute(owner, function.__name__, call)


@wrap
def apply_function(name: str, *args: Any, **kwargs: Any) -> Any:
    """Apply an autograd function: what a node calls, since a node holds no class.

    Args:
        name: The dotted name of the class, as given by the trace or as it is imported.
        *args: What the function is applied to.
        **kwargs: Keyword arguments, where the function takes any.

    Returns:
        What `apply` returns.

    Raises:
        ValueError: No class of this name is known, nor can be imported.
    """
    function = _AUTOGRAD_FUNCTIONS.get(name)
    if function is None:
        function = _AUTOGRAD_FUNCTIONS[name] = _import(name)
    return function.apply(*args, **kwargs)


# Under the name itself, torch.fx has its wrapper while a trace is on.
_APPLY_FUNCTION = apply_function


def _import(name: str) -> Any:
    try:
        return pkgutil.resolve_name(name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ValueError(
            f"{name}: this traced model applies an autograd function that cannot be imported. "
            "Define it at the top of a Python module."
        ) from error


def _name_of(cls: type) -> str:
    """Give each class a name of its own, also where several have the same one."""
    name = base = f"{cls.__module__}:{cls.__qualname__}"
    count = 1
    while _AUTOGRAD_FUNCTIONS.setdefault(name, cls) is not cls:
        count += 1
        name = f"{base}#{count}"
    return name


def _patched_apply(record: Record) -> Any:
    # Run on stand-ins, `forward` would be recorded step by step, and its `backward` forgotten.
    original = vars(torch.autograd.Function)["apply"].__func__

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if tracer_of(args, kwargs) is None:
            return original(cls, *args, **kwargs)
        result = record(_APPLY_FUNCTION, (_name_of(cls), *args), kwargs)
        if isinstance(result, Proxy):
            result.node.meta["is_wrapped"] = True
        return result

    return patched_attribute(torch.autograd.Function, "apply", classmethod(apply))


@contextmanager
def patched_constructors(base: type) -> Iterator[None]:
    """Make one node of building a record from stand-ins, so that its methods find a value.

    Args:
        base: The abstract class of the records; its subclasses are patched.
    """
    with ExitStack() as stack:
        for kind in _subclasses(base):
            if "__new__" in vars(kind):
                stack.enter_context(_patched_new(kind))
        yield


def _subclasses(base: type) -> list[type]:
    direct = base.__subclasses__()
    return direct + [kind for each in direct for kind in _subclasses(each)]


def _patched_new(kind: type) -> Any:
    original = kind.__new__

    def new(cls: type, *args: Any, **kwargs: Any) -> Any:
        tracer = tracer_of(args, kwargs)
        if tracer is None:
            return original(cls, *args, **kwargs)
        return tracer.create_proxy("call_function", cls, args, kwargs)

    return patched_attribute(kind, "__new__", staticmethod(new))


def patch_isinstance(stack: ExitStack, namespace: dict[str, Any], replacement: Any) -> None:
    """Let the package that a model is written in take a stand-in for what it stands for.

    Args:
        stack: Takes the replacement back on exit.
        namespace: The globals of one function of the model; its Python module and the loaded
            modules of the same top-level package are changed. Torch and this package never are.
        replacement: What `isinstance` means meanwhile.
    """
    package = str(namespace.get("__name__", "")).partition(".")[0]
    if "isinstance" in namespace or package in _LEFT_ALONE:
        return
    namespaces = [namespace]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package and not f"{name}.".startswith(_OWN_PACKAGE):
            namespaces.append(vars(module))
    for each in namespaces:
        if "isinstance" not in each:
            each["isinstance"] = replacement
            stack.callback(each.pop, "isinstance", None)
