"""Compiles a function of tensors, and its gradient, for tensors of every size. Layer: ops (L1).

The function is traced with symbolic sizes, its gradient through autograd, and both graphs are
compiled by TorchInductor (C++ on a CPU, Triton on a GPU). Compiling takes seconds. A kernel has no
guards: what it assumes (dtypes, devices, contiguous views of a layout) is its key.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from brevitas._compat import standalone_compile
from brevitas.ops.layout import channel_size

__all__ = ["Kernel", "KernelCache", "Program", "compiler_works", "gradients_of"]

Program = Callable[..., tuple[Tensor, ...]]
Kernel = Callable[..., Any]

# Sizes to trace with, of which nothing is computed. Distinct primes: no size passes for another
# one, or for a multiple of a vector's length. Sums of this many terms are made in chunks, which
# keeps their rounding small, and worth several threads.
_EXAMPLE_SIZES: dict[str, tuple[int, ...]] = {
    "flat": (131071,),
    "elements": (8191,),
    "rows": (127, 4111),
    "columns": (4111, 127),
    "blocks": (71, 127, 61),
    "groups": (71, 127, 61),
}
# Errors that no other function would compile without.
_NO_COMPILER = ("InvalidCxxCompiler", "CppCompileError", "TritonMissing")


class _Compiler:
    """The one compiler of the process: works on one kernel at a time, or not at all."""

    lock = threading.Lock()
    works = True

    @classmethod
    def report(cls, error: Exception) -> None:
        """Say why a kernel is missing; without a compiler, try no other one."""
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        told = "BREVITAS_JIT=1, but compiling a quantizer failed; "
        if any(name in f"{type(error).__name__} {reason}" for name in _NO_COMPILER):
            cls.works = False
            told += (
                f"quantizers run without compilation. {reason}. On a CPU install a C++ compiler "
                "(package g++ or clang) or set CXX to its path; on a GPU install triton."
            )
        else:
            told += f"quantizers of its kind run without compilation. {reason}"
        warnings.warn(told, RuntimeWarning, stacklevel=2)


def compiler_works() -> bool:
    """False once a kernel could not be compiled for want of a compiler.

    Example:
        >>> compiler_works()
        True
    """
    return _Compiler.works


class KernelCache:
    """The kernels of one program, compiled when first asked for.

    Args:
        program: a pure function of tensors, of which all but the first may be None.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._kernels: dict[Any, Any] = {}

    @property
    def kernels_compiled(self) -> int:
        """Number of kernels."""
        return sum(kernel is not None for kernel in self._kernels.values())

    def forward(self, kind: str, given: tuple[bool, ...], arguments: list[Tensor]) -> Kernel | None:
        """The compiled program; None where it cannot be compiled.

        Args:
            kind: layout of the arguments.
            given: which arguments after the first one there are.
            arguments: contiguous views of those that there are.
        """
        key = (kind, given, tuple(map(_traits, arguments)))

        def compile_forward() -> Kernel:
            function = _without_absent(self.program, given)
            return _compiled(function, _examples(kind, arguments))

        return self._get(key, compile_forward)

    def backward(
        self, kind: str, given: tuple[bool, ...], arguments: list[Tensor], needs: tuple[bool, ...]
    ) -> tuple[Kernel, tuple[bool, ...]] | None:
        """The compiled gradient, and which outputs depend on an argument that needs one.

        The gradient takes the arguments and the outputs' gradients.

        Args:
            kind: layout of the arguments.
            given: which arguments after the first one there are.
            arguments: contiguous views of those that there are.
            needs: which of all arguments need a gradient.
        """
        key = (kind, given, tuple(map(_traits, arguments)), needs)

        def compile_backward() -> tuple[Kernel, tuple[bool, ...]]:
            function = _without_absent(self.program, given)
            pairs = zip(needs, (True, *given), strict=True)
            needed = [need for need, is_given in pairs if is_given]
            examples = _examples(kind, arguments)
            inputs = [torch.empty_like(e, device="meta") for e in examples]
            with torch.enable_grad():
                marked = zip(inputs, needed, strict=True)
                outputs = function(*(i.requires_grad_(need) for i, need in marked))
            device = arguments[0].device
            examples += [torch.empty_like(o, device=device).detach() for o in outputs]
            kernel = _compiled(_gradient_function(function, needed), examples)
            return kernel, tuple(output.requires_grad for output in outputs)

        return self._get(key, compile_backward)

    def of_shapes(
        self,
        key: Hashable,
        shapes: Sequence[tuple[int, ...]],
        arguments: Sequence[Tensor],
        strides: Mapping[int, tuple[int, ...]] | None = None,
    ) -> Kernel | None:
        """The compiled program for arguments without a layout; None where it cannot be compiled.

        Args:
            key: what the kernel is specialised for, besides dtypes and devices.
            shapes: shapes to trace with. Equal sizes stay equal; all but 1 may be others later.
            arguments: tensors of such dtypes and devices.
            strides: strides of those arguments that are not contiguous, by their places.
        """
        full_key = (key, tuple((a.dtype, a.device) for a in arguments))

        def compile_forward() -> Kernel:
            pairs = zip(shapes, arguments, strict=True)
            examples = [torch.empty(s, dtype=a.dtype, device=a.device) for s, a in pairs]
            for place, own in (strides or {}).items():
                a = arguments[place]
                options: dict[str, Any] = {"dtype": a.dtype, "device": a.device}
                examples[place] = torch.empty_strided(shapes[place], own, **options)
            return _compiled(self.program, examples)

        return self._get(full_key, compile_forward)

    def _get(self, key: Any, compile_it: Callable[[], Any]) -> Any:
        """What is kept under a key; None where compiling it failed."""
        if key not in self._kernels and _Compiler.works:
            _in_plain_thread(lambda: self._fill(key, compile_it))
        return self._kernels.get(key)

    def _fill(self, key: Any, compile_it: Callable[[], Any]) -> None:
        with _Compiler.lock:
            if key in self._kernels or not _Compiler.works:
                return
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # PyTorch's, about its own code
                    kernel = compile_it()
            except RuntimeError as error:
                kernel = None
                _Compiler.report(error)
            self._kernels[key] = kernel


