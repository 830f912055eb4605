"""The operators of QONNX, each defined once: their values, and their nodes under a trace.

Layer: export (L8). Format: https://github.com/fastmachinelearning/qonnx
"""

from __future__ import annotations

import torch
from torch import Tensor

from brevitas.export.common.rounding import (
    fake_quantize,
    fake_quantize_float,
    round_as,
)
from brevitas.export.common.session import ExportSession, emit
from brevitas.export.common.spec import FloatSpec, QuantSpec
from brevitas.utils.torch_utils import widened

__all__ = [
    "QONNX_DOMAIN_STRING",
    "QONNX_DOMAIN_VERSION",
    "bipolar_quant",
    "float_quant",
    "quant",
    "trunc",
    "trunc_keeping_scale",
]

QONNX_DOMAIN_STRING = "qonnx.custom_op.general"
QONNX_DOMAIN_VERSION = 2

# QONNX calls rounding towards zero DOWN.
_ROUNDING_NAMES = {"ROUND_TO_ZERO": "DOWN"}
# Roundings after which dropping n low bits of an integer of b bits leaves one of b - n bits.
_CUTTING_OFF = ("FLOOR", "ROUND_TO_ZERO")


def _rounding_name(rounding_mode: str) -> str:
    name = rounding_mode.upper()
    return _ROUNDING_NAMES.get(name, name)


def _emit(
    operator: str,
    x: Tensor,
    parameters: dict[str, Tensor],
    attributes: dict[str, int | str],
    proxy: str,
    session: ExportSession | None,
    version: int = QONNX_DOMAIN_VERSION,
) -> Tensor:
    wide = widened(x)
    y = emit(
        operator,
        {"": wide, **parameters},
        attributes,
        wide,
        wide.dtype,
        domain=QONNX_DOMAIN_STRING,
        version=version,
        proxy=proxy,
        session=session,
    )
    return y.to(x.dtype)


def quant(x: Tensor, spec: QuantSpec, session: ExportSession | None = None) -> Tensor:
    """Quantize to integers of any width: the node ``Quant``, or ``BipolarQuant`` for one bit.

    ``y = (clamp(round(x / scale + zp), lo, hi) - zp) * scale``

    Args:
        x: any float tensor.
        spec: the quantizer.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> spec = QuantSpec(0.5, 0.0, 4, True, False)
        >>> quant(torch.tensor([0.6, 9.0]), spec)
        tensor([0.5000, 3.5000])
    """
    if spec.is_binary:
        return bipolar_quant(x, spec, session)
    if not torch.compiler.is_exporting():
        return fake_quantize(x, spec)
    parameters = {
        "scale": spec.scale,
        "zero_point": spec.zero_point,
        "bit_width": spec.bit_width,
    }
    attributes: dict[str, int | str] = {
        "signed": int(spec.signed),
        "narrow": int(spec.narrow_range),
        "rounding_mode": _rounding_name(spec.rounding_mode),
    }
    return _emit("Quant", x, parameters, attributes, spec.name, session)


def bipolar_quant(x: Tensor, spec: QuantSpec, session: ExportSession | None = None) -> Tensor:
    """Quantize to two values, ``y = scale if x >= 0 else -scale``: the node ``BipolarQuant``.

    Args:
        x: any float tensor.
        spec: a signed quantizer of one bit.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> spec = QuantSpec(0.5, 0.0, 1, True, True)
        >>> bipolar_quant(torch.tensor([-0.1, 0.0, 3.0]), spec)
        tensor([-0.5000,  0.5000,  0.5000])
    """
    if not torch.compiler.is_exporting():
        return fake_quantize(x, spec)
    return _emit("BipolarQuant", x, {"scale": spec.scale}, {}, spec.name, session)


