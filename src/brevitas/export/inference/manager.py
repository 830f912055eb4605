"""Running a quantized model fast where nothing about it changes. Layer: export (L8)."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn

from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.spec import ExportError
from brevitas.export.inference.handler import (
    IntInferenceHandler,
    IntWeightInferenceHandler,
    is_handled,
)
from brevitas.export.manager import (
    BaseManager,
    _restore,
    _set_proxy_export_handler,
    _take_over,
)
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjectorBase
from brevitas.proxy.quant_proxy import QuantProxyFromInjector

__all__ = ["InferenceManager", "quant_inference_mode"]


class InferenceManager(BaseManager):
    """Replaces quantizers by ones that read no statistics; the rest run as they are."""

    target_name = "inference"
    handlers = [IntInferenceHandler, IntWeightInferenceHandler]

    @classmethod
    def export(cls, *args: Any, **kwargs: Any) -> object:
        """Raise: inference needs no file."""
        raise ExportError(
            f"{cls.__name__}.export: inference writes no file; use quant_inference_mode(model)."
        )

    @classmethod
    def set_export_handler(cls, module: nn.Module) -> None:
        """Give a proxy its handler if its scale is fixed. Used as ``model.apply(...)``."""
        if isinstance(module, QuantProxyFromInjector) and module.is_quant_enabled:
            if is_handled(module):
                _set_proxy_export_handler(cls, module)


class quant_inference_mode:
    """Hold a model in a mode where its scales are read once, on entry.

    The model must be in evaluation mode, and neither its parameters nor its device may change
    inside of the block. Afterwards it is as it was.

    Args:
        model: the model.
        cache_quant_weight: whether quantized weights are kept too, at the cost of their memory.
        compile: whether quantizers are compiled, each as one kernel.
        enabled: whether the block does anything.
        export_manager: what decides which quantizer is replaced by what.

    Raises:
        RuntimeError: on a model in training mode.

    Example:
        >>> import torch
        >>> from brevitas.nn import QuantLinear
        >>> model = QuantLinear(2, 4, weight_bit_width=4).eval()
        >>> x = torch.ones(1, 2)
        >>> expected = model(x)
        >>> with torch.no_grad(), quant_inference_mode(model, cache_quant_weight=True):
        ...     torch.equal(model(x), expected)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        cache_quant_weight: bool = False,
        compile: bool = False,
        enabled: bool = True,
        export_manager: type[BaseManager] = InferenceManager,
    ) -> None:
        self.model = model
        self.cache_quant_weight = cache_quant_weight
        self.compile = compile
        self.enabled = enabled
        self.export_manager = export_manager
        self._before: list[Any] = []
        self._cached: list[WeightQuantProxyFromInjectorBase] = []

    def __enter__(self) -> quant_inference_mode:
        if not self.enabled:
            return self
        self._before = _take_over(self.model, clear_caches=False)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def _start(self) -> None:
        if self.cache_quant_weight:
            for module in self.model.modules():
                if isinstance(module, WeightQuantProxyFromInjectorBase):
                    if not module.cache_inference_quant_weight:
                        self._cached.append(module)
                        module.cache_inference_quant_weight = True
        self.model.apply(self.export_manager.set_export_handler)
        self.export_manager.set_export_mode(self.model, enabled=True)
        if self.compile:
            for module in self.model.modules():
                if isinstance(module, BaseHandler):
                    module.compile()

    def _stop(self) -> None:
        _restore(self._before)
        for proxy in self._cached:
            proxy.cache_inference_quant_weight = False
        self._before, self._cached = [], []

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.enabled:
            self._stop()
