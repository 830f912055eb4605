"""Quantizer with the three values ``-scale``, 0 and ``scale``. Layer: core (L3)."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor, nn

from brevitas.core.quant._sign import SignQuant
from brevitas.function.ops_ste import binary_sign_ste
from brevitas.ops.sign_quant import SignPlan

__all__ = ["TernaryQuant"]

#: At half a step the threshold is where rounding to the nearest integer switches.
_NEAREST = 0.5


class TernaryQuant(SignQuant):
    """Ternary quantizer, ``y = sign(x) * scale where |x| > threshold * scale, else 0``.

    The gradient of ``x`` is that of ``y`` times the scale where ``y`` is not 0, and 0 elsewhere.
    NaN stays NaN. The integers are -1, 0 and 1, at a bit width of 2 in narrow range and without
    zero point.

    Args:
        scaling_impl: ``x -> scale``, the positive real value of 1.
        threshold: largest magnitude that becomes 0, in units of the scale. At 0.5 the quantizer
            rounds to the nearest integer; at any other value ONNX has no node for an activation.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
        dtype: dtype of bit width and zero point.
        device: device of bit width and zero point.

    Raises:
        TypeError: when ``scaling_impl`` is no module.
        ValueError: for a threshold that is no finite number of at least 0.

    Example:
        >>> from brevitas.core.scaling import ConstScaling
        >>> ternary_quant = TernaryQuant(ConstScaling(1.0), threshold=0.7)
        >>> value, scale, zero_point, bit_width = ternary_quant(torch.tensor([-3.0, 0.6, 0.8]))
        >>> value, bit_width
        (tensor([-1.,  0.,  1.]), tensor(2.))

    Reference: Li et al., "Ternary Weight Networks", 2016, equation 3.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        threshold: float,
        quant_delay_steps: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(scaling_impl, 2, quant_delay_steps, dtype, device)
        self.threshold = threshold

    @property
    def plan(self) -> SignPlan | None:
        """The fused operation; None for a subclass."""
        return self._plan if type(self) is TernaryQuant else None

    @property
    def threshold(self) -> float:
        """Largest magnitude that becomes 0, in units of the scale; assignable."""
        assert self._plan.threshold is not None
        return self._plan.threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not (is_number and threshold >= 0 and isfinite(threshold)):
            raise ValueError(
                f"threshold={threshold!r}: expected a finite number >= 0, in units of the scale "
                "(0.5 rounds to the nearest of -scale, 0 and scale)."
            )
        self._plan = SignPlan(float(threshold))

    @property
    def rounding_mode(self) -> str:
        """``"ROUND"`` where the threshold rounds to the nearest integer, else ``"THRESHOLD"``."""
        return "ROUND" if self.threshold == _NEAREST else "THRESHOLD"

    def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return -1, 0 or 1 for each element of ``x``, in a float tensor."""
        return binary_sign_ste(x) * (x.abs() > self.threshold * scale)
