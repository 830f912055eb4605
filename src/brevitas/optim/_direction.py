"""The direction of a step with momentum, as ``torch.optim.SGD`` has it. Layer: optim (L0)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["direction"]


def direction(
    gradient: Tensor,
    parameter: Tensor,
    buffer: Tensor | None,
    *,
    weight_decay: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return the direction to go against, and the momentum to keep.

    ``d = gradient + weight_decay * parameter``; the momentum is ``m = momentum * m + (1 -
    dampening) * d``, at first ``d``; the direction is ``m``, or ``d + momentum * m`` with Nesterov.

    Args:
        gradient: of the parameter.
        parameter: read for the decay.
        buffer: momentum so far, overwritten; None at the first step.
        weight_decay: decay of weights by their square.
        momentum: share of the last momentum that is kept; 0 for none.
        dampening: share of the gradient that does not enter the momentum.
        nesterov: look one step ahead.

    Example:
        >>> import torch
        >>> options = {"weight_decay": 0.0, "momentum": 0.5, "dampening": 0.0, "nesterov": False}
        >>> _, buffer = direction(torch.tensor(2.0), torch.tensor(1.0), None, **options)
        >>> direction(torch.tensor(0.0), torch.tensor(1.0), buffer, **options)[0]
        tensor(1.)
    """
    if weight_decay != 0:
        gradient = gradient.add(parameter, alpha=weight_decay)
    if momentum == 0:
        return gradient, None
    if buffer is None:
        buffer = gradient.detach().clone()
    else:
        buffer.mul_(momentum).add_(gradient, alpha=1 - dampening)
    return (gradient.add(buffer, alpha=momentum) if nesterov else buffer), buffer
