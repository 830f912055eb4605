"""A live view of the parameters that share a quantizer. Layer: proxy (L4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["TrackedParameters"]


class TrackedParameters(Sequence[Tensor]):
    """The named parameter of each tracked layer, read from its owner at every access.

    Replacing a weight, ``load_state_dict(assign=True)``, tying, parametrizations and sharding
    all change what the owner holds; a view follows where a list of tensors would not.

    Args:
        modules: the layers, a list that the proxy extends when it is shared.
        name: attribute that holds the parameter; layers where it is None are left out.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> tracked = TrackedParameters([layer], "weight")
        >>> layer.weight = nn.Parameter(layer.weight * 2)
        >>> tracked[0] is layer.weight
        True
    """

    def __init__(self, modules: list[nn.Module], name: str) -> None:
        self._modules = modules
        self._name = name

    def _current(self) -> list[Tensor]:
        values = (getattr(module, self._name) for module in self._modules)
        return [value for value in values if value is not None]

    def __len__(self) -> int:
        if len(self._modules) == 1:  # asked at every call of a quantizer
            return int(getattr(self._modules[0], self._name) is not None)
        return len(self._current())

    def __getitem__(self, index: Any) -> Any:
        return self._current()[index]
