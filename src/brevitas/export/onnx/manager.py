"""The road that every ONNX export takes, from a model to a file. Layer: export (L8)."""

from __future__ import annotations

import logging
import warnings
from abc import ABC
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from brevitas._compat import require
from brevitas.export.common.destination import Destination, check_destination
from brevitas.export.common.examples import copied, run_example
from brevitas.export.common.failures import expect_no_state, tracing_failed
from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.inputs import plain_signature, plain_values, solve_inputs
from brevitas.export.common.session import ExportSession
from brevitas.export.common.spec import ExportError
from brevitas.export.manager import BaseManager, export_mode
from brevitas.export.onnx._graph import finish
from brevitas.export.onnx._options import check_options
from brevitas.export.onnx._write import LARGEST_MESSAGE, write_model
from brevitas.export.onnx.handler import DEFAULT_OPSET, joins
from brevitas.quant_tensor import QuantTensor

__all__ = ["DEFAULT_OPSET", "ONNXBaseManager"]

# The exporter of PyTorch writes no older one; graphs are converted to those.
OLDEST_WRITTEN_OPSET = 18


class ONNXBaseManager(BaseManager, ABC):
    """Exports through ``torch.export`` and the ONNX exporter of PyTorch.

    The model runs on copies of its inputs: with real values, so that the handlers see scales and
    integers and compare the result of every quantizer with what its node will compute; again, to
    see whether it keeps state; and traced.
    Mode, handlers and parameters of the model are afterwards what they were before.

    Attributes:
        default_opset: version of the standard operators where the caller names none.
        custom_versions: versions of the domains beside the standard one.
        option_names: keyword arguments that the target takes beside those of the exporter.
    """

    default_opset: ClassVar[int] = DEFAULT_OPSET
    custom_versions: ClassVar[dict[str, int]] = {}
    option_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def export(
        cls,
        module: nn.Module,
        args: Tensor | QuantTensor | tuple[Any, ...] | None = None,
        export_path: Destination | None = None,
        input_shape: tuple[int, ...] | None = None,
        input_t: Tensor | QuantTensor | None = None,
        disable_warnings: bool = True,
        **onnx_export_kwargs: Any,
    ) -> Any:
        """Export a model to ONNX.

        Args:
            module: the model.
            args: example input, or a tuple of them. The graph takes the value of a QuantTensor
                and holds its scale, zero point and bit width as constants.
            export_path: path of the file, or a file opened for writing bytes; nothing is written
                where None.
            input_shape: shape of a random example input, in place of ``args``.
            input_t: example input, in place of ``args``.
            disable_warnings: whether the messages of the tracer are kept quiet.
            **onnx_export_kwargs: passed to ``torch.onnx.export``, such as ``opset_version``,
                ``input_names``, ``output_names``, ``dynamic_shapes``, ``kwargs``.

        Returns:
            The ``onnx.ModelProto`` that was written.

        Raises:
            ExportError: on a quantizer or model that the format cannot represent.
            TypeError: on a model that is no module, or a keyword that nothing reads.
            ValueError: on an ``opset_version`` that does not exist.
        """
        check_options(onnx_export_kwargs, cls.option_names)
        check_destination(export_path)
        inputs = solve_inputs(module, args, input_shape, input_t)
        cls.check(module, inputs, onnx_export_kwargs)
        return cls.export_onnx(module, inputs, export_path, disable_warnings, onnx_export_kwargs)

    @classmethod
    def export_onnx(
        cls,
        module: nn.Module,
        args: tuple[Any, ...],
        export_path: Destination | None,
        disable_warnings: bool,
        options: dict[str, Any],
    ) -> Any:
        """Trace, finish, check and write; ``options`` as the keyword arguments of ``export``."""
        onnx = require("onnx", "export")
        require("onnxscript", "export")
        session = cls.new_session(options)
        options = cls.solve_options(options, session)
        kept_names = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
        values = plain_values(args)
        with plain_signature(module, args), export_mode(cls, module, joins(session)):
            run_example(module, values, session.restart, options.get("kwargs"))
            with _quiet(disable_warnings):
                program = trace(module, values, session, options)
        model = finish(program.model_proto, session, cls.custom_versions, kept_names)
        model = cls.rewrite(model, type(module).__name__)
        if model.ByteSize() < LARGEST_MESSAGE:
            onnx.checker.check_model(model)
        if export_path is not None:
            write_model(model, export_path)
        return model

    @classmethod
    def check(cls, module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Raise on what no handler can know; a target with demands on a whole model does it here.

        Args:
            module: the model.
            inputs: example inputs.
            options: keyword arguments of ``export``.
        """

    @classmethod
    def rewrite(cls, model: Any, name: str) -> Any:
        """Return the graph to check and write; a target that fuses nodes does it here.

        Args:
            model: the finished graph.
            name: class of the exported model, for messages.
        """
        return model

    @classmethod
    def new_session(cls, options: dict[str, Any]) -> ExportSession:
        """Start an export; a target takes the options that are its own out of ``options``."""
        return ExportSession(opset=options.get("opset_version") or cls.default_opset)

    @classmethod
    def solve_options(cls, options: dict[str, Any], session: ExportSession) -> dict[str, Any]:
        """Return the keyword arguments of ``torch.onnx.export``."""
        if not options.get("dynamo", True):
            warnings.warn("dynamo=False has no effect: exports use torch.export.", stacklevel=5)
        opset = max(session.opset, OLDEST_WRITTEN_OPSET)
        solved = {"verbose": False, **options, "dynamo": True, "opset_version": opset}
        # An older exporter wrote weights as inputs on request; graphs have not needed that since.
        solved.pop("keep_initializers_as_inputs", None)
        return solved


def trace(
    module: nn.Module, args: tuple[Any, ...], session: ExportSession, options: dict[str, Any]
) -> Any:
    """Trace a model in export mode into an ONNX program.

    Args:
        module: the model, in export mode.
        args: example inputs.
        session: the export under way.
        options: keyword arguments of ``torch.onnx.export``.

    Returns:
        A ``torch.onnx.ONNXProgram``.

    Raises:
        ExportError: where tracing fails; the message names the layer it stopped in. Also where
            the model writes to its buffers.
    """
    place: list[str] = []
    handles = [module.register_forward_pre_hook(lambda *_: session.restart(), prepend=True)]
    for name, child in module.named_modules():
        if name and not isinstance(child, BaseHandler):
            handles.append(child.register_forward_pre_hook(lambda *_, n=name: place.append(n)))
            handles.append(child.register_forward_hook(lambda *_: place.pop() and None))
    try:
        program: Any = torch.onnx.export(module, copied(args), **options)
    except ExportError:
        raise
    except Exception as error:
        where = place[-1] if place else type(module).__name__
        raise tracing_failed(error, where) from error
    finally:
        for handle in handles:
            handle.remove()
    expect_no_state(program.exported_program, type(module).__name__)
    return program


@contextmanager
def _quiet(enabled: bool) -> Iterator[None]:
    """Keep the tracer's warnings and log lines back."""
    if not enabled:
        yield
        return
    loggers: Sequence[logging.Logger] = [
        logging.getLogger(name) for name in ("torch.onnx", "torch.onnx._internal", "onnxscript")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
