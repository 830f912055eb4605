"""Managers put a model into export mode and back. Layer: export (L8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from brevitas.common import ExportMixin, LayerProtocol
from brevitas.export.common.destination import Destination, check_destination, write_whole
from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.spec import ExportError
from brevitas.export.common.statistics import warn_of_quantizers
from brevitas.quant_tensor import QuantTensor

__all__ = ["BaseManager", "ExportContext"]


class ExportContext:
    """Everything global that an export changes, for the time of a ``with`` block.

    Gradients are off, and modules that were compiled run as they are written: a compiler would go
    into the handlers, which read values.

    Args:
        manager_cls: the manager that exports.

    Example:
        >>> with ExportContext(BaseManager):
        ...     torch.is_grad_enabled()
        False
    """

    def __init__(self, manager_cls: type[BaseManager]) -> None:
        self.target_name = manager_cls.target_name
        self._stack = ExitStack()

    def __enter__(self) -> ExportContext:
        self._stack.enter_context(torch.no_grad())
        self._stack.enter_context(torch.compiler.set_stance("force_eager"))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc_value, traceback)


class BaseManager(ABC):
    """One export target: which handler stands in for which quantizer.

    Attributes:
        target_name: name of the target, for messages.
        handlers: handler classes, each with its ``handled_layer``.
    """

    target_name: ClassVar[str | None] = None
    handlers: ClassVar[Sequence[type[BaseHandler]]] = []

    @classmethod
    @abstractmethod
    def export(cls, *args: Any, **kwargs: Any) -> object:
        """Export a model."""

    @classmethod
    def set_export_mode(cls, model: nn.Module, enabled: bool) -> None:
        """Switch every proxy of a model that has a handler."""
        _set_proxy_export_mode(model, enabled)

    @classmethod
    def set_export_handler(cls, module: nn.Module) -> None:
        """Give a proxy its handler, if it takes one. Used as ``model.apply(...)``."""
        _set_proxy_export_handler(cls, module)

    @classmethod
    def handler_from_module(
        cls, module: nn.Module | type, no_inheritance: bool = False
    ) -> type[BaseHandler] | None:
        """Find the handler of a module: of its own class, else of the nearest base.

        Args:
            module: module or class to look up.
            no_inheritance: whether only the class itself counts.

        Returns:
            The handler class, or None.
        """
        kind = module if isinstance(module, type) else type(module)
        table: dict[type, type[BaseHandler]] = {}
        for handler in cls.handlers:
            handled = handler.handled_layer
            for layer in _as_tuple(handled):
                table.setdefault(layer, handler)
        candidates = kind.__mro__[:1] if no_inheritance else kind.__mro__
        return next((table[base] for base in candidates if base in table), None)

    @classmethod
    def jit_inference_trace(
        cls,
        module: nn.Module,
        args: Tensor | QuantTensor | tuple[Any, ...],
        export_path: Destination | None = None,
    ) -> torch.jit.ScriptModule:
        """Trace a module with TorchScript in export mode, and save the trace if a path is given.

        Args:
            module: the model.
            args: one input, or a tuple of them.
            export_path: path of the file, or a file opened for writing bytes, or None.

        Returns:
            The traced module.
        """
        check_destination(export_path)
        inputs = args if type(args) is tuple else (args,)
        with export_mode(cls, module):
            # With real values first: handlers remember what a trace cannot read off.
            module(*inputs)
            traced: Any = torch.jit.trace(module, inputs, check_trace=False)
        if export_path is not None:
            write_whole(export_path, partial(torch.jit.save, traced))
        return traced


def _as_tuple(handled: object) -> tuple[type, ...]:
    if handled is None:
        return ()
    return tuple(handled) if isinstance(handled, (list, tuple)) else (handled,)  # type: ignore


def _modules(model: nn.Module) -> list[tuple[str, Any]]:
    """List the layers and proxies of a model by name."""
    return [(name, m) for name, m in model.named_modules() if isinstance(m, ExportMixin)]


def _is_proxy(module: nn.Module) -> bool:
    return isinstance(module, ExportMixin) and not isinstance(module, LayerProtocol)


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, ExportMixin) and isinstance(module, LayerProtocol)


def _set_mode(modules: Iterable[nn.Module], enabled: bool) -> None:
    for module in modules:
        if not isinstance(module, ExportMixin) or module.export_handler is None:
            continue
        if enabled:
            handler = module.export_handler
            if isinstance(handler, BaseHandler):
                handler.prepare_for_export(module)
                handler.attach_debug_info(module)
            module.export_mode = True
        else:
            module.export_mode = False
            _clear_handler(module)


def _clear_handler(module: nn.Module) -> None:
    """Take a handler away without a trace: a handler that is a module sits among the children."""
    module._modules.pop("export_handler", None)
    module.__dict__["export_handler"] = None


def _set_handler(manager_cls: type[BaseManager], module: Any) -> None:
    if module.export_handler is None and module.requires_export_handler:
        handler = manager_cls.handler_from_module(module)
        if handler is not None:
            module.export_handler = handler()


def _set_proxy_export_mode(model: nn.Module, enabled: bool) -> None:
    """Switch the export mode of every proxy of a model that has a handler."""
    _set_mode([module for module in model.modules() if _is_proxy(module)], enabled)


def _set_layer_export_mode(model: nn.Module, enabled: bool) -> None:
    """Switch the export mode of every layer of a model that has a handler."""
    _set_mode([module for module in model.modules() if _is_layer(module)], enabled)


def _set_proxy_export_handler(manager_cls: type[BaseManager], module: nn.Module) -> None:
    """Give a module its handler from ``manager_cls`` if it is a proxy that needs one."""
    if _is_proxy(module):
        _set_handler(manager_cls, module)


def _set_layer_export_handler(manager_cls: type[BaseManager], module: nn.Module) -> None:
    """Give a module its handler from ``manager_cls`` if it is a layer that needs one."""
    if _is_layer(module):
        _set_handler(manager_cls, module)


@dataclass(frozen=True)
class _Before:
    """The export state of one layer or proxy before an export."""

    module: Any
    handler: Callable[..., Any] | None
    mode: bool
    name: str | None
    caches: dict[str, Any]


# What proxies keep of earlier evaluations would be used in place of a handler.
_CACHES = {
    "_cached_weight": None,
    "_cached_bias": None,
    "_cache_inference_quant_weight": False,
    "cache_inference_quant_bias": False,
    "cache_inference_quant_act": False,
}


def _in_use(module: Any) -> dict[str, Any]:
    """Return the caches of a module that hold values; a scale alone does no harm."""
    caches = {name: value for name, value in vars(module).items() if name in _CACHES}
    return {name: v for name, v in caches.items() if not getattr(v, "metadata_only", False)}


def _take_over(model: nn.Module, clear_caches: bool = True) -> list[_Before]:
    """Clear the export state of a model, name its proxies, and return what there was before."""
    before = []
    for name, module in _modules(model):
        caches = _in_use(module) if clear_caches else {}
        handler, mode = module.export_handler, module.export_mode
        before.append(_Before(module, handler, mode, module.export_debug_name, caches))
        vars(module).update({name: _CACHES[name] for name in caches})
        if _is_proxy(module):
            module.export_debug_name = name or type(module).__name__
        module.export_mode = False
        _clear_handler(module)
    return before


def _restore(before: list[_Before]) -> None:
    for state in before:
        state.module.export_mode = False
        _clear_handler(state.module)
        if state.handler is not None:
            state.module.export_handler = state.handler
        # Not through the property: it refuses a model in training, which is for users.
        state.module.__dict__["_export_mode"] = state.mode
        state.module.export_debug_name = state.name
        vars(state.module).update(state.caches)


def _check_handlers(manager_cls: type[BaseManager], model: nn.Module) -> None:
    """Raise where a quantizer is active that the target has no handler for."""
    for name, module in _modules(model):
        if _is_proxy(module) and module.requires_export_handler and module.export_handler is None:
            raise ExportError(
                f"{manager_cls.target_name} export has no representation of "
                f"{type(module).__name__}; replace the quantizer, or disable it with "
                f"disable_quant=True. Layer: {name}"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and give every module its own mode back afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def export_mode(
    manager_cls: type[BaseManager],
    model: nn.Module,
    configure: Callable[[BaseHandler], None] | None = None,
) -> Iterator[None]:
    """Hold a model in the export mode of a manager; afterwards it is as it was.

    Args:
        manager_cls: the export target.
        model: the model.
        configure: called on every handler before it sees its proxy.

    Raises:
        ExportError: where a quantizer of the model has no handler.

    Warns:
        UserWarning: where a quantizer has seen no data, with the names of all such.
    """
    before = _take_over(model)
    with ExportContext(manager_cls), evaluating(model):
        try:
            model.apply(manager_cls.set_export_handler)
            _check_handlers(manager_cls, model)
            # Counted from here: this, ``contextmanager``, two methods of a manager, the caller.
            warn_of_quantizers(model, stacklevel=5)
            for module in model.modules():
                if configure is not None and isinstance(module, BaseHandler):
                    configure(module)
            manager_cls.set_export_mode(model, enabled=True)
            yield
        finally:
            _restore(before)
