"""The base of losses that hooks gather while a model runs. Layer: loss (L8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

__all__ = ["SimpleBaseLoss"]


class SimpleBaseLoss(ABC):
    """A loss that hooks add up in ``tot_loss`` while the model runs.

    Args:
        model: the model, on which ``register_hooks`` sets hooks.
        reg_coeff: factor of the loss.

    Example:
        >>> class LargestOutput(SimpleBaseLoss):
        ...     def register_hooks(self):
        ...         self.model.register_forward_hook(self.add)
        ...     def add(self, model, inputs, output):
        ...         self.tot_loss = self.tot_loss + output.abs().max()
        >>> model = nn.Identity()
        >>> loss = LargestOutput(model, 0.5)
        >>> _ = model(torch.tensor([1.0, -4.0]))
        >>> loss.retrieve()
        tensor(2.)
    """

    def __init__(self, model: nn.Module, reg_coeff: float) -> None:
        self.model = model
        self.reg_coeff = reg_coeff
        self.tot_loss: Any = 0.0
        self.register_hooks()

    @abstractmethod
    def register_hooks(self) -> None:
        """Set the hooks that add to ``tot_loss``."""

    def zero_accumulated_values(self) -> None:
        """Start anew: call it once per step, after the backward pass."""
        self.tot_loss = 0.0

    def retrieve(self) -> Tensor | float:
        """Return ``reg_coeff * tot_loss``, to be added to the loss of a step."""
        return self.tot_loss * self.reg_coeff

    def log(self) -> Tensor | float:
        """Return the same outside of autograd."""
        loss = self.retrieve()
        return loss.detach().clone() if isinstance(loss, Tensor) else loss
