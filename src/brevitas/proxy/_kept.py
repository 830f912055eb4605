"""What a proxy keeps of quantized parameters between evaluations. Layer: proxy (L4).

Layers that share a quantizer have a parameter each, so what is kept belongs to a parameter, by
identity, and to the format of the input where the quantizer depends on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from brevitas.utils.quant_utils import _CachedIO

__all__ = ["KeptParameters"]


class _Kept(NamedTuple):
    """One quantized parameter."""

    parameter: Tensor
    input_format: Hashable
    cached: _CachedIO
    #: Made in inference mode, outside of which it cannot take part in a backward pass.
    for_inference: bool

    @property
    def is_usable(self) -> bool:
        """False for what was kept inside of inference mode and is wanted outside of it."""
        if not self.for_inference:
            return True
        return not torch.compiler.is_compiling() and torch.is_inference_mode_enabled()


class KeptParameters:
    """The quantized parameters that a proxy keeps, at most one for each parameter.

    Example:
        >>> KeptParameters().find(torch.ones(2)) is None
        True
    """

    def __init__(self, entries: Iterable[_Kept] = ()) -> None:
        self._entries = tuple(entries)

    @property
    def metadata_only(self) -> bool:
        """True where no values are kept."""
        return all(entry.cached.metadata_only for entry in self._entries)

    def find(self, parameter: Tensor, input_format: Hashable = None) -> _CachedIO | None:
        """What is kept of a parameter and usable now, else None.

        Args:
            parameter: the parameter itself, not one with equal values.
            input_format: format of the input that it was quantized for; None for any.
        """
        for entry in self._entries:
            if entry.parameter is parameter and input_format in (None, entry.input_format):
                return entry.cached if entry.is_usable else None
        return None

    def keeping(
        self, parameter: Tensor, cached: _CachedIO, input_format: Hashable = None
    ) -> KeptParameters:
        """These and one more, in the place of what was kept of its parameter before."""
        others = [entry for entry in self._entries if entry.parameter is not parameter]
        value = cached.scale if cached.metadata_only else cached.quant_tensor.value
        # A compiler cannot look, nor does it make such tensors.
        for_inference = not torch.compiler.is_compiling() and value.is_inference()
        return KeptParameters((*others, _Kept(parameter, input_format, cached, for_inference)))