def trunc(
    x: Tensor, source: QuantSpec, target: QuantSpec, session: ExportSession | None = None
) -> Tensor:
    """Drop the low bits of integers: the node ``Trunc`` of version 2.

    ``y = (round(clamp(round(x / s + zp) * s / s', lo, hi)) - zp * s / s') * s'``

    Args:
        x: values on the grid of ``source``.
        source: the integers that come in, at scale ``s``.
        target: the integers that go out, at the scale ``s'``, a power of two coarser.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> source = QuantSpec(0.5, 0.0, 8, True, False)
        >>> target = QuantSpec(2.0, 0.0, 6, True, False, "FLOOR")
        >>> trunc(torch.tensor([3.5]), source, target)
        tensor([2.])
    """
    if not torch.compiler.is_exporting():
        factor = torch.exp2(torch.round(torch.log2(target.scale / source.scale)))
        integers = torch.round(x / source.scale + source.zero_point) / factor
        integers = torch.clamp(integers, target.minimum, target.maximum)
        integers = round_as(target.rounding_mode, target.name)(integers)
        return (integers - source.zero_point / factor) * target.scale
    parameters = {
        "scale": source.scale,
        "zero_point": source.zero_point,
        "input_bit_width": source.bit_width,
        "output_scale": target.scale,
        "output_bit_width": target.bit_width,
    }
    attributes: dict[str, int | str] = {
        "signed": int(target.signed),
        "narrow": int(target.narrow_range),
        "rounding_mode": _rounding_name(target.rounding_mode),
    }
    if session is not None:
        session.pin(QONNX_DOMAIN_STRING, QONNX_DOMAIN_VERSION, target.name)
    return _emit("Trunc", x, parameters, attributes, target.name, session)


def trunc_keeping_scale(
    x: Tensor, source: QuantSpec, target: QuantSpec, session: ExportSession | None = None
) -> Tensor:
    """Drop the low bits of integers but keep their scale: the node ``Trunc`` of version 1.

    ``y = (round(round(x / s + zp) / 2 ** (input bits - output bits)) - zp) * s``, clamped by a
    node of its own where the rounding could leave the range, which cutting off never does.

    Args:
        x: values on the grid of ``source``.
        source: the integers that come in.
        target: the integers that go out, at the same scale.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> source = QuantSpec(0.5, 0.0, 8, True, False)
        >>> target = QuantSpec(0.5, 0.0, 6, True, False, "FLOOR")
        >>> trunc_keeping_scale(torch.tensor([3.5]), source, target)
        tensor([0.5000])
    """
    steps = 2.0 ** (source.bits - target.bits)
    rounding = round_as(target.rounding_mode, target.name)
    stays_in_range = target.rounding_mode.upper() in _CUTTING_OFF and not target.narrow_range
    if not torch.compiler.is_exporting():
        integers = rounding(torch.round(widened(x) / source.scale + source.zero_point) / steps)
        y = ((integers - source.zero_point) * source.scale).to(x.dtype)
    else:
        parameters = {
            "scale": source.scale,
            "zero_point": source.zero_point,
            "input_bit_width": source.bit_width,
            "output_bit_width": target.bit_width,
        }
        attributes: dict[str, int | str] = {"rounding_mode": _rounding_name(target.rounding_mode)}
        if session is not None:
            session.pin(QONNX_DOMAIN_STRING, 1, target.name)
        y = _emit("Trunc", x, parameters, attributes, target.name, session, version=1)
    if stays_in_range:
        return y
    low = (target.minimum - source.zero_point) * source.scale
    high = (target.maximum - source.zero_point) * source.scale
    return torch.clamp(y, low.to(y.dtype), high.to(y.dtype))


def float_quant(x: Tensor, spec: FloatSpec, session: ExportSession | None = None) -> Tensor:
    """Quantize to minifloats: the node ``FloatQuant``.

    Args:
        x: any float tensor.
        spec: the quantizer.
        session: the export under way.

    Returns:
        Tensor of the shape and dtype of ``x``.

    Example:
        >>> spec = FloatSpec(1.0, 4, 3, 7, 448.0, has_inf=False, has_nan=True)
        >>> float_quant(torch.tensor([17.0]), spec)
        tensor([16.])
    """
    if not torch.compiler.is_exporting():
        return fake_quantize_float(x, spec)
    parameters = {
        "scale": spec.scale,
        "exponent_bit_width": spec.exponent_bit_width,
        "mantissa_bit_width": spec.mantissa_bit_width,
        "exponent_bias": spec.exponent_bias,
        "max_value": spec.max_value,
    }
    attributes: dict[str, int | str] = {
        "has_inf": int(spec.has_inf),
        "has_nan": int(spec.has_nan),
        "has_subnormal": 1,
        "saturation": int(spec.saturating),
        "rounding_mode": _rounding_name(spec.rounding_mode),
    }
    return _emit("FloatQuant", x, parameters, attributes, spec.name, session)
