"""Rounding at random, up with a probability equal to the fraction.

Layer: core (L3).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.function.ops_ste import round_ste
from brevitas.utils.autograd import DirectFunction

__all__ = ["StochasticRoundSte", "stochastic_round_ste_fn"]


class _StochasticRoundSteFn(DirectFunction):
    """Round up where `noise` is below the fraction; the gradient passes unchanged."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, noise: Tensor) -> Tensor:
        """Return `floor(x)`, plus one where `noise` in `[0, 1)` is below `x - floor(x)`."""
        lower = torch.floor(x)
        return lower + (noise < x - lower).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """Save nothing: the gradient does not depend on the input."""

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_y: Tensor
    ) -> tuple[Tensor, None]:
        """Return the incoming gradient for `x`, none for the noise."""
        return grad_y, None


def _stochastic_round_ste(generator: torch.Generator | None, x: Tensor) -> Tensor:
    # At least float32: half precision would offer too few distinct probabilities.
    dtype = torch.promote_types(x.dtype, torch.float32)
    if generator is None:
        noise = torch.rand_like(x, dtype=dtype)
    else:
        device = generator.device
        noise = torch.rand(x.shape, generator=generator, dtype=dtype, device=device).to(x.device)
    return _StochasticRoundSteFn.apply(x, noise)


def stochastic_round_ste_fn(generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Return a function that rounds at random, drawing from `generator`; its gradient is 1.

    Args:
        generator: Source of random numbers; None for PyTorch's default one.

    Returns:
        Function of one tensor, `floor(x) + (uniform < x - floor(x))`.

    Example:
        >>> stochastic_round_ste_fn(None)(torch.tensor([2., -3.]))
        tensor([ 2., -3.])
    """
    return functools.partial(_stochastic_round_ste, generator)


class StochasticRoundSte(nn.Module):
    """Round up with a probability equal to the fraction, so that the mean is kept; gradient 1.

    Args:
        deterministic_inference: Round to nearest in evaluation.
        seed: Seed of a generator of its own; None draws from PyTorch's default generator, which
            `torch.manual_seed` controls and `torch.compile` can trace.
        device: Device of that generator.

    Example:
        >>> StochasticRoundSte().eval()(torch.tensor([0.4, 0.6]))
        tensor([0., 1.])
    """

    def __init__(
        self,
        deterministic_inference: bool = True,
        seed: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.deterministic_inference = deterministic_inference
        self.seed = seed
        self.generator: torch.Generator | None = None
        if seed is not None:
            self.generator = torch.Generator(device="cpu" if device is None else device)
            self.generator.manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, rounded to one of its two neighbouring integers."""
        if self.deterministic_inference and not self.training:
            return round_ste(x)
        return _stochastic_round_ste(self.generator, x)
