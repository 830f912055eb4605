"""The base of everything that stands in for a quantizer during an export. Layer: export (L8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

__all__ = ["BaseHandler"]


class BaseHandler(nn.Module, ABC):
    """Stands in for the quantizer of one proxy while its model is exported.

    A manager looks a handler up by ``handled_layer``, gives it the proxy once, and from then on
    the proxy calls it in place of its own quantizer. It returns what that one would.

    Attributes:
        handled_layer: the class of module, or the classes, that it stands in for.

    Example:
        >>> from brevitas.export.common.handler.base import BaseHandler
        >>> class Passthrough(BaseHandler):
        ...     def prepare_for_export(self, module):
        ...         self.scale = module.scale()
        ...     def forward(self, x):
        ...         return x
        >>> Passthrough().debug_name is None
        True
    """

    handled_layer: ClassVar[type | tuple[type, ...] | list[type] | None] = None

    def __init__(self) -> None:
        super().__init__()
        self.debug_name: str | None = None

    def attach_debug_info(self, module: nn.Module) -> None:
        """Take over the name under which debug hooks record the module."""
        self.debug_name = getattr(module, "export_debug_name", None)

    @abstractmethod
    def prepare_for_export(self, module: nn.Module) -> None:
        """Read what is needed from the proxy. Called once, before the first call."""
