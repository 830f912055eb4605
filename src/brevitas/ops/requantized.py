"""A linear map whose quantized weight is not kept for the backward pass. Layer: ops (L1).

Autograd keeps the operands of a product. A quantized weight is as large as the weight, which is
there in any case, so it is quantized once more in the backward pass instead. The quantizer's own
backward pass, which comes next, is handed the result.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from brevitas.ops._elementwise import is_plain_eager
from brevitas.ops.self_scaled import Requantizer, requantizer_of
from brevitas.utils.autograd import DirectFunction

__all__ = ["linear"]

# Elements of a weight below which it costs less to keep than to quantize once more.
_LEAST = 65536


class _LinearFn(DirectFunction):
    """Keeps what the weight was quantized from."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, requantizer: Requantizer
    ) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.requantizer = requantizer
        ctx.save_for_backward(x, *requantizer.operands)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        x, *operands = ctx.saved_tensors
        weight = ctx.requantizer.quantize(*operands)
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        grad = grads[0]
        rows = grad.reshape(-1, grad.shape[-1])
        grad_x = grad.matmul(weight) if needs_x else None
        grad_weight = rows.t().mm(x.reshape(-1, x.shape[-1])) if needs_weight else None
        if not torch.is_grad_enabled():
            ctx.requantizer.hand_over(ctx.next_functions[1][0], weight, grad_weight)
        return grad_x, grad_weight, rows.sum(0) if needs_bias else None, None


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """``x @ weight.T + bias``, as ``torch.nn.functional.linear``.

    A large weight that was quantized by ``self_scaled_quant`` is not kept for the backward pass.

    Args:
        x: ``[..., in_features]``.
        weight: ``[out_features, in_features]``.
        bias: ``[out_features]``, or None.

    Returns:
        ``[..., out_features]``.

    Example:
        >>> linear(torch.ones(2, 3), torch.ones(4, 3)).shape
        torch.Size([2, 4])
    """
    if _can_requantize(x, weight, bias):
        requantizer = requantizer_of(weight)
        if requantizer is not None:
            return _LinearFn.apply(x, weight, bias, requantizer)
    return F.linear(x, weight, bias)


def _can_requantize(x: Any, weight: Any, bias: Any) -> bool:
    """Whether autograd would keep a large weight, in code that nobody else looks into."""
    operands = (x, weight) if bias is None else (x, weight, bias)
    if not torch.is_grad_enabled() or not all(is_plain_eager(operand) for operand in operands):
        return False
    if weight.numel() < _LEAST or not (x.requires_grad and weight.requires_grad):
        return False
    has_one_dtype = all(operand.dtype == weight.dtype for operand in operands)
    return has_one_dtype and x.dim() > 1 and not torch.is_autocast_enabled(x.device.type)
