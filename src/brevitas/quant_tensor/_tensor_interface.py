"""One table of everything a `torch.Tensor` answers, so that a quantized tensor answers it too.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C import _is_torch_function_mode_enabled
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

_HOMES = (torch, Tensor, operator)

OPERATORS = (
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__"),
    *("__truediv__", "__rtruediv__", "__floordiv__", "__rfloordiv__", "__mod__", "__rmod__"),
    *("__pow__", "__rpow__", "__matmul__", "__rmatmul__", "__neg__", "__pos__", "__abs__"),
    *("__invert__", "__and__", "__rand__", "__or__", "__ror__", "__xor__", "__rxor__"),
    *("__lshift__", "__rlshift__", "__rshift__", "__rrshift__"),
    *("__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"),
    *("__getitem__", "__contains__", "__array__", "__bool__", "__int__", "__float__"),
    *("__complex__", "__index__"),
)


class QuantTensorMode(TorchFunctionMode):
    """A mode with rules of its own for quantized tensors, which their operators ask for, too.

    PyTorch calls a mode for its functions and for the methods of a tensor; the operators of a
    quantized tensor are no methods of a tensor, and look for the innermost mode of this class.
    """

    def find_rule(self, function: Callable[..., Any]) -> Callable[..., Any] | None:
        """The rule of this mode for a torch function of quantized tensors, None for the default."""
        raise NotImplementedError


def _rule_of_mode(function: Callable[..., Any]) -> Callable[..., Any] | None:
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, QuantTensorMode):
            return mode.find_rule(function)
    return None


def _method(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _is_torch_function_mode_enabled():
            rule = _rule_of_mode(function)
            if rule is not None:
                # The rule computes on plain tensors, which no mode has to see.
                with torch._C.DisableTorchFunction():
                    return rule(self, *args, **kwargs)
        return self.__torch_function__(function, (), (self, *args), kwargs)

    method.__name__ = name
    method.__qualname__ = f"QuantTensor.{name}"
    method.__doc__ = f"`torch.Tensor.{name}` by its rule for quantized tensors, else on `value`."
    return method


def refuse_in_place(cls: type, name: str) -> NoReturn:
    """Raise the TypeError that explains why a quantized tensor has no in-place method `name`."""
    raise TypeError(
        f"{cls.__name__}.{name}: a quantized tensor is immutable. Accepted: the version "
        f"without the trailing underscore, or `set(value=...)`, which returns a changed copy."
    )


def _in_place_method(name: str) -> Callable[..., Any]:
    def method(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        refuse_in_place(type(self), name)

    method.__name__ = name
    method.__qualname__ = f"QuantTensor.{name}"
    method.__doc__ = "Raise a TypeError: a quantized tensor is immutable."
    return method


def _attribute(name: str) -> property:
    def getter(self: Any) -> Any:
        return getattr(self.value, name)

    return property(getter, doc=f"`torch.Tensor.{name}` of `value`.")


def is_in_place(name: str) -> bool:
    """Whether a Tensor method of this name changes its tensor.

    Example:
        >>> is_in_place("relu_"), is_in_place("relu"), is_in_place("__add__")
        (True, False, False)
    """
    return name.endswith("_") and not name.endswith("__")


def answer_as_tensor(cls: type) -> type:
    """Class decorator: add every public attribute of `torch.Tensor` that `cls` does not define.

    Methods and operators go through `cls.__torch_function__`, attributes are read from `value`,
    in-place methods raise.

    Args:
        cls: Class with a `value` tensor and `__torch_function__`.

    Returns:
        `cls` itself.
    """
    public = (name for name in dir(Tensor) if not name.startswith("_"))
    for name in (*public, *OPERATORS):
        if name in cls.__dict__:
            continue
        tensor_attribute = getattr(Tensor, name, None)
        if not callable(tensor_attribute):
            setattr(cls, name, _attribute(name))
        elif is_in_place(name):
            setattr(cls, name, _in_place_method(name))
        else:
            setattr(cls, name, _method(name, tensor_attribute))
    return cls


def in_place_functions() -> tuple[Callable[..., Any], ...]:
    """Functions of torch and methods of a tensor that write into their first argument."""
    names = (name for home in (torch, Tensor) for name in dir(home) if is_in_place(name))
    return tensor_functions(*dict.fromkeys(names))


def tensor_functions(*names: str) -> tuple[Callable[..., Any], ...]:
    """The functions called `name` in `torch` and `operator`, and the methods of a tensor.

    An operator between a tensor and a quantized tensor is dispatched as a method by torch, and as
    the function of `operator` by its tracers.

    Args:
        *names: Names such as "add" or "__add__".

    Returns:
        Those that exist, without duplicates.
    """
    found = (getattr(home, name, None) for name in names for home in _HOMES)
    return tuple(dict.fromkeys(function for function in found if function is not None))
