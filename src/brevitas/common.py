"""What every layer and proxy carries so that a model can be exported. Layer: common (L2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["ExportMixin", "LayerProtocol", "QuantLayerConfigurationError"]


class LayerProtocol:
    """Marks a class as a quantized layer, whatever float layer it also derives from."""


class ExportMixin:
    """Export state of one layer or proxy.

    In export mode the module calls ``export_handler`` in place of its own quantization, so that
    an exporter decides which operations represent it. Outside of export mode nothing changes.

    Attributes:
        export_handler: the callable that stands in for the quantizer, or None.
        export_debug_name: the dotted name of the module inside of the model under export.
        export_input_debug: whether debug hooks record what goes into the module.
        export_output_debug: whether debug hooks record what comes out of the module.

    Example:
        >>> from brevitas.common import ExportMixin
        >>> class Part(ExportMixin):
        ...     training = False
        >>> part = Part()
        >>> part.export_mode = True
        >>> part.export_mode, part.export_handler
        (True, None)
    """

    export_handler: Callable[..., Any] | None
    export_debug_name: str | None
    export_input_debug: bool
    export_output_debug: bool
    training: bool

    def __init__(self) -> None:
        # Set on the instance: torch.nn.Module looks for a handler that is itself a module only
        # after the class, so a default on the class would hide it.
        self._export_mode = False
        self.export_handler = None
        self.export_debug_name = None
        self.export_input_debug = False
        self.export_output_debug = False

    @property
    def requires_export_handler(self) -> bool:
        """Whether the module computes something that an export handler has to represent."""
        raise NotImplementedError(
            f"{type(self).__name__} does not declare the property requires_export_handler."
        )

    @property
    def export_mode(self) -> bool:
        """Whether ``export_handler`` is in use. Entering it needs evaluation mode."""
        return self._export_mode

    @export_mode.setter
    def export_mode(self, value: bool) -> None:
        if value and self.training:
            name = self.export_debug_name or type(self).__name__
            raise RuntimeError(
                "Can't enter export mode during training, only during inference: "
                f"call .eval() on the model first. Layer: {name}"
            )
        self._export_mode = value


class QuantLayerConfigurationError(RuntimeError, AssertionError):
    """A quantized layer was asked for something that its quantizers cannot give.

    Example:
        >>> issubclass(QuantLayerConfigurationError, RuntimeError)
        True
    """
