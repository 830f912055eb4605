"""One value forward, the gradient of another backward.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from brevitas.ops._elementwise import needs_autograd
from brevitas.utils.autograd import DirectFunction


class _StraightThroughFn(DirectFunction):
    """Gives its second argument, and passes the gradient to its first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(soft: Tensor, hard: Tensor) -> Tensor:
        return hard.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        return None

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Any, None]:
        return grad_outputs[0], None


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """`hard`, bit for bit, with the gradient of `soft`.

    `soft + (hard - soft).detach()` would round, and need not give `hard`.

    Args:
        soft: Differentiable stand-in, of the shape and dtype of `hard`.
        hard: The value.

    Returns:
        `hard` itself where no gradient is asked for.

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> y = straight_through(2 * x, torch.tensor([5.]))
        >>> y.detach(), torch.autograd.grad(y, x)
        (tensor([5.]), (tensor([2.]),))
    """
    if not needs_autograd((soft,)):
        return hard
    return _StraightThroughFn.apply(soft, hard)
