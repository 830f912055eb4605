"""Gradient descent by the signs of gradients: every weight moves by the same amount.

Layer: optim (L0). Method: Bernstein, Wang, Azizzadenesheli, Anandkumar, "signSGD: Compressed
Optimisation for Non-Convex Problems", ICML 2018, https://arxiv.org/abs/1802.04434
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from brevitas.optim._direction import direction

__all__ = ["SignSGD", "sign_sgd"]


class SignSGD(Optimizer):
    """``torch.optim.SGD`` with the sign of its direction: ``p = p - lr * sign(d)``.

    ``d`` is the gradient with weight decay, or its momentum ``m = momentum * m + (1 - dampening) *
    d`` (the method Signum); a direction of exactly zero moves nothing.

    Args:
        params: parameters, or groups of them; each group may have its own options.
        lr: learning rate, the length of every weight's step.
        momentum: share of the last momentum that is kept.
        dampening: share of the gradient that does not enter the momentum.
        weight_decay: decay of weights by their square.
        nesterov: look one step ahead.
        maximize: climb instead of descending.
        foreach: as in ``torch.optim.SGD``; all tensors at once where True.
        differentiable: let gradients flow through the step.
        fused: there is no fused kernel; must not be True.

    Raises:
        ValueError: on an option out of range.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -1.0]))
        >>> optimizer = SignSGD([weight], lr=0.25)
        >>> (weight * torch.tensor([100.0, -0.01])).sum().backward()
        >>> optimizer.step()
        >>> weight.data
        tensor([ 0.7500, -0.7500])
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        for name, number in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not number >= 0:
                raise ValueError(f"{name}={number!r}: expected a number >= 0.")
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"nesterov=True with momentum={momentum!r}, dampening={dampening!r}: expected a "
                "momentum, and no dampening."
            )
        _refuse_fused(fused)
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: computes the loss and its gradients anew; it runs with gradients enabled.

        Returns:
            What ``closure`` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with torch.set_grad_enabled(group["differentiable"]):
                self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        buffers = [self.state[p].get("momentum_buffer") for p in parameters]
        sign_sgd(
            parameters,
            [p.grad for p in parameters],
            buffers,
            foreach=group["foreach"],
            fused=group["fused"],
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=group["dampening"],
            nesterov=group["nesterov"],
            maximize=group["maximize"],
        )
        for parameter, buffer in zip(parameters, buffers, strict=True):
            if buffer is not None:
                self.state[parameter]["momentum_buffer"] = buffer


def _refuse_fused(fused: bool | None) -> None:
    if fused:
        raise ValueError(f"fused={fused!r}: there is no fused kernel; expected None or False.")


def sign_sgd(
    params: list[Tensor],
    d_p_list: list[Tensor],
    momentum_buffer_list: list[Tensor | None],
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    *,
    weight_decay: float,
    momentum: float,
    lr: float,
    dampening: float,
    nesterov: bool,
    maximize: bool,
) -> None:
    """Take one step of ``SignSGD``, in place, without an optimizer around it.

    Args:
        params: tensors to move.
        d_p_list: their gradients.
        momentum_buffer_list: their momenta, None before the first step; new ones are put in.
        has_sparse_grad: whether a gradient may be sparse.
        foreach: move all tensors by one call.
        fused: must not be True.
        grad_scale: what gradients were multiplied by.
        found_inf: nonzero where a gradient overflowed, and nothing is to be done.
        weight_decay: decay of weights by their square.
        momentum: share of the last momentum that is kept.
        lr: length of the step.
        dampening: share of the gradient that does not enter the momentum.
        nesterov: look one step ahead.
        maximize: climb instead of descending.

    Raises:
        ValueError: for ``fused=True``.

    Example:
        >>> weight, gradient = torch.tensor([1.0]), torch.tensor([-7.0])
        >>> options = {"momentum": 0.0, "dampening": 0.0, "nesterov": False, "maximize": False}
        >>> sign_sgd([weight], [gradient], [None], weight_decay=0.0, lr=0.5, **options)
        >>> weight
        tensor([1.5000])
    """
    _refuse_fused(fused)
    if found_inf is not None and bool(found_inf):
        return
    signs = []
    for i, (parameter, gradient) in enumerate(zip(params, d_p_list, strict=True)):
        if grad_scale is not None:
            gradient = gradient / grad_scale
        towards, momentum_buffer_list[i] = direction(
            -gradient if maximize else gradient,
            parameter,
            momentum_buffer_list[i],
            weight_decay=weight_decay,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
        )
        signs.append(torch.sign(towards.coalesce() if towards.is_sparse else towards))
    if foreach and params and not has_sparse_grad:
        torch._foreach_add_(params, signs, alpha=-lr)  # pyright: ignore[reportPrivateImportUsage]
        return
    for parameter, sign in zip(params, signs, strict=True):
        parameter.add_(sign, alpha=-lr)
