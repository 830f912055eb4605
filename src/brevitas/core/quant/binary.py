"""Quantizers with the two values ``-scale`` and ``scale``. Layer: core (L3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.clamp import TensorClamp
from brevitas.core.quant._parts import check_parts
from brevitas.core.quant._plan import CLAMP_PASSES_GRADIENT, is_plain
from brevitas.core.quant._sign import SignQuant
from brevitas.function.ops_ste import binary_sign_ste
from brevitas.ops.sign_quant import SignPlan

__all__ = ["BinaryQuant", "ClampedBinaryQuant"]

_STRAIGHT = SignPlan()
_CLAMPED: dict[type[nn.Module], SignPlan] = {
    clamp_type: SignPlan(saturates=not passes)
    for clamp_type, passes in CLAMP_PASSES_GRADIENT.items()
}


class BinaryQuant(SignQuant):
    """Binary quantizer, ``y = scale if x >= 0 else -scale``, straight-through everywhere.

    The gradient of ``x`` is that of ``y`` times the scale, for every element. NaN stays NaN. The
    integers are -1 and 1, at a bit width of 1 and without zero point.

    Args:
        scaling_impl: ``x -> scale``, the positive real value of 1.
        signed: has to be True.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
        dtype: dtype of bit width and zero point.
        device: device of bit width and zero point.

    Raises:
        TypeError: when ``scaling_impl`` is no module.
        ValueError: when ``signed`` is False.

    Example:
        >>> from brevitas.core.scaling import ConstScaling
        >>> value, scale, zero_point, bit_width = BinaryQuant(ConstScaling(0.1))(
        ...     torch.tensor([-3.0, 0.0, 0.04]))
        >>> value, scale, bit_width
        (tensor([-0.1000,  0.1000,  0.1000]), tensor([0.1000]), tensor(1.))

    Reference: Courbariaux et al., "BinaryConnect: Training Deep Neural Networks with binary
    weights during propagations", 2015.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        signed: bool = True,
        quant_delay_steps: int | None = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(scaling_impl, 1, quant_delay_steps, dtype, device)
        if not signed:
            raise ValueError(
                f"signed={signed!r}: expected True, a binary quantizer has the values -scale and "
                "scale; for 0 and scale use an integer quantizer with bit_width=1, signed=False."
            )

    @property
    def plan(self) -> SignPlan | None:
        """The fused operation; None for a subclass."""
        return _STRAIGHT if type(self) is BinaryQuant else None

    def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return -1 or 1 for each element of ``x``, in a float tensor."""
        return binary_sign_ste(x)


class ClampedBinaryQuant(SignQuant):
    """Binary quantizer that stops learning beyond its range.

    ``y = sign(clamp(x, -scale, scale)) * scale``: as ``BinaryQuant``, but elements beyond
    ``[-scale, scale]`` pass no gradient to ``x``. It goes to the bounds of the clamp, which are the
    scale. With ``TensorClampSte`` for a clamp every element passes its gradient.

    Args:
        scaling_impl: ``x -> scale``, the positive real value of 1.
        tensor_clamp_impl: ``(x, lower, upper) -> clamped``.
        quant_delay_steps: number of training steps that pass ``x`` through unchanged.
        dtype: dtype of bit width and zero point.
        device: device of bit width and zero point.

    Raises:
        TypeError: when a part is no module.

    Example:
        >>> from brevitas.core.scaling import ConstScaling
        >>> x = torch.tensor([-3.0, 0.0, 0.4], requires_grad=True)
        >>> value, *_ = ClampedBinaryQuant(ConstScaling(1.0))(x)
        >>> value.sum().backward()
        >>> value.detach(), x.grad
        (tensor([-1.,  1.,  1.]), tensor([0., 1., 1.]))

    Reference: Hubara et al., "Binarized Neural Networks", 2016, equation 4.
    """

    def __init__(
        self,
        scaling_impl: nn.Module,
        tensor_clamp_impl: nn.Module | None = None,
        quant_delay_steps: int | None = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        super().__init__(scaling_impl, 1, quant_delay_steps, dtype, device)
        tensor_clamp_impl = TensorClamp() if tensor_clamp_impl is None else tensor_clamp_impl
        check_parts(tensor_clamp_impl=tensor_clamp_impl)
        self.tensor_clamp_impl = tensor_clamp_impl

    @property
    def plan(self) -> SignPlan | None:
        """The fused operation; None for a subclass, and a clamp that is hooked or not ours."""
        clamp = self.tensor_clamp_impl
        is_ours = type(self) is ClampedBinaryQuant and is_plain(clamp)
        return _CLAMPED.get(type(clamp)) if is_ours else None

    def to_int(self, x: Tensor, scale: Tensor) -> Tensor:
        """Return -1 or 1 for each element of ``x``, in a float tensor."""
        # A copy, since the part may write to what it is given, and x may be a weight.
        return binary_sign_ste(self.tensor_clamp_impl(x.clone(), -scale, scale))
