"""Restrictions that a scale or a bit width obeys: any real number, powers of two, integers.

Layer: core (L3).

A restricted value is stored in a domain of its own (a power of two as its logarithm); calling the
restriction maps a stored value to the real one. `restrict_init_*` maps the other way, for
initial values and statistics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from brevitas.core.function_wrapper.misc import (
    Abs,
    Identity,
    InplaceAbs,
    InplaceLogTwo,
    LogTwo,
    PowerOfTwo,
)
from brevitas.core.function_wrapper.ops_ste import (
    RoundSte,
    ScalarClampSte,
    ScalarSignedClampMinSte,
)
from brevitas.function._logarithm import log_two
from brevitas.inject.enum import FloatToIntImplType, RestrictValueType

__all__ = [
    "FloatRestrictValue",
    "FloatToIntImplType",
    "IntRestrictValue",
    "LogFloatRestrictValue",
    "PowerOfTwoRestrictValue",
    "QuantRestrictValue",
    "RestrictValueType",
    "RoundSte",
    "SignedFloatRestrictValue",
]


def _log_two(x: float) -> float:
    if not x > 0:
        raise ValueError(
            f"initial value {x!r}: expected a number > 0, since its logarithm is stored."
        )
    return math.log2(x)


def _or_default(impl: nn.Module | None, default: type[nn.Module]) -> nn.Module:
    return default() if impl is None else impl


class _RestrictValue(nn.Module):
    """Apply a restriction, or none where it is None."""

    def __init__(self, restrict_value_impl: nn.Module | None = None) -> None:
        super().__init__()
        self.restrict_value_impl = _or_default(restrict_value_impl, Identity)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, restricted."""
        return self.restrict_value_impl(x)


class _ClampValue(nn.Module):
    """Keep the magnitude of a value at or above a minimum, its sign kept; gradient 1."""

    def __init__(self, scaling_min_val: float | None = None) -> None:
        super().__init__()
        self.clamp_min_ste = (
            Identity() if scaling_min_val is None else ScalarSignedClampMinSte(scaling_min_val)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, clamped."""
        return self.clamp_min_ste(x)


class _RestrictClampValue(nn.Module):
    """Restrict a value, then clamp it; the clamp passes gradients unchanged.

    With only `min_val`, the magnitude is clamped and the sign kept; with `max_val`, the value is
    clamped to the range.
    """

    def __init__(
        self,
        min_val: float | None = None,
        max_val: float | None = None,
        restrict_value_impl: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if max_val is not None:
            self.clamp_ste = ScalarClampSte(-math.inf if min_val is None else min_val, max_val)
        elif min_val is not None:
            self.clamp_ste = ScalarSignedClampMinSte(min_val)
        else:
            self.clamp_ste = Identity()
        self.restrict_value_impl = _or_default(restrict_value_impl, Identity)

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, restricted and clamped."""
        return self.clamp_ste(self.restrict_value_impl(x))


class FloatRestrictValue(nn.Module):
    """Any real number that is not negative, `y = |x|`.

    Example:
        >>> FloatRestrictValue()(torch.tensor(-0.3))
        tensor(0.3000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.apply_abs = Abs()

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: its magnitude."""
        return abs(x)

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: their magnitudes."""
        return torch.abs(x)

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return Abs()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return InplaceAbs()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        return self.apply_abs(x)


class SignedFloatRestrictValue(nn.Module):
    """Any real number, also a negative one, `y = x`.

    Example:
        >>> SignedFloatRestrictValue()(torch.tensor(-0.3))
        tensor(-0.3000)
    """

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: itself."""
        return x

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: themselves."""
        return x

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return Identity()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        return x


class LogFloatRestrictValue(nn.Module):
    """Any positive real number, stored as its logarithm, `y = 2 ** x`.

    Example:
        >>> LogFloatRestrictValue()(torch.tensor(-1.5))
        tensor(0.3536)
    """

    def __init__(self) -> None:
        super().__init__()
        self.power_of_two = PowerOfTwo()

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: its logarithm of base two."""
        return _log_two(x)

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: their logarithms of base two."""
        return log_two(x)

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return LogTwo()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return InplaceLogTwo()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        return self.power_of_two(x)


class IntRestrictValue(nn.Module):
    """Integers, `y = round(x)`.

    Args:
        restrict_value_float_to_int_impl: Rounding, to nearest by default.

    Example:
        >>> IntRestrictValue()(torch.tensor(3.7))
        tensor(4.)
    """

    def __init__(self, restrict_value_float_to_int_impl: nn.Module | None = None) -> None:
        super().__init__()
        self.float_to_int_impl = _or_default(restrict_value_float_to_int_impl, RoundSte)

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: itself, not rounded."""
        return x

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: themselves, not rounded."""
        return x

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return Identity()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        return self.float_to_int_impl(x)


class PowerOfTwoRestrictValue(nn.Module):
    """Powers of two, stored as their logarithm, `y = 2 ** round(x)`.

    Args:
        restrict_value_float_to_int_impl: Rounding of the exponent, to nearest by default.

    Example:
        >>> PowerOfTwoRestrictValue()(torch.tensor(-1.7))
        tensor(0.2500)
    """

    def __init__(self, restrict_value_float_to_int_impl: nn.Module | None = None) -> None:
        super().__init__()
        self.float_to_int_impl = _or_default(restrict_value_float_to_int_impl, RoundSte)
        self.power_of_two = PowerOfTwo()

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: its logarithm of base two, not rounded."""
        return _log_two(x)

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: their logarithms, not rounded."""
        return log_two(x)

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return LogTwo()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return InplaceLogTwo()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        return self.power_of_two(self.float_to_int_impl(x))


class QuantRestrictValue(nn.Module):
    """Values that a quantizer can represent: a scale that is itself quantized.

    Args:
        restrict_value_float_to_int_impl: a quantizer, which returns the value first.
        scaling_shape: shape of the scale.
        scale_dequantized_shape: shape to which the quantized scale is brought back, if another.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> quantizer = QuantIdentity(scaling_impl_type="const", max_val=1.0, min_val=-1.0)
        >>> tensor_quant = quantizer.act_quant.fused_activation_quant_proxy.tensor_quant
        >>> QuantRestrictValue(tensor_quant, (), None)(torch.tensor(0.3))
        tensor(0.2969)
    """

    def __init__(
        self,
        restrict_value_float_to_int_impl: nn.Module,
        scaling_shape: tuple[int, ...],
        scale_dequantized_shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.float_to_int_impl = restrict_value_float_to_int_impl
        self.scaling_shape = scaling_shape
        self.scale_dequantized_shape = scale_dequantized_shape

    def restrict_init_float(self, x: float) -> float:
        """Return the stored value of a real number: itself, not quantized."""
        return x

    def restrict_init_tensor(self, x: Tensor) -> Tensor:
        """Return the stored values of real numbers: themselves, not quantized."""
        return x

    def restrict_init_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones."""
        return Identity()

    def restrict_init_inplace_module(self) -> nn.Module:
        """Return the module that maps real values to stored ones in place."""
        return Identity()

    def retrocompatibility_op(self, x: Tensor) -> nn.Module:
        """Return the identity; kept for compatibility."""
        return Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the real value of a stored one."""
        value = self.float_to_int_impl(x)[0]
        shape = self.scale_dequantized_shape
        return value if shape is None else value.view(shape)
