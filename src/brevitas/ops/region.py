"""A function of tensors whose forward and backward are one compiled kernel each. Layer: ops (L1).

Function and gradient are traced with symbolic sizes and compiled by TorchInductor (C++ on a CPU,
Triton on a GPU). A region saves its inputs for the backward pass and nothing else. Compiling takes
seconds; the kernels then serve tensors of every size.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from brevitas._compat import mark_open_size
from brevitas.ops.layout import Layout, channel_size

__all__ = ["Program", "Region", "can_run_region"]

# Names of the dimensions of each layout's view, by which the compiler knows equal sizes.
_DIMENSIONS: dict[str, tuple[str, ...]] = {
    "flat": ("size",),
    "elements": ("channel",),
    "rows": ("channel", "inner"),
    "columns": ("outer", "channel"),
    "blocks": ("outer", "channel", "inner"),
}
# Sizes to trace and compile with. Distinct primes: none passes for another one, or for a multiple
# of a vector's length. The compiler reads from them how large the tensors are that it is for.
_SMALL = {"size": 1021, "outer": 61, "channel": 509, "inner": 2053}
_LARGE = {"size": 1048573, "outer": 16411, "channel": 8191, "inner": 16381}
# Sums of more terms are made in chunks, which keeps their rounding small.
_CHUNK = 4096

Program = Callable[..., tuple[Tensor, ...]]
Parameters = tuple[Tensor | None, ...]
Kernel = Callable[..., tuple[Tensor, ...]]


class _Compiler:
    """Whether kernels can be compiled on this machine; where they cannot, it is said once."""

    works = True

    @classmethod
    def fail(cls, error: RuntimeError) -> None:
        """Run without compilation from now on, and say why and what to do."""
        cls.works = False
        warnings.warn(
            "BREVITAS_JIT=1, but compiling a quantizer failed; quantizers run without compilation. "
            f"{str(error).splitlines()[0]}. On a CPU install a C++ compiler (package g++ or clang) "
            "or set CXX to its path; on a GPU install triton.",
            RuntimeWarning,
            stacklevel=2,
        )


def can_run_region(x: Tensor) -> bool:
    """Whether a call on ``x`` may run compiled: plain eager execution, and a compiler that works.

    Under ``torch.compile``, ``torch.export``, ``torch.jit.trace``, ``torch.func`` and modes of
    ``__torch_function__`` or ``__torch_dispatch__``, those need to see plain operations.

    Example:
        >>> can_run_region(torch.ones(2))
        True
    """
    return (
        _Compiler.works
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.is_floating_point()
        and not x.is_meta
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._len_torch_function_stack() == 0
    )


class Region:
    """A program, and the kernels compiled for it: one for each layout, dtype and gradient.

    Args:
        program: a pure function ``(x, *parameters) -> (y, *further)``. ``x`` and ``y`` have the
            layout's shape; a parameter or further output is one number or one per channel, a
            parameter may be None. It branches on shapes at most, never on values.

    Example:
        >>> scaled = Region(lambda x, scale: (x * scale, scale.abs()))
        >>> scaled.kernels_compiled
        0
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self._kernels: dict[Any, Kernel] = {}

    @property
    def kernels_compiled(self) -> int:
        """Number of kernels that were compiled so far."""
        return len(self._kernels)

    def __call__(
        self,
        layout: Layout,
        shapes: tuple[torch.Size, ...],
        x: Tensor,
        *parameters: Tensor | None,
    ) -> tuple[Tensor, ...] | None:
        """Run the program.

        Args:
            layout: view of ``x``.
            shapes: shape of each further output.
            x: first argument of the program.
            *parameters: its further arguments.

        Returns:
            What the program returns; None where it cannot be compiled.
        """
        needs = tuple(t is not None and t.requires_grad for t in (x, *parameters))
        differentiable = torch.is_grad_enabled() and any(needs)
        sizes = _Sizes.of(layout.kind, layout.size)
        modes = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(x.device.type)
        traits = (sizes, tuple(map(_traits, (x, *parameters))), modes)
        forward = self._kernel(traits, x, parameters, None)
        if forward is None:
            return None
        if not differentiable:
            return _run_forward(forward, layout, shapes, x, parameters)
        # Compiled before it is needed: a backward pass is no place to compile in.
        backward = self._kernel(traits, x, parameters, needs)
        if backward is None:
            return None
        call = _Call(self.program, layout, shapes, forward, backward, needs)
        return _RegionFn.apply(call, x, *parameters)

    def _kernel(
        self, traits: Any, x: Tensor, parameters: Parameters, needs: tuple[bool, ...] | None
    ) -> Kernel | None:
        """The compiled forward (``needs`` is None) or backward, compiled when first asked for."""
        kernel = self._kernels.get((traits, needs))
        if kernel is None and _Compiler.works:
            kernel = _compile(self.program, traits[0], x, parameters, needs)
            if kernel is not None:
                self._kernels[traits, needs] = kernel
        return kernel


