"""Small helpers on tensors and modules. Layer: utils (L0)."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad

# PyTorch has dropped named tensors; renaming is kept as a no-operation.
NAMED_TENSORS_SUPPORTED = False
HALF_DTYPES = (torch.float16, torch.bfloat16)


def widened(x: Tensor) -> Tensor:
    """Return half-precision values in float32, in which all quantizers compute, others unchanged.

    Example:
        >>> widened(torch.ones(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return x.float() if x.dtype in HALF_DTYPES else x


class StopFwdException(Exception):
    """Raised by a hook to leave a forward pass early, caught by whoever started it."""


class TupleSequential(nn.Sequential):
    """A `Sequential` whose modules pass several tensors on to each other.

    Example:
        >>> TupleSequential(nn.Identity(), nn.ReLU())(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def output(self, mod: nn.Module, input: Any) -> Any:
        """Call `mod` with a tuple unpacked, with anything else as it is.

        Args:
            mod: The module to call.
            input: A tuple of arguments, or one argument.
        """
        return mod(*input) if isinstance(input, tuple) else mod(input)

    def forward(self, *input: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Call the modules one after the other.

        Args:
            *input: The arguments of the first.
        """
        output: Any = input[0] if len(input) == 1 else input
        for index, module in enumerate(self):
            output = module(*input) if index == 0 else self.output(module, output)
        return output


class KwargsForwardHook(nn.Module):
    """Wraps a module and shows each call to a hook, keyword arguments included.

    Args:
        module: The module to call.
        hook_fn: Called as `hook_fn(module, *args, output, **kwargs)`; its result is dropped.
    """

    def __init__(self, module: nn.Module, hook_fn: Callable[..., object]) -> None:
        super().__init__()
        self.module = module
        self.hook_fn = hook_fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module returns.

        Args:
            *args: Passed on to the module.
            **kwargs: Passed on to the module.
        """
        output = self.module(*args, **kwargs)
        self.hook_fn(self.module, *args, output, **kwargs)
        return output


@contextmanager
def torch_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make `dtype` the default floating-point type, in a `with` block or of a decorated function.

    Args:
        dtype: A floating-point type.

    Example:
        >>> with torch_dtype(torch.float64):
        ...     torch.tensor(1.0).dtype
        torch.float64
    """
    old_dtype = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(old_dtype)


def kthvalue(
    x: Tensor,
    k: int,
    dim: int | None = None,
    keepdim: bool = False,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the k-th smallest elements along a dimension, and their indices.

    Args:
        x: The tensor, of any floating-point type.
        k: Counted from 1.
        dim: The dimension, the last by default.
        keepdim: Keep `dim` with size 1.
        out: Tensors to write to.

    Example:
        >>> kthvalue(torch.tensor([3.0, 1.0, 2.0]), 2)[0]
        tensor(2.)
    """
    values, indices = torch.kthvalue(x, k, -1 if dim is None else dim, keepdim, out=out)
    return values, indices


def compute_channel_view_shape(tensor: Tensor, channel_dim: int) -> tuple[int, ...]:
    """Return the shape in which a vector of channels broadcasts against `tensor`.

    Args:
        tensor: The tensor with channels.
        channel_dim: Their dimension.

    Example:
        >>> compute_channel_view_shape(torch.zeros(2, 3, 4), 1)
        (1, -1, 1)
    """
    shape = [1] * tensor.dim()
    shape[channel_dim] = -1
    return tuple(shape)


def is_broadcastable(tensor: Tensor | Sequence[int], other: Tensor | Sequence[int]) -> bool:
    """Return whether two tensors, or two shapes, broadcast against each other.

    Args:
        tensor: A tensor or a shape.
        other: A tensor or a shape.

    Example:
        >>> is_broadcastable((3,), (2, 3)), is_broadcastable((2,), (2, 3))
        (True, False)
    """
    shape = tensor.shape if isinstance(tensor, Tensor) else tensor
    other_shape = other.shape if isinstance(other, Tensor) else other
    pairs = zip(reversed(shape), reversed(other_shape), strict=False)
    return all(size == 1 or other_size in (1, size) for size, other_size in pairs)


def pad_to_dim(tensor: Tensor, dim_to_expand: int, new_dim: int) -> Tensor:
    """Append zeros along a dimension until it has `new_dim` elements.

    Args:
        tensor: The tensor to pad.
        dim_to_expand: The dimension.
        new_dim: Its size afterwards.

    Raises:
        ValueError: The dimension is larger than `new_dim`.

    Example:
        >>> pad_to_dim(torch.ones(2), 0, 3)
        tensor([1., 1., 0.])
    """
    size = tensor.shape[dim_to_expand]
    if new_dim < size:
        raise ValueError(
            f"new_dim={new_dim}: expected at least {size}, the size of dimension {dim_to_expand}."
        )
    widths = [0, 0] * tensor.dim()
    # `pad` counts dimensions from the last, two widths each.
    widths[2 * (tensor.dim() - 1 - dim_to_expand % tensor.dim()) + 1] = new_dim - size
    return pad(tensor, widths)


def padding_to_multiple(x: Tensor, dim_to_expand: int, dim_multiple: int) -> Tensor:
    """Append zeros along a dimension until its size is a multiple of `dim_multiple`.

    Args:
        x: The tensor; returned itself where nothing is missing.
        dim_to_expand: The dimension.
        dim_multiple: At least 1.

    Example:
        >>> padding_to_multiple(torch.ones(3), 0, 2)
        tensor([1., 1., 1., 0.])
    """
    size = x.shape[dim_to_expand]
    missing = -size % dim_multiple
    return pad_to_dim(x, dim_to_expand, size + missing) if missing else x


#: Floating-point type -> integer type of its size, bits of the mantissa, bits of the exponent.
_FLOAT_LAYOUT: dict[torch.dtype, tuple[torch.dtype, int, int]] = {
    torch.float16: (torch.int16, 10, 5),
    torch.bfloat16: (torch.int16, 7, 8),
    torch.float32: (torch.int32, 23, 8),
    torch.float64: (torch.int64, 52, 11),
}


def leading_power(x: Tensor) -> Tensor:
    """Return the largest power of two up to the magnitude of each element, `2**floor(log2|x|)`.

    It is read off the bits, so that it is exact where a logarithm would round up to the next
    power. Zero and subnormal numbers count as the smallest normal number, infinities and NaN as
    the largest power of two.

    Args:
        x: Any floating-point tensor.

    Returns:
        Powers of two, finite and positive, in the shape and dtype of `x`; without a gradient.

    Example:
        >>> leading_power(torch.tensor([1.0, -5.0, 0.75]))
        tensor([1.0000, 4.0000, 0.5000])
    """
    bits, mantissa, exponent = _FLOAT_LAYOUT[x.dtype]
    mask = ((1 << exponent) - 1) << mantissa
    power = x.detach().view(bits).bitwise_and(mask).view(x.dtype)
    return power.clamp_(torch.finfo(x.dtype).tiny, 2.0 ** ((1 << (exponent - 1)) - 1))


def float_internal_scale(
    x: Tensor, mantissa_bit_width: Tensor, fp_internal_scale_min: Tensor, eps: float
) -> Tensor:
    """Return the step between neighbouring minifloats at each element.

    `2 ** max(floor(log2(|x| + eps)) - mantissa_bit_width, fp_internal_scale_min)`; the gradient
    passes through `floor` unchanged.

    Args:
        x: Values in units of the scale.
        mantissa_bit_width: Bits after the leading one.
        fp_internal_scale_min: Exponent of the step between subnormal numbers.
        eps: Keeps the logarithm away from zero.

    Returns:
        Steps, shaped like `x`.

    Example:
        >>> float_internal_scale(
        ...     torch.tensor([1.0, 3.0]), torch.tensor(3.0), torch.tensor(-9.0), 1e-8)
        tensor([0.1250, 0.2500])
    """
    limits = torch.finfo(x.dtype)
    # Zero becomes the smallest number there is, whose logarithm and gradient are finite.
    magnitude = (x.abs() + eps).clamp(limits.tiny * limits.eps, limits.max)
    logarithm = torch.log2(magnitude)
    # The logarithm of a power of two is an integer, at most one rounding away from it.
    exponent = torch.log2(leading_power(magnitude)).round() + (logarithm - logarithm.detach())
    normal = exponent - mantissa_bit_width
    step = torch.where(normal < fp_internal_scale_min, fp_internal_scale_min, normal)
    # A step below the smallest number would be zero; all numbers are multiples of that one.
    return torch.exp2(step.clamp_min(math.log2(limits.tiny * limits.eps)))


def rename_tensor(tensor: Tensor, *names: str | None) -> Tensor:
    """Return `tensor`: PyTorch has no named tensors any more.

    Args:
        tensor: Any tensor.
        *names: Ignored.
    """
    return tensor


rename_tensor_ = rename_tensor


def same_storage(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are views of the same memory.

    Args:
        a: Any tensor.
        b: Any tensor.

    Example:
        >>> x = torch.zeros(4)
        >>> same_storage(x, x[2:]), same_storage(x, x.clone())
        (True, False)
    """
    storage, other = a.untyped_storage(), b.untyped_storage()
    # Without memory (meta device, no elements) only the storage object tells them apart.
    return storage._cdata == other._cdata or 0 != storage.data_ptr() == other.data_ptr()


def torch_partial_deepcopy(model: nn.Module) -> nn.Module:
    """Return a deep copy whose parameters are new but share the memory of the originals.

    Args:
        model: The module to copy; its buffers are copied.
    """
    memo = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, memo)


def init_process_group(backend: str = "nccl") -> None:
    """Join the process group that a launcher such as `torchrun` describes in the environment.

    Does nothing in a single process (`WORLD_SIZE` absent or 1) or where a group exists already.

    Args:
        backend: `"nccl"` for CUDA devices, which also selects device `LOCAL_RANK`; `"gloo"` else.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        return
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(backend)
