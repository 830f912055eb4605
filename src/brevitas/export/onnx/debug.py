"""Record what goes into and comes out of quantized layers. Layer: export (L8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from brevitas.common import ExportMixin, LayerProtocol

__all__ = ["ONNXDebugHook", "enable_debug"]


class ONNXDebugHook:
    """A forward hook that keeps the last input and output of every module it is put on.

    Args:
        input_enabled: whether inputs are kept, as ``values["<module>.input"]``.
        output_enabled: whether outputs are kept, as ``values["<module>.output"]``.
    """

    def __init__(self, input_enabled: bool, output_enabled: bool) -> None:
        self.values: dict[str, Any] = {}
        self.input_enabled = input_enabled
        self.output_enabled = output_enabled

    def unpack(self, value: Any) -> Any:
        """Return the one thing that a tuple of positional arguments holds, else the tuple."""
        return value[0] if type(value) is tuple and len(value) == 1 else value

    def __call__(self, module: nn.Module, module_in: Any, module_out: Any) -> None:
        """Keep input and output of one call; calls with symbolic values leave no trace."""
        if torch.compiler.is_compiling():
            return
        if self.input_enabled and module.export_input_debug:
            self.values[f"{module.export_debug_name}.input"] = self.unpack(module_in)
        if self.output_enabled and module.export_output_debug:
            self.values[f"{module.export_debug_name}.output"] = self.unpack(module_out)

    def clear(self) -> None:
        """Forget all values."""
        self.values = {}


def enable_debug(
    model: nn.Module,
    input_enabled: bool = True,
    output_enabled: bool = True,
    proxy_level: bool = False,
) -> ONNXDebugHook:
    """Record inputs and outputs of the quantized layers of a model, to compare with a runtime.

    Nodes of an exported graph are named after the proxies, so that a value that a runtime
    computes can be looked up under the same name.

    Args:
        model: the model; hooks stay on it.
        input_enabled: whether to record inputs.
        output_enabled: whether to record outputs.
        proxy_level: whether to record each quantizer of a layer too.

    Returns:
        The hook, whose ``values`` fill up when the model runs.

    Example:
        >>> from brevitas.nn import QuantReLU
        >>> model = torch.nn.Sequential(QuantReLU())
        >>> hook = enable_debug(model)
        >>> _ = model(torch.ones(2))
        >>> sorted(hook.values)
        ['0.input', '0.output']
    """
    hook = ONNXDebugHook(input_enabled, output_enabled)
    recorded = ExportMixin if proxy_level else LayerProtocol
    modules: list[tuple[str, Any]] = [
        (name, module) for name, module in model.named_modules() if isinstance(module, recorded)
    ]
    for name, module in modules:
        module.export_debug_name = name
        module.export_input_debug = input_enabled
        module.export_output_debug = output_enabled
        module.register_forward_hook(hook)
    return hook
