"""Minifloat formats, and what rounding to them is, written in numpy for single numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brevitas.core.bit_width import BitWidthConst
from brevitas.core.bit_width.float import MantissaBitWidthConst, StaticExponentBias
from brevitas.core.function_wrapper import FloatClamp, TensorClamp
from brevitas.core.quant.float import FloatQuant


@dataclass(frozen=True)
class Format:
    """Bits, bias, largest number, and what larger values become: "inf", "nan" or "max"."""

    exponent: int
    mantissa: int
    bias: int
    largest: float | None
    beyond: str = "max"
    signed: bool = True

    @property
    def upper(self) -> float:
        full = (2 - 2.0**-self.mantissa) * 2.0 ** (2**self.exponent - 1 - self.bias)
        return full if self.largest is None else min(full, self.largest)

    def build(self, **parts: Any) -> FloatQuant:
        """A quantizer of this format; some of its parts may be given."""
        codes = {"inf": ("0" * self.mantissa,), "nan": None, "max": None}[self.beyond]
        clamp = FloatClamp(
            parts.pop("tensor_clamp_impl", None) or TensorClamp(),
            self.signed,
            inf_values=codes,
            nan_values=None if self.beyond == "max" else ("1" * self.mantissa,),
            max_available_float=self.largest,
            saturating=self.beyond == "max",
        )
        return FloatQuant(
            self.signed,
            BitWidthConst(self.exponent),
            MantissaBitWidthConst(self.mantissa),
            StaticExponentBias(self.bias),
            clamp,
            **parts,
        )

    def rounded(self, u: Any) -> Any:
        """Round to nearest, ties to even, without limits; exact in float64."""
        u = np.asarray(u, dtype=np.float64)
        with np.errstate(all="ignore"):
            exponent = np.frexp(np.where(np.isfinite(u), u, 1.0))[1] - 1
            exponent = np.where(u == 0, -(2**20), exponent)
            step = np.ldexp(1.0, np.maximum(exponent, 1 - self.bias) - self.mantissa)
            return np.where(np.isfinite(u), np.rint(u / step) * step, u)

    def reference(self, u: Any) -> Any:
        """The nearest number of the format, or what stands for values beyond it."""
        value = self.rounded(u)
        upper, lower = self.upper, -self.upper if self.signed else 0.0
        codes = {"inf": math.inf, "nan": math.nan}
        above = codes.get(self.beyond, upper)
        below = (
            codes.get(self.beyond, -lower) * -1.0
            if self.signed or self.beyond == "max"
            else (math.nan)
        )
        return np.where(value > upper, above, np.where(value < lower, below, value))

    def grid(self) -> Tensor:
        """Every finite number of the format, in float64."""
        codes = range(2**self.exponent)
        fractions = [k / 2**self.mantissa for k in range(2**self.mantissa)]
        positive = {
            ((code > 0) + fraction) * 2.0 ** (max(code, 1) - self.bias)
            for code in codes
            for fraction in fractions
        }
        numbers = {n for n in positive if n <= self.upper}
        numbers |= {-n for n in numbers} if self.signed else set()
        return torch.tensor(sorted(numbers), dtype=torch.float64)


#: Types of ml_dtypes, whose casts are an independent implementation.
ML_DTYPES: dict[str, Format] = {
    "float8_e4m3fn": Format(4, 3, 7, 448.0, "nan"),
    "float8_e4m3": Format(4, 3, 7, 240.0, "inf"),
    "float8_e5m2": Format(5, 2, 15, 57344.0, "inf"),
    "float8_e4m3fnuz": Format(4, 3, 8, 240.0, "nan"),
    "float8_e5m2fnuz": Format(5, 2, 16, 57344.0, "nan"),
    "float8_e4m3b11fnuz": Format(4, 3, 11, 30.0, "nan"),
    "float8_e3m4": Format(3, 4, 3, 15.5, "inf"),
    "float6_e3m2fn": Format(3, 2, 3, 28.0),
    "float6_e2m3fn": Format(2, 3, 1, 7.5),
    "float4_e2m1fn": Format(2, 1, 1, 6.0),
}


def same(actual: Tensor, expected: Any) -> bool:
    """Equal numbers, NaN included; the sign of zero does not count."""
    expected = torch.as_tensor(np.asarray(expected, dtype=np.float64))
    actual = actual.detach().double()
    both_nan = actual.isnan() & expected.isnan()
    return bool(((actual == expected) | both_nan).all())


def every_half(dtype: torch.dtype) -> Tensor:
    """All 65536 numbers of a 16-bit type."""
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)


def sampled(dtype: torch.dtype, count: int = 20000) -> Tensor:
    """Bit patterns at random, all powers of two with their neighbours, and ties."""
    bits = {torch.float32: torch.int32, torch.float64: torch.int64}[dtype]
    info, limits = torch.iinfo(bits), torch.finfo(dtype)
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(info.min, info.max, (count,), generator=generator, dtype=bits)
    smallest = round(math.log2(limits.tiny * limits.eps))
    powers = torch.tensor(
        [math.ldexp(1.0, k) for k in range(smallest, round(math.log2(limits.max)))],
        dtype=torch.float64,
    )
    powers = powers[powers <= limits.max].to(dtype)
    eighths = torch.arange(1, 64, dtype=dtype) / 32
    ties = (powers[:, None] * eighths).flatten()
    near = [torch.nextafter(powers, torch.full_like(powers, end)) for end in (0.0, math.inf)]
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan], dtype=dtype)
    positive = torch.cat([powers, ties, *near])
    return torch.cat([patterns.view(dtype), positive, -positive, special])
