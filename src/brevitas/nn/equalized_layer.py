"""Layers whose input is scaled or rotated first, to be easier to quantize. Layer: nn (L6)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas._compat import optional
from brevitas.common import ExportMixin, LayerProtocol
from brevitas.function.hadamard import hadamard_transform, is_power_of_two, next_hadamard_size
from brevitas.nn.quant_mha import QuantMultiheadAttention
from brevitas.quant_tensor import QuantTensor, plain

__all__ = [
    "INPUT_NAMES",
    "EqualizedModule",
    "RotatedModule",
    "fast_hadamard_transform",
    "functional_rotate_input",
]

# What the argument that holds the activation is called, in the layers of PyTorch and of others.
INPUT_NAMES = ("input", "inp", "query", "hidden_states", "x")

# All three are multiplied by a weight of the layer, and that weight was changed for all three.
_ATTENTION_INPUTS = ("query", "key", "value")
_ATTENTION = (nn.MultiheadAttention, QuantMultiheadAttention)

_ANY = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}

# CUDA kernel of the optional package of that name: `(x, scale) -> x`; None where not installed.
fast_hadamard_transform: Callable[[Tensor, float], Tensor] | None = optional(
    "fast_hadamard_transform", "hadamard_transform"
)


class EqualizedModule(nn.Module, LayerProtocol, ExportMixin):
    """A layer behind a scaling of its input: ``y = layer(scale_module(x))``.

    The input is the first argument of the layer whose name is in `INPUT_NAMES`, positional or by
    keyword; of a layer that takes any arguments, the first one. Of an attention layer it is query,
    key and value, a tensor that is given more than once scaled once.

    Args:
        scale_module: scales the input; the layer gets whatever it returns. Often a `ScaleBias`
            whose inverse is part of the layer's weight.
        layer: the layer behind it.

    Raises:
        TypeError: one of the two is no module.
        ValueError: the layer has no argument of such a name.

    Example:
        >>> import brevitas.nn as qnn
        >>> scale = qnn.ScaleBias(4, bias=False, runtime_shape=(1, -1))
        >>> layer = EqualizedModule(scale, nn.Linear(4, 2))
        >>> layer(torch.randn(3, 4)).shape
        torch.Size([3, 2])

    Reference: Xiao et al., "SmoothQuant: accurate and efficient post-training quantization for
    large language models", 2023.
    """

    def __init__(self, scale_module: nn.Module, layer: nn.Module) -> None:
        nn.Module.__init__(self)
        ExportMixin.__init__(self)
        _check_module("EqualizedModule", "scale_module", scale_module)
        _check_module("EqualizedModule", "layer", layer)
        _input_place(layer)
        self.scale = scale_module
        self.layer = layer

    @property
    def requires_export_handler(self) -> bool:
        """False: an exporter sees what is inside."""
        return False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the layer's output for the scaled input; other arguments pass as they are."""
        return _call_changed(self.layer, self.scale, args, kwargs)


