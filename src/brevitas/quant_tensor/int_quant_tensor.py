"""A tensor whose values are integers times a scale, and that knows which integers.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import _pytree as fx_pytree
from torch.utils import _pytree as pytree

from brevitas.quant_tensor._compare import is_script_traced
from brevitas.quant_tensor.base_quant_tensor import (
    FieldName,
    IntMixin,
    IntQuantTensorBase,
    QuantTensor,
    flag_tensor,
)
from brevitas.quant_tensor.int_torch_handler import INT_QUANT_TENSOR_FN_HANDLER
from brevitas.quant_tensor.torch_handler import QUANT_TENSOR_FN_HANDLER

__all__ = ["INT_QUANT_TENSOR_FN_HANDLER", "QUANT_TENSOR_FN_HANDLER", "IntQuantTensor"]


def as_field(field: Any, value: Tensor) -> Any:
    """A Python number as a float32 scalar next to `value`; anything else unchanged."""
    if isinstance(field, (int, float)):
        # Filled on the device: a copy from the host would wait for it.
        number = _nearest_float32(field)
        return torch.full((), number, dtype=torch.float32, device=value.device)
    return field


def _nearest_float32(number: float) -> float:
    """A number as float32 holds it: a compiler may put it into float64 arithmetic as it is."""
    if not math.isfinite(number):
        return number
    significand, exponent = math.frexp(number)
    return math.ldexp(round(significand * 2**24), exponent - 24)


def _new(
    cls: type[IntQuantTensor],
    value: Tensor,
    scale: Tensor | float,
    zero_point: Tensor | float,
    bit_width: Tensor | float,
    signed: bool | Tensor,
    training: bool | Tensor,
) -> IntQuantTensor:
    has_zero_point = None if isinstance(zero_point, Tensor) else zero_point != 0
    if value is not None and not isinstance(value, Tensor):
        raise TypeError(f"IntQuantTensor(value={value!r}): expected a tensor of real values.")
    if isinstance(bit_width, (int, float)) and not (bit_width >= 1 and bit_width == int(bit_width)):
        raise ValueError(f"IntQuantTensor(bit_width={bit_width!r}): expected a whole number >= 1.")
    scale = as_field(scale, value)
    zero_point = as_field(zero_point, value)
    bit_width = as_field(bit_width, value)
    if value is not None and not is_script_traced():  # metadata alone has no value
        check_fields(value, scale=scale, zero_point=zero_point, bit_width=bit_width)
    tensors = (value, scale, zero_point, bit_width)
    return _build(cls, tensors, bool(signed), bool(training), has_zero_point)


def check_fields(value: Any, **fields: Any) -> None:
    """Refuse fields that do not describe the value."""
    shape = value.shape
    for name, field in fields.items():
        if not isinstance(field, Tensor):
            raise TypeError(f"IntQuantTensor({name}={field!r}): expected a tensor or a number.")
        trailing = zip(reversed(field.shape), reversed(shape), strict=False)
        if field.dim() > len(shape) or any(own not in (1, size) for own, size in trailing):
            raise ValueError(
                f"IntQuantTensor({name} of shape {tuple(field.shape)}, value of shape "
                f"{tuple(shape)}): expected one number, or a shape that broadcasts to the "
                f"value's; reshape {name}, e.g. to (1, channels, 1, 1) for images."
            )


def _build(
    cls: type[IntQuantTensor],
    tensors: tuple[Any, ...],
    signed: bool,
    training: bool,
    has_zero_point: bool | None,
) -> IntQuantTensor:
    flags: tuple[Any, Any] = (signed, training)
    if is_script_traced():
        # TorchScript returns tensors only, and only those that the trace has made.
        flags = (flag_tensor(signed), flag_tensor(training))
    self = tuple.__new__(cls, (*tensors, *flags))
    # Attributes, not items: tracers read a field of a named tuple by its name, and `signed_t`
    # is a tensor, whereas a flag has to be a constant of the graph.
    object.__setattr__(self, "signed", signed)
    object.__setattr__(self, "training", training)
    object.__setattr__(self, "_has_zero_point", has_zero_point)
    return self


# The base keeps the constructor, since tracers take a class for a named tuple only if it has the
# constructor of its base.
IntQuantTensorBase.__new__ = _new  # type: ignore[method-assign]


class IntQuantTensor(IntMixin, QuantTensor, IntQuantTensorBase):
    """Affine integer tensor: `value = (integer - zero_point) * scale`.

    Invariants: `value`, `scale`, `zero_point` and `bit_width` are tensors, scale and zero point
    broadcast against the value, `signed` and `training` are Python booleans; nothing changes
    after construction. The integers lie in `[-2**(b-1), 2**(b-1) - 1]` if signed, else in
    `[0, 2**b - 1]`; `is_valid` tells whether they do.

    Args:
        value: Real values, any shape.
        scale: Real value of one integer step, broadcastable to value. Python numbers become
            float32 tensors on the device of the value, here and below.
        zero_point: Integer that stands for zero, broadcastable to value; a real number where a
            float bias is folded in.
        bit_width: Bits of the integers.
        signed: Whether the integers have a sign.
        training: Whether scales may still differ between operands.

    Example:
        >>> x = IntQuantTensor(torch.tensor([0.5, -1.]), 0.5, 0., 8, signed=True, training=False)
        >>> x.int()
        tensor([ 1, -2], dtype=torch.int8)
        >>> (x + x).bit_width
        tensor(9.)

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", CVPR 2018, equation 1.
    """

    __new__ = IntQuantTensorBase.__new__
    _fields = tuple(FieldName(name) for name in IntQuantTensorBase._fields)

    _function_handlers = (INT_QUANT_TENSOR_FN_HANDLER, QUANT_TENSOR_FN_HANDLER)
    _tensor_fields = ("value", "scale", "zero_point", "bit_width")
    _broadcast_fields = ("scale", "zero_point")

    def set(self, **kwargs: Any) -> IntQuantTensor:
        """Copy with some fields replaced; see `QuantTensor.set`."""
        result = super().set(**kwargs)
        if "zero_point" not in kwargs:
            object.__setattr__(result, "_has_zero_point", self._has_zero_point)
        return result

    def _derive(
        self, value: Tensor, scale: Tensor | None = None, zero_point: Tensor | None = None
    ) -> IntQuantTensor:
        scale = self.scale if scale is None else scale
        zero_point = self.zero_point if zero_point is None else zero_point
        tensors = (value, scale, zero_point, self.bit_width)
        return _build(type(self), tensors, self.signed, self.training, self._has_zero_point)

    @classmethod
    def _from_fields(
        cls,
        value: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bit_width: Tensor,
        signed: bool,
        training: bool,
        has_zero_point: bool | None = None,
    ) -> IntQuantTensor:
        tensors = (value, scale, zero_point, bit_width)
        return _build(cls, tensors, signed, training, has_zero_point)

    @classmethod
    def _make(cls, iterable: Any) -> IntQuantTensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return cls(*iterable)

    @staticmethod
    def cat(tensors: Any, dim: int = 0, out: None = None) -> Any:
        """Concatenate as `torch.cat`; see `brevitas.quant_tensor._int_arithmetic.concatenate`."""
        return torch.cat(list(tensors), dim, out=out)


QuantTensor._default_class = IntQuantTensor


def _flatten(x: IntQuantTensor) -> tuple[list[Any], tuple[bool | None, ...]]:
    fields = [x.value, x.scale, x.zero_point, x.bit_width]
    return fields, (x.signed, x.training, x._has_zero_point)


def _flatten_with_keys(x: IntQuantTensor) -> tuple[list[Any], tuple[bool | None, ...]]:
    fields, flags = _flatten(x)
    names = IntQuantTensor._tensor_fields
    return [(pytree.GetAttrKey(n), f) for n, f in zip(names, fields, strict=True)], flags


def _unflatten(fields: Any, flags: Any) -> IntQuantTensor:
    # Leaves may be anything while a transform is under way: no conversion, no check.
    return _build(IntQuantTensor, tuple(fields), *flags)


pytree.register_pytree_node(
    IntQuantTensor,
    _flatten,
    _unflatten,
    serialized_type_name="brevitas.quant_tensor.IntQuantTensor",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=_flatten_with_keys,
)
# Exported programs flatten their inputs by a table of their own.
fx_pytree.register_pytree_flatten_spec(IntQuantTensor, lambda x, spec: _flatten(x)[0])
