"""What binary and ternary quantizers share: they run fused, or part by part. Layer: core (L3)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from brevitas.core.quant._plan import may_fuse
from brevitas.ops.sign_quant import SignPlan, sign_quant
from brevitas.utils.torch_utils import widened

__all__ = ["SignToInt", "quantize_signs", "with_dimension"]

#: ``(x, scale) -> integers in a float tensor``, through the parts.
SignToInt = Callable[[Tensor, Tensor], Tensor]


def with_dimension(scale: Tensor) -> Tensor:
    """Return a scale with at least one dimension, which that of these quantizers always has.

    Example:
        >>> import torch
        >>> with_dimension(torch.tensor(0.5))
        tensor([0.5000])
    """
    return scale.reshape(1) if scale.dim() == 0 else scale


def quantize_signs(
    x: Tensor,
    scale: Tensor,
    to_int: SignToInt,
    delay: nn.Module,
    plan: SignPlan | None,
    *parts: nn.Module,
) -> Tensor:
    """Quantize and dequantize: in one operation, or part by part with equal values.

    Args:
        x: real values, any shape; integers are taken as real values of the scale's dtype.
        scale: real value of 1, broadcastable to ``x``.
        to_int: the quantizer's own parts.
        delay: decides between the real and the quantized value.
        plan: what the fused operation is to do; None where a part is not ours.
        *parts: parts that the fused operation leaves out, besides the delay.

    Returns:
        Tensor of the dtype of ``x``.
    """
    x = x if x.is_floating_point() else x.to(scale.dtype)
    if plan is not None and may_fuse(delay, *parts):
        return sign_quant(x, scale, plan)
    return delay(x, (to_int(widened(x), scale) * scale).to(x.dtype))
