"""What every quantized tensor is: an immutable record of a value and of how it was quantized.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from brevitas.quant_tensor._int_mixin import TOLERANCE, IntMixin
from brevitas.quant_tensor._tensor_interface import answer_as_tensor

__all__ = [
    "TOLERANCE",
    "IntMixin",
    "IntQuantTensorBase",
    "QuantTensor",
    "_unpack_quant_tensor",
]

Self = TypeVar("Self", bound="QuantTensor")


class IntQuantTensorBase(NamedTuple):
    """The fields of an affine integer tensor, without behaviour."""

    value: Tensor
    scale: Tensor
    zero_point: Tensor
    bit_width: Tensor
    signed_t: Tensor
    training_t: Tensor


class FieldName(str):
    """A field name that is no plain `str`.

    PyTorch flattens a class whose `_fields` are plain strings as a named tuple, flags included,
    even if the class registers a flattening of its own.
    """

    __slots__ = ()


@answer_as_tensor
class QuantTensor:
    """Abstract base of the quantized tensors.

    Invariants: fields never change after construction; `value` alone is the real-valued tensor,
    so that everything a `torch.Tensor` answers is answered by `value` unless a rule keeps the
    quantization. Iteration, `len` and the methods with a leading underscore act on the fields;
    indexing acts on `value`.

    Calling it with fields builds an `IntQuantTensor`.

    Example:
        >>> QuantTensor(torch.ones(2), scale=0.5, zero_point=0., bit_width=8, signed=True,
        ...             training=False).int()
        tensor([2, 2], dtype=torch.int8)
    """

    __slots__ = ()
    # Class that a call of QuantTensor itself builds; set by the module which defines it.
    _default_class: ClassVar[type[QuantTensor] | None] = None
    # Functions of torch with a rule of their own for this kind of tensor.
    _function_handlers: ClassVar[tuple[dict[Any, Any], ...]] = ()
    # Tensor fields; those that broadcast against `value`; flags that are Python booleans.
    _tensor_fields: ClassVar[tuple[str, ...]] = ("value",)
    _broadcast_fields: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _flags: ClassVar[tuple[str, ...]] = ("signed", "training")

    value: Tensor
    signed: bool
    training: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> QuantTensor:
        if cls is QuantTensor and cls._default_class is not None:
            return cls._default_class(*args, **kwargs)
        raise TypeError(f"{cls.__name__} is abstract: build one of its subclasses.")

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for handlers in cls._function_handlers:
            if func in handlers:
                return handlers[func](*args, **kwargs)
        if kwargs.get("inplace"):
            kwargs = {**kwargs, "inplace": False}
        return func(*_unpack_quant_tensor(args), **_unpack_quant_tensor(kwargs))

    @classmethod
    def check_input_type(cls, tensor: Any) -> None:
        """Raise a RuntimeError unless `tensor` is of this class."""
        if not isinstance(tensor, cls):
            raise RuntimeError(f"Tensor is not a {cls.__name__}: got {type(tensor).__name__}.")

    @staticmethod
    def is_zero_zero_point(tensor: Any) -> Tensor:
        """Whether the zero point is zero, as a 0-d bool tensor."""
        return (tensor.zero_point == 0).all()

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"{type(self).__name__}.{name}: a quantized tensor is immutable. "
            f"Accepted: `set({name}=...)`, which returns a changed copy."
        )

    def _constructor_arguments(self) -> dict[str, Any]:
        names = (*self._tensor_fields, *self._flags)
        return {name: getattr(self, name) for name in names}

    def set(self: Self, **kwargs: Any) -> Self:
        """Copy with some fields replaced.

        Args:
            **kwargs: Fields by name; a flag as `signed` or `signed_t`.

        Returns:
            New tensor of the same class.

        Raises:
            ValueError: A name is no field.
        """
        arguments = self._constructor_arguments()
        for name, field in kwargs.items():
            key = name.removesuffix("_t")
            if key not in arguments:
                accepted = ", ".join(arguments)
                raise ValueError(f"Got unexpected field names: {[name]}. Accepted: {accepted}.")
            arguments[key] = field
        return type(self)(**arguments)

    def _derive(self: Self, value: Tensor, **fields: Tensor) -> Self:
        """`set` without checks, for the rules of torch functions."""
        return self.set(value=value, **fields)

    def _replace(self: Self, **kwargs: Any) -> Self:
        return self.set(**kwargs)

    def _asdict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self)._fields}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._constructor_arguments().values())

    def __iter__(self) -> Iterator[Any]:
        return iter([getattr(self, name) for name in type(self)._fields])

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={field!r}" for name, field in self._asdict().items())
        return f"{type(self).__name__}({fields})"

    def __str__(self) -> str:
        fields = ", ".join(f"{name}={_plain(field)}" for name, field in self._asdict().items())
        return f"{type(self).__name__}({fields})"

    def __pos__(self: Self) -> Self:
        return self

    @property
    def tensor(self) -> Tensor:
        """Alias of `value`."""
        return self.value

    @property
    def signed_t(self) -> Tensor:
        """`signed` as a 0-d tensor on the host."""
        return flag_tensor(self.signed)

    @property
    def training_t(self) -> Tensor:
        """`training` as a 0-d tensor on the host."""
        return flag_tensor(self.training)

    @property
    def shape(self) -> torch.Size:
        """Shape of `value`."""
        return self.value.shape

    @property
    def device(self) -> torch.device:
        """Device of `value`."""
        return self.value.device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of `value`."""
        return self.value.dtype

    def dim(self) -> int:
        """Number of dimensions of `value`."""
        return self.value.dim()

    def size(self, *args: Any, **kwargs: Any) -> Any:
        """Size of `value`, as `torch.Tensor.size`."""
        return self.value.size(*args, **kwargs)

    def detach(self: Self) -> Self:
        """Copy whose fields all are detached from the autograd graph."""
        return self.set(**{name: getattr(self, name).detach() for name in self._tensor_fields})

    def detach_(self: Self) -> Self:
        """Detach all fields from the autograd graph; the one in-place method that is accepted."""
        for name in self._tensor_fields:
            getattr(self, name).detach_()
        return self

    def contiguous(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Copy whose value is contiguous in memory."""
        return self.set(value=self.value.contiguous(*args, **kwargs))

    def clone(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Copy with its own value."""
        return self.set(value=self.value.clone(*args, **kwargs))

    def _with_value(self: Self, value: Tensor) -> Self:
        """The record around a value that was cast or moved: a dtype is for the value only."""
        if value.device == self.value.device:
            return self.set(value=value)
        moved = {name: getattr(self, name).to(value.device) for name in self._tensor_fields[1:]}
        return self.set(value=value, **moved)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast as `torch.Tensor.to`; a dtype is applied to `value` alone.

        The scale stays in its dtype: rounding it to half precision would change every integer.
        """
        return self._with_value(self.value.to(*args, **kwargs))

    def cuda(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move all fields to an accelerator."""
        return self._with_value(self.value.cuda(*args, **kwargs))

    def cpu(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move all fields to the host."""
        return self._with_value(self.value.cpu(*args, **kwargs))

    def half(self: Self) -> Self:
        """Cast `value` to float16."""
        return self.to(torch.float16)

    def bfloat16(self: Self) -> Self:
        """Cast `value` to bfloat16."""
        return self.to(torch.bfloat16)

    def float(self: Self) -> Self:
        """Cast `value` to float32."""
        return self.to(torch.float32)

    def double(self: Self) -> Self:
        """Cast `value` to float64."""
        return self.to(torch.float64)


def flag_tensor(flag: bool) -> Tensor:
    """A flag as a 0-d bool tensor on the host, made by an operation that every tracer records."""
    make = torch.ones if flag else torch.zeros
    return make((), dtype=torch.bool)


def _plain(field: Any) -> Any:
    """A 0-d tensor as a Python number, as `str` shows it."""
    if isinstance(field, Tensor) and field.dim() == 0 and not field.is_meta:
        return field.item()
    return field


def _unpack_quant_tensor(x: Any) -> Any:
    """Replace quantized tensors by their values, also inside tuples, lists and dicts.

    Args:
        x: Anything.

    Returns:
        `x` itself where there is nothing to replace; containers are rebuilt.

    Example:
        >>> _unpack_quant_tensor([1, torch.ones(1)])
        [1, tensor([1.])]
    """
    if isinstance(x, QuantTensor):
        return x.value
    if isinstance(x, Tensor):
        return x
    if type(x) is tuple:
        return tuple(_unpack_quant_tensor(item) for item in x)
    if type(x) is list:
        return [_unpack_quant_tensor(item) for item in x]
    if isinstance(x, dict):
        return {key: _unpack_quant_tensor(item) for key, item in x.items()}
    return x
