"""The formulas behind the specs, in plain PyTorch. Layer: export (L8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from brevitas.export.common.spec import ExportError, FloatSpec, QuantSpec
from brevitas.utils.torch_utils import widened

__all__ = [
    "ROUNDING",
    "fake_quantize",
    "fake_quantize_float",
    "is_faithful",
    "quantize",
    "round_as",
    "rounding_remedy",
]

ROUNDING: dict[str, Callable[[Tensor], Tensor]] = {
    "ROUND": torch.round,
    "FLOOR": torch.floor,
    "CEIL": torch.ceil,
    "ROUND_TO_ZERO": torch.trunc,
}


#: What to change where no format can state a rounding, other than the rounding itself.
_REMEDIES = {"THRESHOLD": "set threshold=0.5, which rounds to the nearest value"}


def rounding_remedy(rounding_mode: str, otherwise: str) -> str:
    """Say what to do about a rounding that a format cannot state.

    Args:
        rounding_mode: name as on a proxy, in any case.
        otherwise: the advice for roundings that a quantizer chooses freely.

    Example:
        >>> rounding_remedy("THRESHOLD", "round to nearest")
        'set threshold=0.5, which rounds to the nearest value'
    """
    return _REMEDIES.get(rounding_mode.upper(), otherwise)


def round_as(rounding_mode: str, name: str) -> Callable[[Tensor], Tensor]:
    """Look up a rounding that an exported graph can state.

    Args:
        rounding_mode: name as on a proxy, in any case.
        name: dotted name of the proxy, for the message.

    Returns:
        The elementwise function.

    Raises:
        ExportError: on a rounding outside of ``ROUNDING``.
    """
    function = ROUNDING.get(rounding_mode.upper())
    if function is None:
        remedy = rounding_remedy(rounding_mode, "set float_to_int_impl_type to one of them")
        raise ExportError(
            f"rounding_mode={rounding_mode!r}: an exported graph can state {', '.join(ROUNDING)}; "
            f"{remedy}. Layer: {name}"
        )
    return function


def quantize(x: Tensor, spec: QuantSpec) -> Tensor:
    """Compute the integers, ``clamp(round(x / scale + zp), lo, hi)``, in a float tensor.

    Args:
        x: any float tensor.
        spec: the quantizer.

    Returns:
        Whole numbers in the shape of ``x``, in its dtype or float32 where that is narrower.
    """
    x = widened(x)
    if spec.is_binary:
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    rounding = round_as(spec.rounding_mode, spec.name)
    integers = rounding(x / spec.scale + spec.zero_point)
    return torch.clamp(integers, spec.minimum, spec.maximum)


def fake_quantize(x: Tensor, spec: QuantSpec) -> Tensor:
    """Quantize and dequantize: the value that a node of the exported graph has.

    Args:
        x: any float tensor.
        spec: the quantizer.

    Returns:
        Tensor of the dtype and shape of ``x``.

    Example:
        >>> spec = QuantSpec(0.5, 0.0, 4, True, False)
        >>> fake_quantize(torch.tensor([0.6, 9.0]), spec)
        tensor([0.5000, 3.5000])
    """
    if spec.is_binary:
        return (quantize(x, spec) * spec.scale).to(x.dtype)
    return ((quantize(x, spec) - spec.zero_point) * spec.scale).to(x.dtype)


def fake_quantize_float(x: Tensor, spec: FloatSpec) -> Tensor:
    """Round to the nearest minifloat, saturating, subnormals included.

    The spacing around ``v = x / scale`` is ``2**(max(floor(log2|v|), 1 - bias) - mantissa)``.

    Args:
        x: any float tensor.
        spec: the quantizer.

    Returns:
        Tensor of the dtype and shape of ``x``.

    Example:
        >>> spec = FloatSpec(1.0, 4, 3, 7, 448.0, has_inf=False, has_nan=True)
        >>> fake_quantize_float(torch.tensor([17.0, 1000.0]), spec)
        tensor([ 16., 448.])
    """
    values = widened(x) / spec.scale
    # frexp gives an exact exponent, one above the floor of the logarithm.
    exponent = torch.frexp(values).exponent - 1.0
    exponent = torch.maximum(exponent, 1.0 - spec.exponent_bias)
    spacing = torch.exp2(exponent - spec.mantissa_bit_width)
    rounded = round_as(spec.rounding_mode, spec.name)(values / spacing) * spacing
    return (torch.clamp(rounded, -spec.max_value, spec.max_value) * spec.scale).to(x.dtype)


def is_faithful(x: Tensor, value: Tensor, spec: QuantSpec) -> bool:
    """Whether a quantizer computed what its spec says, up to ties in rounding.

    Runtimes add the zero point before or after rounding and divide or multiply, so an ``x`` on
    the edge between two integers may go either way. Any other difference means that the
    quantizer is not the affine one that the spec describes.

    Args:
        x: what was quantized.
        value: the dequantized result of the quantizer.
        spec: the description of the quantizer.

    Returns:
        True where an exported node stands for the quantizer.

    Example:
        >>> spec = QuantSpec(0.5, 0.0, 4, True, False)
        >>> x = torch.tensor([0.7])
        >>> is_faithful(x, torch.tensor([0.5]), spec), is_faithful(x, torch.tensor([1.0]), spec)
        (True, False)
    """
    # Off by more than a rounding of the product with the scale, be it in half precision.
    allowed = 1e-3 * spec.scale + 8 * torch.finfo(value.dtype).eps * value.abs()
    differs = (value - fake_quantize(x, spec)).abs() > allowed
    if spec.is_binary:  # a sign has no edge that a runtime computes
        return not bool(differs.any())
    steps = 2 * widened(x) / spec.scale
    # Half-integers are where any rounding switches; a float quotient is off by a few ulps.
    slack = 1e-3 + 8 * torch.finfo(steps.dtype).eps * steps.abs()
    at_edge = (steps - torch.round(steps)).abs() <= slack
    return not bool((differs & ~at_edge).any())
