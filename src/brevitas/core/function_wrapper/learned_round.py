"""Rounding whose direction is learned per element, as in AdaRound.

Layer: core (L3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.core._state import LearnedValueModule
from brevitas.core.function_wrapper.misc import Identity
from brevitas.core.utils import SliceTensor
from brevitas.function.ops_ste import floor_ste, round_ste, scalar_clamp_ste

__all__ = [
    "LearnedRoundHardSigmoid",
    "LearnedRoundIdentity",
    "LearnedRoundSigmoid",
    "LearnedRoundSte",
]


class LearnedRoundHardSigmoid(nn.Module):
    """Round up with a weight between 0 and 1 that reaches both ends.

    `y = floor(x) + clamp(sigmoid(p) * (zeta - gamma) + gamma, 0, 1)` in training and
    `floor(x) + (p > 0)` in evaluation; the gradient of `floor` is taken as 1.

    Args:
        learned_round_zeta: Upper end of the stretched sigmoid, > 1.
        learned_round_gamma: Lower end of the stretched sigmoid, < 0.

    Reference:
        Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", 2020.

    Example:
        >>> LearnedRoundHardSigmoid()(torch.tensor([-9., 0., 9.]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    def __init__(self, learned_round_zeta: float = 1.1, learned_round_gamma: float = -0.1) -> None:
        super().__init__()
        self.learned_round_zeta = learned_round_zeta
        self.learned_round_gamma = learned_round_gamma

    def forward(self, p: Tensor) -> Tensor:
        """Return the weight of rounding up, of the shape of `p`."""
        if not self.training:
            return (p > 0).to(p.dtype)
        stretch = self.learned_round_zeta - self.learned_round_gamma
        return torch.clamp(torch.sigmoid(p) * stretch + self.learned_round_gamma, 0.0, 1.0)

    def round_forward(self, x: Tensor, p: Tensor) -> Tensor:
        """Return `floor(x) + p`, where `p` is a result of `forward`."""
        return floor_ste(x) + p


class LearnedRoundSigmoid(nn.Module):
    """Round up with a weight `sigmoid(p / temperature)`.

    `y = floor(x) + sigmoid(p / temperature)` in training and `floor(x) + (p > 0)` in evaluation;
    the gradient of `floor` is taken as 1.

    Args:
        learned_round_temperature: Smoothness, > 0; small values come close to a step.

    Raises:
        ValueError: If the temperature is zero.

    Example:
        >>> LearnedRoundSigmoid()(torch.tensor([0.]))
        tensor([0.5000])
    """

    def __init__(self, learned_round_temperature: float = 1.0) -> None:
        super().__init__()
        if learned_round_temperature == 0:
            raise ValueError("learned_round_temperature=0: expected a number > 0.")
        self.learned_round_temperature = learned_round_temperature

    def forward(self, p: Tensor) -> Tensor:
        """Return the weight of rounding up, of the shape of `p`."""
        if not self.training:
            return (p > 0).to(p.dtype)
        return torch.sigmoid(p / self.learned_round_temperature)

    def round_forward(self, x: Tensor, p: Tensor) -> Tensor:
        """Return `floor(x) + p`, where `p` is a result of `forward`."""
        return floor_ste(x) + p


class LearnedRoundIdentity(nn.Module):
    """Shift by at most one half before rounding to nearest, `y = round(x + clamp(p, -0.5, 0.5))`.

    The gradients of `round` and `clamp` are taken as 1.

    Reference:
        Cheng et al., "Optimize Weight Rounding via Signed Gradient Descent for the Quantization
        of LLMs", 2023.

    Example:
        >>> LearnedRoundIdentity()(torch.tensor([-2., 0.2, 2.]))
        tensor([-0.5000,  0.2000,  0.5000])
    """

    def __init__(self) -> None:
        super().__init__()
        self.upper_lower_bound = 0.5

    def forward(self, p: Tensor) -> Tensor:
        """Return the shift, of the shape of `p`."""
        return scalar_clamp_ste(p, -self.upper_lower_bound, self.upper_lower_bound)

    def round_forward(self, x: Tensor, p: Tensor) -> Tensor:
        """Return `round(x + p)`, where `p` is a result of `forward`."""
        return round_ste(x + p)


class LearnedRoundSte(LearnedValueModule):
    """Round a tensor of known shape by a learned value per element.

    `y = round_forward(x, learned_round_impl(value))`, straight-through for `x`.

    Args:
        learned_round_impl: Rule with methods `forward(value)` and `round_forward(x, p)`.
        learned_round_init: Initial `value`, of the shape of the tensor to round.
        input_view_impl: View under which `x` arrives here, applied to the value too.
        device: Device of the value, by default that of `learned_round_init`.
        dtype: Type of the value, by default that of `learned_round_init`.

    Example:
        >>> rounding = LearnedRoundSte(LearnedRoundHardSigmoid(), torch.tensor([-1., 1.])).eval()
        >>> rounding(torch.tensor([0.9, 0.1])).detach()
        tensor([0., 1.])
    """

    def __init__(
        self,
        learned_round_impl: nn.Module,
        learned_round_init: Tensor,
        input_view_impl: nn.Module | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.learned_round_impl = learned_round_impl
        self.tensor_slicer = SliceTensor()
        self.input_view_impl = Identity() if input_view_impl is None else input_view_impl
        initial = learned_round_init.detach().to(device=device, dtype=dtype, copy=True)
        self.value = nn.Parameter(initial)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, rounded."""
        impl: Any = self.learned_round_impl
        return impl.round_forward(x, self.input_view_impl(self.tensor_slicer(impl(self.value))))
