"""What all fused elementwise operations share: broadcasts, batches, reduced gradients.

Layer: ops (L1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["batch_first", "is_expandable", "is_plain_eager", "needs_autograd", "reduced_to"]

_PLAIN = (Tensor, torch.nn.Parameter)


def is_plain_eager(x: Tensor) -> bool:
    """True for a tensor of no further meaning in code that no compiler, tracer or transform reads.

    Example:
        >>> is_plain_eager(torch.ones(1))
        True
    """
    return (
        type(x) in _PLAIN
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def needs_autograd(operands: tuple[Any, ...]) -> bool:
    """True where a gradient may be asked for, forward or backward, or a transform looks on.

    Args:
        operands: tensors, and anything else.

    Example:
        >>> needs_autograd((torch.ones(1), 2.0)), needs_autograd((torch.ones(1).requires_grad_(),))
        (False, True)
    """
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return torch.is_grad_enabled() and any(
        isinstance(operand, Tensor) and operand.requires_grad for operand in operands
    )


def is_expandable(operand: Tensor, target: Tensor) -> bool:
    """True where ``operand`` broadcasts to the shape of ``target``.

    Example:
        >>> row, matrix = torch.ones(3), torch.ones(2, 3)
        >>> is_expandable(row, matrix), is_expandable(matrix, row)
        (True, False)
    """
    return torch.broadcast_shapes(operand.shape, target.shape) == target.shape


def reduced_to(operand: Tensor, grad: Tensor) -> Tensor:
    """Sum a gradient over what was broadcast, in the shape and dtype of ``operand``.

    Example:
        >>> reduced_to(torch.ones(2, 1), torch.ones(2, 3))
        tensor([[3.],
                [3.]])
    """
    return grad.sum_to_size(operand.shape).to(operand.dtype)


def batch_first(info: Any, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]) -> list[Any]:
    """Move batch dimensions to the front and align, for an elementwise function of broadcasts.

    Args:
        info: what ``torch.vmap`` hands to an ``autograd.Function``, with ``batch_size``.
        in_dims: batch dimension of each input, None where it has none.
        inputs: the inputs; the first one has as many dimensions as the result.
    """
    logical = inputs[0].dim() - (in_dims[0] is not None)
    aligned = list(inputs)
    for index, (value, dim) in enumerate(zip(inputs, in_dims, strict=True)):
        if dim is not None:
            batched = value.movedim(dim, 0)
            padding = (1,) * (logical - (batched.dim() - 1))
            aligned[index] = batched.reshape(batched.shape[0], *padding, *batched.shape[1:])
    if in_dims[0] is None:
        aligned[0] = inputs[0].expand(info.batch_size, *inputs[0].shape)
    return aligned