class _Call(NamedTuple):
    """One call of a region, for its backward pass."""

    program: Program
    layout: Layout
    shapes: tuple[torch.Size, ...]
    forward: Kernel
    backward: Kernel
    needs: tuple[bool, ...]

    def gradients(
        self, x: Tensor, parameters: Parameters, grads: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradient of each tensor that needs one, None for the others."""
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            return self._differentiable_gradients(x, parameters, grads)
        layout = self.layout
        grad_y, *further = (grad.detach() for grad in grads)
        flat_grads = (layout.flatten(grad_y), *map(layout.flatten_channels, further))
        found = iter(self.backward(*_flat_arguments(layout, x, parameters), *flat_grads))
        grad_x = layout.restore(next(found)) if self.needs[0] else None
        pairs = zip(parameters, self.needs[1:], strict=True)
        views = (next(found).view(p.shape) if p is not None and n else None for p, n in pairs)
        return grad_x, *views

    def _differentiable_gradients(
        self, x: Tensor, parameters: Parameters, grads: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        layout = self.layout
        flat = [None if p is None else layout.flatten_channels(p) for p in parameters]
        y, *further = self.program(layout.flatten(x), *flat)
        outputs = [layout.restore(y), *further]
        shaped = [grad.view(output.shape) for grad, output in zip(grads, outputs, strict=True)]
        tensors = zip((x, *parameters), self.needs, strict=True)
        wanted = [t for t, needed in tensors if needed and t is not None]
        found = iter(_gradients(outputs, wanted, shaped, create_graph=True))
        return tuple(next(found) if needed else None for needed in self.needs)


def _present(x: Tensor, parameters: Parameters) -> Iterator[tuple[int, Tensor]]:
    """The tensors that are there, with their positions."""
    return ((i, t) for i, t in enumerate((x, *parameters)) if t is not None)


def _run_forward(
    kernel: Kernel,
    layout: Layout,
    shapes: tuple[torch.Size, ...],
    x: Tensor,
    parameters: Parameters,
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        y, *further = kernel(*_flat_arguments(layout, x, parameters))
        return layout.restore(y), *(f.view(s) for f, s in zip(further, shapes, strict=True))


def _flat_arguments(layout: Layout, x: Tensor, parameters: Parameters) -> list[Tensor]:
    """The program's arguments as the kernels take them: views, without the absent ones."""
    present = (p.detach() for p in parameters if p is not None)
    return [layout.flatten(x.detach()), *map(layout.flatten_channels, present)]


def _traits(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """What a kernel is specialised for."""
    if tensor is None:
        return None
    return tensor.numel() > 1, tensor.dtype, tensor.device.type, tensor.is_inference()


class _Sizes:
    """The sizes that one kernel is compiled for: any, of which each is below or above a chunk.

    Args:
        kind: of the layout of the first call.
        is_large: for each dimension of its view, whether it is larger than a chunk.
    """

    def __init__(self, kind: str, is_large: tuple[bool, ...]) -> None:
        self.kind = kind
        pairs = zip(_DIMENSIONS[kind], is_large, strict=True)
        self.examples = {name: (_LARGE if large else _SMALL)[name] for name, large in pairs}

    @staticmethod
    @cache
    def _shared(kind: str, is_large: tuple[bool, ...]) -> _Sizes:
        return _Sizes(kind, is_large)

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(kind: str, size: tuple[int, ...]) -> _Sizes:
        """The one object for the sizes of a view, so that it is its own key."""
        return _Sizes._shared(kind, tuple(dim > _CHUNK for dim in size))

    def example(self, tensor: Tensor, is_first: bool) -> Tensor:
        """A tensor to trace and compile with, in the place of one of the caller's."""
        size = tuple(self.examples.values())
        if not is_first:
            channels = self.examples.get("channel", 1) if tensor.numel() > 1 else 1
            size = channel_size(self.kind, channels)
        return torch.ones(size, dtype=tensor.dtype, device=tensor.device)

    def open(self, example: Tensor) -> Tensor:
        """Let the compiler assume nothing of an example's sizes but what ``is_large`` says.

        Kernels for any size need no guards, so that no later size compiles them again.
        """
        for index, size in enumerate(example.shape):
            for name, example_size in self.examples.items():
                if size == example_size:
                    mark_open_size(example, index, name, _CHUNK + 1 if size > _CHUNK else 2)
        return example


def _compile(
    program: Program,
    sizes: _Sizes,
    x: Tensor,
    parameters: Parameters,
    needs: tuple[bool, ...] | None,
) -> Kernel | None:
    """The forward kernel of a program, or its backward for what ``needs`` a gradient."""
    given = [True, *(p is not None for p in parameters)]
    function = _without_absent(program, given)
    arguments = [sizes.example(t, index == 0) for index, t in _present(x, parameters)]
    if needs is not None:
        metas = (torch.empty_like(argument, device="meta") for argument in arguments)
        with torch.no_grad():
            outputs = function(*metas)
        present = [n for n, is_given in zip(needs, given, strict=True) if is_given]
        function = _gradient_function(function, present)
        arguments += [torch.zeros_like(output, device=x.device) for output in outputs]
    try:
        return _in_plain_thread(lambda: _compiled(function, sizes, arguments))
    except RuntimeError as error:
        _Compiler.fail(error)
        return None


def _without_absent(program: Program, given: list[bool]) -> Program:
    """The program as a function of the tensors that are there."""

    def function(*present: Tensor) -> tuple[Tensor, ...]:
        rest = iter(present)
        return program(*(next(rest) if is_given else None for is_given in given))

    return function


def _gradient_function(function: Program, needs: list[bool]) -> Program:
    """The gradients of a function as a function of its arguments and its outputs' gradients."""

    def gradients(*arguments: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            pairs = zip(arguments, needs, strict=False)
            inputs = [a.detach().requires_grad_(needed) for a, needed in pairs]
            outputs = function(*inputs)
        wanted = [a for a, needed in zip(inputs, needs, strict=True) if needed]
        return _gradients(outputs, wanted, arguments[len(needs) :], create_graph=False)

    return gradients


def _gradients(
    outputs: Any, inputs: list[Tensor], grads: Any, create_graph: bool
) -> tuple[Tensor, ...]:
    """Gradients of all inputs; zeros for one that no output depends on."""
    pairs = [(o, g) for o, g in zip(outputs, grads, strict=True) if o.requires_grad]
    return torch.autograd.grad(
        [o for o, _ in pairs],
        inputs,
        [g for _, g in pairs],
        create_graph=create_graph,
        materialize_grads=True,
    )


def _compiled(function: Program, sizes: _Sizes, arguments: list[Tensor]) -> Kernel:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about its own code
        graph = make_fx(function, tracing_mode="symbolic")(*arguments)
        kernel = torch.compile(graph, fullgraph=True)
        kernel(*map(sizes.open, arguments))
    return kernel


def _in_plain_thread(work: Callable[[], Kernel]) -> Kernel:
    """Run in a thread of its own, whose modes and hooks are PyTorch's defaults.

    Tracing inside the caller's checkpoint or autocast would record its tensors there.
    """
    result: list[Kernel] = []
    errors: list[BaseException] = []
    inference = torch.is_inference_mode_enabled()

    def target() -> None:
        try:
            with torch.inference_mode(inference):
                result.append(work())
        except BaseException as error:  # raised again in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target, name="brevitas-compile")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


class _RegionFn(torch.autograd.Function):
    """Compiled forward, compiled backward; the inputs are all that is saved."""

    @staticmethod
    def forward(ctx: Any, call: _Call, x: Tensor, *parameters: Tensor | None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.call = call
        ctx.save_for_backward(x, *parameters)
        return _run_forward(call.forward, call.layout, call.shapes, x, parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors
        return None, *ctx.call.gradients(x, tuple(parameters), grads)
