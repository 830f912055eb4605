"""How a quantized tensor is built from its fields, and taken apart into tensors and constants.

Layer: quant_tensor (L2).

A class of records states its fields once, in `_fields`, and which of them are tensors and flags;
what is neither is a constant such as a group size. Building, copying and flattening follow.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from brevitas.quant_tensor._compare import is_script_traced
from brevitas.quant_tensor.base_quant_tensor import QuantTensor

Record = TypeVar("Record", bound=QuantTensor)


def as_field(field: Any, value: Tensor | None) -> Any:
    """A Python number as a float32 scalar next to `value`; anything else unchanged."""
    if isinstance(field, (int, float)):
        # Filled on the device: a copy from the host would wait for it.
        number = _nearest_float32(field)
        device = None if value is None else value.device
        return torch.full((), number, dtype=torch.float32, device=device)
    return field


def _nearest_float32(number: float) -> float:
    """A number as float32 holds it: a compiler may put it into float64 arithmetic as it is."""
    if not math.isfinite(number):
        return number
    significand, exponent = math.frexp(number)
    return math.ldexp(round(significand * 2**24), exponent - 24)


def check_fields(value: Any, kind: str = "IntQuantTensor", **fields: Any) -> None:
    """Refuse fields that do not describe the value.

    Args:
        value: The real values.
        kind: Class that is built, for the message.
        **fields: Tensors that must broadcast to the value.

    Raises:
        TypeError: A field is no tensor.
        ValueError: A field has a shape that does not broadcast to the value's.
    """
    shape = value.shape
    for name, field in fields.items():
        if not isinstance(field, Tensor):
            raise TypeError(f"{kind}({name}={field!r}): expected a tensor or a number.")
        trailing = zip(reversed(field.shape), reversed(shape), strict=False)
        if field.dim() > len(shape) or any(own not in (1, size) for own, size in trailing):
            raise ValueError(
                f"{kind}({name} of shape {tuple(field.shape)}, value of shape "
                f"{tuple(shape)}): expected one number, or a shape that broadcasts to the "
                f"value's; reshape {name}, e.g. to (1, channels, 1, 1) for images."
            )


def require_bits(kind: type, least: int, **bits: Any) -> None:
    """Refuse a number of bits that is none.

    Args:
        kind: Class that is built, for the message.
        least: Smallest number that is accepted.
        **bits: Fields by name; a tensor is not looked into.

    Raises:
        ValueError: A number is not whole, or too small.
    """
    for name, number in bits.items():
        if isinstance(number, (int, float)) and not (number >= least and number == int(number)):
            raise ValueError(
                f"{kind.__name__}({name}={number!r}): expected a whole number >= {least}."
            )


def construct(cls: type[Record], *items: Any) -> Record:
    """Build a record from what a user gives: numbers become tensors, flags booleans.

    Args:
        cls: Class of the record.
        *items: Its fields in order.

    Returns:
        The record.

    Raises:
        TypeError: A field is no tensor.
        ValueError: A field does not broadcast to the value.
    """
    value, _, zero_point = items[:3]
    has_zero_point = None if isinstance(zero_point, Tensor) else zero_point != 0
    kind = cls.__name__
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"{kind}(value={value!r}): expected a tensor of real values.")
    made = dict(zip(cls._argument_names, items, strict=True))
    for name in cls._flags:
        made[name] = bool(made[name])
    for name in cls._tensor_fields[1:]:
        made[name] = as_field(made[name], value)
    if value is not None and not is_script_traced():  # metadata alone has no value
        check_fields(value, kind, **{name: made[name] for name in cls._tensor_fields[1:]})
    return cls._build(tuple(made.values()), has_zero_point)


def _flatten(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
    fields = [getattr(x, name) for name in x._tensor_fields]
    return fields, (*x._context(), x._has_zero_point)


def _flatten_with_keys(x: Any) -> tuple[list[Any], tuple[Any, ...]]:
    fields, constants = _flatten(x)
    names = x._tensor_fields
    return [(pytree.GetAttrKey(n), f) for n, f in zip(names, fields, strict=True)], constants


def register_record(cls: type[Record]) -> type[Record]:
    """Class decorator: let PyTorch's transforms take records apart into tensors and constants.

    Args:
        cls: Class of records.

    Returns:
        `cls` itself.
    """

    def unflatten(fields: Any, constants: Any) -> Any:
        # Leaves may be anything while a transform is under way: no conversion, no check.
        made = dict(zip(cls._tensor_fields, fields, strict=True))
        made.update(zip(cls._constants, constants[:-1], strict=True))
        made = cls._from_context(made)
        return cls._build(tuple([made[name] for name in cls._argument_names]), constants[-1])

    pytree.register_pytree_node(
        cls,
        _flatten,
        unflatten,
        serialized_type_name=f"brevitas.quant_tensor.{cls.__name__}",
        to_dumpable_context=list,
        from_dumpable_context=_from_dumpable,
        flatten_with_keys_fn=_flatten_with_keys,
    )
    # Exported programs flatten their inputs by a table of their own.
    fx_pytree.register_pytree_flatten_spec(cls, lambda x, spec: _flatten(x)[0])
    return cls


def _from_dumpable(constants: Any) -> tuple[Any, ...]:
    """Constants as they were before a file, which knows lists but no tuples, took them."""
    return tuple([tuple(item) if isinstance(item, list) else item for item in constants])
