"""What every quantized tensor is: an immutable record of a value and of how it was quantized.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NoReturn, TypeVar

import torch
from torch import Tensor

from brevitas.quant_tensor._broadcast_fields import is_per_tensor
from brevitas.quant_tensor._compare import flag_tensor, is_script_traced
from brevitas.quant_tensor._field_tuples import (
    FloatQuantTensorBase,
    GroupwiseFloatQuantTensorBase,
    GroupwisIntQuantTensorBase,
    IntQuantTensorBase,
)
from brevitas.quant_tensor._float_mixin import FloatMixin
from brevitas.quant_tensor._int_mixin import TOLERANCE, IntMixin
from brevitas.quant_tensor._tensor_interface import answer_as_tensor

__all__ = [
    "TOLERANCE",
    "FloatMixin",
    "FloatQuantTensorBase",
    "GroupwisIntQuantTensorBase",
    "GroupwiseFloatQuantTensorBase",
    "IntMixin",
    "IntQuantTensorBase",
    "QuantTensor",
    "_unpack_quant_tensor",
    "plain",
]

Self = TypeVar("Self", bound="QuantTensor")


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
    # Tensor fields, the value first; those that broadcast against it; flags, Python booleans.
    _tensor_fields: ClassVar[tuple[str, ...]] = ("value",)
    _broadcast_fields: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[tuple[str, ...]] = ()
    _flags: ClassVar[tuple[str, ...]] = ("signed", "training")
    # What follows from them: names of the constructor's arguments, in the order of `_fields`;
    # names and positions of the flags; what is no tensor.
    _argument_names: ClassVar[tuple[str, ...]] = ()
    _flag_positions: ClassVar[tuple[tuple[str, int], ...]] = ()
    _constants: ClassVar[tuple[str, ...]] = ()

    value: Tensor
    signed: bool
    training: bool
    # False where the zero point is zero by construction: a constant of a traced graph.
    _has_zero_point: bool | None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        names = tuple(str(name).removesuffix("_t") for name in cls._fields)
        cls._argument_names = names
        cls._flag_positions = tuple(
            (name, names.index(name)) for name in cls._flags if name in names
        )
        cls._constants = tuple(name for name in names if name not in cls._tensor_fields)

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
        return {name: getattr(self, name) for name in self._argument_names}

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
        result = type(self)(*arguments.values())
        if not any(name.startswith("zero_point") for name in kwargs):
            object.__setattr__(result, "_has_zero_point", self._has_zero_point)
        return result

    @classmethod
    def _build(cls: type[Self], items: tuple[Any, ...], has_zero_point: bool | None) -> Self:
        """Build a record without a check, from fields as it keeps them.

        Args:
            items: Its fields in order; flags are booleans.
            has_zero_point: False where the zero point is zero by construction, None if not known.
        """
        stored = items
        if is_script_traced():
            # TorchScript returns tensors only, and only those that the trace has made.
            stored = tuple(flag_tensor(x) if isinstance(x, bool) else x for x in items)
        self = tuple.__new__(cls, stored)  # pyright: ignore[reportArgumentType]
        # Attributes, not items: tracers read a field of a named tuple by its name, and `signed_t`
        # is a tensor, whereas a flag has to be a constant of the graph.
        for name, position in cls._flag_positions:
            object.__setattr__(self, name, items[position])
        object.__setattr__(self, "_has_zero_point", has_zero_point)
        return self

    def _derive(self: Self, value: Any, **fields: Any) -> Self:
        """`set` without checks, for the rules of torch functions; the value as it is stored.

        Args:
            value: The value.
            **fields: Other fields, and `has_zero_point`.
        """
        has_zero_point = fields.pop("has_zero_point", self._has_zero_point)
        fields[self._tensor_fields[0]] = value
        items = [fields[n] if n in fields else getattr(self, n) for n in self._argument_names]
        return self._build(tuple(items), has_zero_point)

    def _around(self: Self, value: Tensor, **fields: Any) -> Self:
        """`_derive` from a value in the shape of the tensor."""
        return self._derive(value, **fields)

    def _fits(self, value: Tensor) -> bool:
        """Whether scale and zero point belong to the same dimensions of a value as before."""
        names = self._broadcast_fields
        return all(_field_fits(getattr(self, name), value, self.value) for name in names)

    def _context(self) -> tuple[Any, ...]:
        """What is no tensor, for PyTorch's transforms, which compare it."""
        return tuple([getattr(self, name) for name in self._constants])

    @classmethod
    def _from_context(cls, made: dict[str, Any]) -> dict[str, Any]:
        """Fields by name, from tensors and a context."""
        return made

    def _without_value(self: Self) -> Self:
        """The metadata alone."""
        return self._derive(None)

    def _map_value(self: Self, change: Callable[[Tensor], Tensor]) -> Self:
        """The record around `change` of the value as it is stored."""
        return self._derive(change(getattr(self, self._tensor_fields[0])))

    def _replace(self: Self, **kwargs: Any) -> Self:
        return self.set(**kwargs)

    @classmethod
    def _make(cls: type[Self], iterable: Iterable[Any]) -> Self:
        return cls(*iterable)

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
        fields = ", ".join(f"{name}={_as_number(field)}" for name, field in self._asdict().items())
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
        return self._map_value(lambda value: value.contiguous(*args, **kwargs))

    def clone(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Copy with its own value."""
        return self._map_value(lambda value: value.clone(*args, **kwargs))

    def _with_value(self: Self, cast: Callable[[Tensor], Tensor]) -> Self:
        """The record around a value that is cast or moved: a dtype is for the value only."""
        first, *others = self._tensor_fields
        before: Tensor = getattr(self, first)
        value = cast(before)
        if value.device == before.device:
            return self.set(**{first: value})
        moved = {name: getattr(self, name).to(value.device) for name in others}
        return self.set(**{first: value}, **moved)

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast as `torch.Tensor.to`; a dtype is applied to `value` alone.

        The scale stays in its dtype: rounding it to half precision would change every integer.
        """
        return self._with_value(lambda value: value.to(*args, **kwargs))

    def cuda(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move all fields to an accelerator."""
        return self._with_value(lambda value: value.cuda(*args, **kwargs))

    def cpu(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Move all fields to the host."""
        return self._with_value(lambda value: value.cpu(*args, **kwargs))

    @staticmethod
    def cat(tensors: Any, dim: int = 0, out: None = None) -> Any:
        """Concatenate as `torch.cat` does."""
        return torch.cat(list(tensors), dim, out=out)

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


def _field_fits(field: Tensor, value: Tensor, before: Tensor) -> bool:
    if field.dim() == 0 or is_per_tensor(field):
        return True
    same_rank = value.dim() == before.dim()
    aligned = zip(reversed(field.shape), reversed(value.shape), strict=False)
    return same_rank and all(size in (1, extent) for size, extent in aligned)


def _as_number(field: Any) -> Any:
    """A 0-d tensor as a Python number, as `str` shows it."""
    if isinstance(field, Tensor) and field.dim() == 0 and not field.is_meta:
        return field.item()
    return field


def plain(operand: Any) -> Any:
    """The value of a quantized tensor, anything else as it is.

    Args:
        operand: Anything.

    Example:
        >>> plain(torch.ones(1))
        tensor([1.])
    """
    return operand.value if isinstance(operand, QuantTensor) else operand


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
    if isinstance(x, (QuantTensor, Tensor)):
        return plain(x)
    if type(x) is tuple:
        return tuple(_unpack_quant_tensor(item) for item in x)
    if type(x) is list:
        return [_unpack_quant_tensor(item) for item in x]
    if isinstance(x, dict):
        return {key: _unpack_quant_tensor(item) for key, item in x.items()}
    return x