class RotatedModule(nn.Module):
    """A layer behind a rotation of its input: ``y = layer(H x)``, ``H @ H.T = I``.

    H is a normalized Hadamard matrix (`hadamard_transform`), which spreads outliers over all
    features. The layer computes what it did before if its weight is rotated too, ``W @ H.T``. Of an
    attention layer, key and value are rotated like the query, given as keywords.

    Args:
        layer: the layer behind the rotation.
        had_mat: Hadamard matrix of size k, ``[k, k]``, with orthogonal rows, for inputs of size
            ``k * 2**m``; stored with the layer. None: the known one for the size of the input.
        k: its number of rows; None or 1 without a matrix.
        expansion_step: how many Hadamard sizes an expanded input grows.
        expand_input: fill the input with zeros up to a larger Hadamard size.
        hidden_dim: rotate blocks of that many features, e.g. heads, each by itself; all at once
            where None.

    Shapes:
        ``inp`` ``[..., n]``; the layer gets ``[..., n]``, or the larger size where expanded.

    Raises:
        TypeError: ``layer`` is no module, or ``had_mat`` no tensor.
        ValueError: ``had_mat`` has no orthogonal rows, or another number of them than ``k``;
            ``expansion_step`` or ``hidden_dim`` is no int >= 1.

    Example:
        >>> rotated = RotatedModule(nn.Linear(4, 2))
        >>> x = torch.randn(3, 4)
        >>> torch.equal(rotated(x), rotated.layer(functional_rotate_input(x)))
        True

    Reference: Ashkboos et al., "QuaRot: outlier-free 4-bit inference in rotated LLMs", 2024.
    """

    had_mat: Tensor | None

    def __init__(
        self,
        layer: nn.Module,
        had_mat: Tensor | None = None,
        k: int | None = None,
        expansion_step: int = 1,
        expand_input: bool = False,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        _check_module("RotatedModule", "layer", layer)
        _check_factor(had_mat, k)
        _check_size("expansion_step", expansion_step)
        if hidden_dim is not None:
            _check_size("hidden_dim", hidden_dim)
        # A copy: what happens to the matrix of one layer must not reach another.
        self.register_buffer("had_mat", None if had_mat is None else had_mat.detach().clone())
        self.layer = layer
        self.k = had_mat.shape[0] if k is None and had_mat is not None else k
        self.expansion_step = expansion_step
        self.expand_input = expand_input
        self.hidden_dim = hidden_dim

    def extra_repr(self) -> str:
        """Return the arguments that are not at their defaults."""
        shown = {"k": self.k, "hidden_dim": self.hidden_dim}
        if self.expand_input:
            shown["expansion_step"] = self.expansion_step
        return ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)

    def rotation_forward(self, inp: Tensor | QuantTensor) -> Tensor:
        """Return the rotated input: a plain tensor, of the larger size where it is expanded.

        Args:
            inp: input of the layer, ``[..., n]``; of a quantized tensor, its value.
        """
        value: Tensor = plain(inp)
        if self.expand_input:
            size = value.shape[-1]
            value = F.pad(value, (0, next_hadamard_size(size, self.expansion_step) - size))
        if self.hidden_dim is None:
            return _rotated(value, self.had_mat)
        if value.shape[-1] % self.hidden_dim:
            raise ValueError(
                f"last dimension of size {value.shape[-1]}, hidden_dim={self.hidden_dim}: expected "
                "a multiple of hidden_dim. Layer: RotatedModule"
            )
        blocks = value.unflatten(-1, (value.shape[-1] // self.hidden_dim, self.hidden_dim))
        return _rotated(blocks, self.had_mat).flatten(-2)

    def forward(self, inp: Tensor | QuantTensor, **kwargs: Any) -> Any:
        """Return the layer's output for the rotated input; keywords pass to the layer."""
        if not isinstance(self.layer, _ATTENTION):
            return self.layer(self.rotation_forward(inp), **kwargs)
        return _call_changed(self.layer, self.rotation_forward, (inp,), kwargs)


def functional_rotate_input(inp: Tensor | QuantTensor, transpose: bool = False) -> Tensor:
    """Rotate vectors by the normalized Hadamard matrix of their size.

    ``y = H x``, with the H of `hadamard_transform`. Scalar products stay: rotated queries times
    rotated keys are the scores of before. To rotate back, use ``hadamard_transform(y,
    transpose=True)``.

    Args:
        inp: vectors ``[..., n]``, with n a power of two, or one times a known factor; of a
            quantized tensor, its value.
        transpose: the tensor is transposed, ``[..., n, vectors]``, like the keys in
            ``query @ key``; so is the result.

    Returns:
        Plain tensor of the shape and dtype of ``inp``.

    Raises:
        ValueError: no Hadamard matrix of size n is known.

    Example:
        >>> query, key = torch.randn(5, 24), torch.randn(24, 7)
        >>> rotated = functional_rotate_input(query) @ functional_rotate_input(key, transpose=True)
        >>> torch.allclose(rotated, query @ key, atol=1e-4)
        True
    """
    value: Tensor = plain(inp)
    return _rotated(value.mT, None).mT if transpose else _rotated(value, None)


def _rotated(value: Tensor, factor: Tensor | None) -> Tensor:
    size = value.shape[-1]
    kernel = fast_hadamard_transform
    # The kernel is opaque to a compiler, which fuses the products on its own.
    if kernel is None or factor is not None or torch.compiler.is_compiling() or not value.is_cuda:
        return hadamard_transform(value, factor)
    if not (is_power_of_two(size) and value.is_floating_point()):
        return hadamard_transform(value)
    return kernel(value, 1 / math.sqrt(size))


def _call_changed(
    layer: nn.Module, change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call a layer with its input changed, wherever it stands among the arguments."""
    place, name = _input_place(layer)
    if isinstance(layer, _ATTENTION):
        return _call_attention(layer, change, args, kwargs)
    if place is not None and place < len(args):
        args = (*args[:place], change(args[place]), *args[place + 1 :])
        return layer(*args, **kwargs)
    names = INPUT_NAMES if name is None else (name,)
    given = next((known for known in names if known in kwargs), None)
    if given is None:
        return layer(*args, **kwargs)  # the default, or an error that names what is missing
    return layer(*args, **{**kwargs, given: change(kwargs[given])})


def _call_attention(
    layer: nn.Module, change: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call an attention layer with query, key and value changed; one tensor stays one tensor."""
    inputs = dict(zip(_ATTENTION_INPUTS, args, strict=False))
    inputs |= {name: kwargs[name] for name in _ATTENTION_INPUTS if name in kwargs}
    changed: list[tuple[Any, Any]] = []
    for value in inputs.values():
        if not any(value is known for known, _ in changed):
            changed.append((value, change(value)))

    def new(value: Any) -> Any:
        return next(result for known, result in changed if known is value)

    count = len(_ATTENTION_INPUTS)
    args = (*(new(value) for value in args[:count]), *args[count:])
    kwargs = {
        name: new(value) if name in _ATTENTION_INPUTS else value for name, value in kwargs.items()
    }
    return layer(*args, **kwargs)


def _input_place(layer: nn.Module) -> tuple[int | None, str | None]:
    """Where a layer takes its input: its place among positional arguments, and its name.

    Read anew at each call: a layer inside of another is replaced when a model is quantized.
    """
    parameters = inspect.signature(layer.forward).parameters
    for place, (name, parameter) in enumerate(parameters.items()):
        if name in INPUT_NAMES:
            by_keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            return (None if by_keyword else place), name
    kinds = {parameter.kind for parameter in parameters.values()}
    if kinds and kinds <= _ANY:
        return (0 if inspect.Parameter.VAR_POSITIONAL in kinds else None), None
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None, None
    raise ValueError(
        f"{type(layer).__name__}.forward{inspect.signature(layer.forward)}: expected an argument "
        f"named {', '.join(INPUT_NAMES)}. Wrap the layer in a module that has one."
    )


def _check_module(owner: str, name: str, given: object) -> None:
    if not isinstance(given, nn.Module):
        raise TypeError(f"{name}={given!r}: expected a torch.nn.Module. Layer: {owner}")


def _check_size(name: str, given: object) -> None:
    if not isinstance(given, int) or given < 1:
        raise ValueError(f"{name}={given!r}: expected an int >= 1. Layer: RotatedModule")


def _check_factor(had_mat: Tensor | None, k: int | None) -> None:
    if had_mat is None:
        if k not in (None, 1):
            raise ValueError(
                f"k={k!r} without had_mat: expected the matrix of {k!r} rows too, or neither. "
                "Layer: RotatedModule"
            )
        return
    if not isinstance(had_mat, Tensor):
        raise TypeError(
            f"had_mat={had_mat!r}: expected a tensor [k, k], or None. Layer: RotatedModule"
        )
    shape = tuple(had_mat.shape)
    if len(shape) != 2 or shape[0] != shape[1] or k not in (None, shape[0]):
        raise ValueError(
            f"had_mat of shape {shape}, k={k!r}: expected [k, k]. Layer: RotatedModule"
        )
    if not had_mat.is_meta and not _has_orthogonal_rows(had_mat):
        raise ValueError(
            f"had_mat of shape {shape}: its rows are not orthogonal and of one norm. Expected "
            "had_mat @ had_mat.T to be a multiple of the identity. Layer: RotatedModule"
        )


def _has_orthogonal_rows(matrix: Tensor) -> bool:
    rows = matrix.detach().double()
    products = rows @ rows.T
    square = products[0, 0]
    # Rounded entries are off by eps / 2 each; the root leaves room, and a wrong matrix is off by
    # far more.
    eps = torch.finfo(matrix.dtype).eps if matrix.is_floating_point() else 0.0
    error = (products - square * torch.eye(len(rows), device=rows.device, dtype=rows.dtype)).abs()
    return bool(square > 0) and bool((error <= math.sqrt(eps) * square).all())