def _traits(tensor: Tensor) -> tuple[Any, ...]:
    """What a kernel is specialised for."""
    return tensor.numel() > 1, tensor.dtype, tensor.device


def _examples(kind: str, arguments: list[Tensor]) -> list[Tensor]:
    """Tensors to trace with, in the place of the caller's; their memory is never touched."""
    x, *parameters = arguments
    whole = _EXAMPLE_SIZES[kind]
    examples = [torch.empty(whole, dtype=x.dtype, device=x.device)]
    for parameter in parameters:
        size = channel_size(kind, whole) if parameter.numel() > 1 else ()
        examples.append(torch.empty(size, dtype=parameter.dtype, device=parameter.device))
    return examples


def _without_absent(program: Program, given: tuple[bool, ...]) -> Program:
    """The program as a function of the tensors that are there, with results of its own."""

    def function(x: Tensor, *present: Tensor) -> tuple[Tensor, ...]:
        rest = iter(present)
        outputs = program(x, *(next(rest) if is_given else None for is_given in given))
        arguments = (x, *present)
        return tuple(o.clone() if any(o is a for a in arguments) else o for o in outputs)

    return function


def _gradient_function(function: Program, needs: list[bool]) -> Program:
    """The gradients of a function as a function of its arguments and its outputs' gradients."""

    def gradients(*arguments: Tensor) -> tuple[Tensor, ...]:
        inputs, grads = arguments[: len(needs)], arguments[len(needs) :]
        with torch.enable_grad():
            pairs = zip(inputs, needs, strict=True)
            leaves = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
            outputs = function(*leaves)
        wanted = [leaf for leaf, need in zip(leaves, needs, strict=True) if need]
        return gradients_of(outputs, wanted, grads, create_graph=False)

    return gradients


def gradients_of(outputs: Any, inputs: Any, grads: Any, create_graph: bool) -> tuple[Tensor, ...]:
    """Gradients of all inputs; zeros for one that no output depends on.

    Args:
        outputs: results of a function.
        inputs: tensors that need a gradient.
        grads: gradients of the outputs.
        create_graph: whether the gradients can be differentiated themselves.
    """
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    return torch.autograd.grad(
        [o for o, _ in pairs],
        inputs,
        [g for _, g in pairs],
        create_graph=create_graph,
        materialize_grads=True,
    )


def _compiled(function: Program, examples: list[Tensor]) -> Kernel:
    with torch.no_grad():
        graph = make_fx(function, tracing_mode="symbolic")(*examples)
        return standalone_compile(graph, examples)


def _in_plain_thread(work: Callable[[], None]) -> None:
    """Run in a thread of its own, whose modes and hooks are PyTorch's defaults.

    Tracing inside the caller's checkpoint or autocast would record its tensors there.
    """
    errors: list[BaseException] = []

    def target() -> None:
        try:
            work()
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target, name="brevitas-compile", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
