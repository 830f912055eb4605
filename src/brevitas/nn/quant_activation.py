"""Quantized activation functions. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any

from torch import nn

from brevitas.nn.quant_layer import ActQuantType, QuantNonLinearActLayer
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatMinMaxInit,
    Uint8ActPerTensorFloat,
)

__all__ = [
    "QuantHardSwish",
    "QuantHardTanh",
    "QuantIdentity",
    "QuantReLU",
    "QuantSigmoid",
    "QuantTanh",
    "Sigmoid",
    "Tanh",
]

Sigmoid = nn.Sigmoid
Tanh = nn.Tanh


class QuantReLU(QuantNonLinearActLayer):
    """ReLU followed by a quantizer, 8-bit unsigned by default.

    Args:
        act_quant: quantizer of the output; None for a plain ReLU.
        input_quant: quantizer of the input, or None.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=4``; those of the input
            quantizer start with ``input_``.

    Example:
        >>> import torch
        >>> y = QuantReLU(bit_width=4, return_quant_tensor=True)(torch.tensor([-1.0, 15.0, 3.2]))
        >>> y.int()
        tensor([ 0, 15,  3], dtype=torch.uint8)
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        input_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.ReLU, True, input_quant, act_quant, return_quant_tensor, **kwargs)


class QuantSigmoid(QuantNonLinearActLayer):
    """Sigmoid followed by a quantizer, 8-bit unsigned by default; arguments as ``QuantReLU``.

    Example:
        >>> import torch
        >>> QuantSigmoid()(torch.zeros(1)).shape
        torch.Size([1])
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        input_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.Sigmoid, False, input_quant, act_quant, return_quant_tensor, **kwargs)


class QuantTanh(QuantNonLinearActLayer):
    """Tanh followed by a quantizer, 8-bit signed by default; arguments as ``QuantReLU``.

    Example:
        >>> import torch
        >>> QuantTanh()(torch.zeros(1)).shape
        torch.Size([1])
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Int8ActPerTensorFloat,
        input_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.Tanh, False, input_quant, act_quant, return_quant_tensor, **kwargs)


class QuantHardTanh(QuantNonLinearActLayer):
    """A quantizer over a range given as ``min_val`` and ``max_val``: the clamp is its own.

    Args:
        act_quant: quantizer of the output; None for the identity.
        input_quant: quantizer of the input, or None.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer; the default one needs ``min_val``, ``max_val``.

    Example:
        >>> import torch
        >>> QuantHardTanh(min_val=-1.0, max_val=1.0)(torch.tensor([-3.0])).item()
        -1.0
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Int8ActPerTensorFloatMinMaxInit,
        input_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        act_impl = nn.Hardtanh if act_quant is None else None
        super().__init__(act_impl, True, input_quant, act_quant, return_quant_tensor, **kwargs)


class QuantHardSwish(QuantNonLinearActLayer):
    """Hard swish, ``x * clamp(x + 3, 0, 6) / 6``, followed by a quantizer.

    Arguments as ``QuantReLU``. Its smallest value is -0.375, which the unsigned quantizer of the
    default clips to zero: choose a signed ``act_quant`` to keep it.

    Example:
        >>> import torch
        >>> QuantHardSwish()(torch.zeros(1)).shape
        torch.Size([1])

    Reference: Howard et al., "Searching for MobileNetV3", 2019.
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        input_quant: ActQuantType | None = None,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(nn.Hardswish, False, input_quant, act_quant, return_quant_tensor, **kwargs)


class QuantIdentity(QuantNonLinearActLayer):
    """A quantizer on its own, 8-bit signed by default.

    Args:
        act_quant: quantizer; None for the identity.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: declarations of the quantizer, e.g. ``bit_width=4``.

    Example:
        >>> import torch
        >>> QuantIdentity(return_quant_tensor=True)(torch.tensor([1.0, -0.5])).int()
        tensor([127, -64], dtype=torch.int8)
    """

    def __init__(
        self,
        act_quant: ActQuantType | None = Int8ActPerTensorFloat,
        return_quant_tensor: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(None, True, None, act_quant, return_quant_tensor, **kwargs)
