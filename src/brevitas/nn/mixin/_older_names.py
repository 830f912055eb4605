"""Names that layers had in earlier releases, each an alias of its home of today. Layer: nn (L6).

Nothing in the library reads them. ``docs/older_names.md`` lists them for users.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

from brevitas.common import QuantLayerConfigurationError
from brevitas.quant_tensor import QuantTensor

__all__ = ["TENSORS", "older_names", "older_padding_type", "take_padding_type", "with_older_names"]

Mixin = TypeVar("Mixin", bound=type)

#: The quantized tensors of layers, by the start of their quantizers' names.
TENSORS = ("weight", "bias", "input", "output", "act")

# What a quantizer answers today -> the older name on the layer, where {} is the tensor.
_METHODS = {
    "scale": "quant_{}_scale",
    "zero_point": "quant_{}_zero_point",
    "bit_width": "quant_{}_bit_width",
}
_PROPERTIES = {
    "is_quant_enabled": "is_{}_quant_enabled",
    "is_signed": "is_quant_{}_signed",
    "is_narrow_range": "is_quant_{}_narrow_range",
}
_INTEGERS = {"weight": "int_weight", "bias": "int_bias"}


class OlderName(NamedTuple):
    """What is written today in place of an older name, and the attribute that gives the same."""

    today: str
    attribute: Any


def older_names(tensor: str) -> dict[str, OlderName]:
    """Map the older names for one tensor of a layer to what stands for them today.

    Args:
        tensor: one of ``TENSORS``.

    Example:
        >>> older_names("weight")["quant_weight_scale"].today
        'weight_quant.scale()'
    """
    quantizer = f"{tensor}_quant"
    found: dict[str, OlderName] = {}
    for field, pattern in _METHODS.items():
        if tensor == "bias":
            # The quantizer alone does not know the scale of an accumulator, and says None.
            found[pattern.format(tensor)] = OlderName(f"quant_bias().{field}", _bias_field(field))
        else:
            today = f"{quantizer}.{field}()"
            found[pattern.format(tensor)] = OlderName(today, _answer(quantizer, field))
    for flag, pattern in _PROPERTIES.items():
        today = f"{quantizer}.{flag}"
        found[pattern.format(tensor)] = OlderName(today, property(attrgetter(today)))
    if tensor in _INTEGERS:
        found[_INTEGERS[tensor]] = OlderName(f"quant_{tensor}().int()", _integers(tensor))
    return found


def with_older_names(tensor: str) -> Callable[[Mixin], Mixin]:
    """Give a mixin the older names for its tensor, as methods and properties of the class."""

    def decorate(mixin: Mixin) -> Mixin:
        for name, (today, attribute) in older_names(tensor).items():
            assert name not in dir(mixin), f"{mixin.__name__}.{name} has another meaning"
            attribute.__doc__ = f"Older name of ``{today}``."
            if not isinstance(attribute, property):
                attribute.__name__, attribute.__module__ = name, mixin.__module__
                attribute.__qualname__ = f"{mixin.__qualname__}.{name}"
            setattr(mixin, name, attribute)
        return mixin

    return decorate


def _answer(quantizer: str, field: str) -> Callable[[Any], Tensor | None]:
    def read(self: Any) -> Tensor | None:
        return getattr(getattr(self, quantizer), field)()

    return read


def _bias_field(field: str) -> Callable[[Any], Tensor | None]:
    def read(self: Any) -> Tensor | None:
        quant_bias = self.quant_bias()
        return getattr(quant_bias, field) if isinstance(quant_bias, QuantTensor) else None

    return read


def _integers(tensor: str) -> Callable[..., Tensor | None]:
    def read(self: Any, float_datatype: bool = False) -> Tensor | None:
        quantized = getattr(self, f"quant_{tensor}")()
        if isinstance(quantized, Tensor):
            raise QuantLayerConfigurationError(
                f"int_{tensor}(): {tensor}_quant is None or disabled, so that the {tensor} has no "
                f"integers; give the layer a quantizer (e.g. {tensor}_quant=...), or read "
                f"`{tensor}`. Layer: {type(self).__name__}({self.extra_repr()})"
            )
        return None if quantized is None else quantized.int(float_datatype)

    return read


def take_padding_type(kwargs: dict[str, Any], padding: Any, transposed: bool = False) -> Any:
    """Take the older keyword ``padding_type`` out of the keywords; return the padding it means.

    Args:
        kwargs: keywords of a convolution; changed in place.
        padding: its ``padding``.
        transposed: whether the convolution is transposed; such have no ``"same"`` padding.

    Raises:
        ValueError: for another type than ``"standard"`` and ``"same"``, or padding besides.

    Example:
        >>> take_padding_type({"padding_type": "same"}, 0), take_padding_type({}, 1)
        ('same', 1)
    """
    padding_type = kwargs.pop("padding_type", "standard")
    if padding_type == "standard":
        return padding
    if transposed or padding_type != "same":
        accepted = "'standard'" if transposed else "'standard' or 'same'"
        raise ValueError(f"padding_type={padding_type!r}: expected {accepted}.")
    sizes = padding if isinstance(padding, (tuple, list)) else (padding,)
    if padding != "same" and any(sizes):
        raise ValueError(f"padding={padding!r} with padding_type='same': expected padding=0.")
    return "same"


def _padding_type(self: Any) -> str:
    is_same = self.is_same_padded_strided or self.padding == "same"
    return "same" if is_same else "standard"


older_padding_type = property(_padding_type, doc="Older name: ``'same'`` for ``padding='same'``.")
