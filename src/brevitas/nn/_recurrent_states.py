"""Layout of sequences and states: batches, initial states, concatenations. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain

__all__ = ["Layout", "joined", "split_states"]

Value: TypeAlias = Tensor | QuantTensor


class Layout(NamedTuple):
    """How the caller lays sequences out; inside they are ``[steps, batch, features]``."""

    is_batched: bool
    batch_first: bool

    @classmethod
    def of(cls, inp: Value, batch_first: bool, features: int, layer: str) -> Layout:
        """Read the layout off an input.

        Raises:
            ValueError: for another number of dimensions or features, or an empty sequence.
        """
        shape, layout = tuple(inp.shape), cls(inp.dim() == 3, batch_first)
        batched = "[batch, steps, features]" if batch_first else "[steps, batch, features]"
        steps = shape[1 if layout.is_batched and batch_first else 0] if shape else 0
        if len(shape) not in (2, 3) or shape[-1] != features or steps == 0:
            raise ValueError(
                f"input of shape {shape}: expected {batched}, or [steps, features] without a "
                f"batch, with {features} features and at least one step. Layer: {layer}"
            )
        return layout

    def to_steps(self, inp: Value) -> Value:
        """Return an input as ``[steps, batch, features]``."""
        if not self.is_batched:
            return inp.unsqueeze(1)
        return inp.transpose(0, 1) if self.batch_first else inp

    def from_steps(self, output: Value) -> Value:
        """Return ``[steps, batch, features]`` as the caller has it."""
        if not self.is_batched:
            return output.squeeze(1)
        return output.transpose(0, 1) if self.batch_first else output

    def from_states(self, states: Value) -> Value:
        """Return ``[layers * directions, batch, size]`` as the caller has it."""
        return states if self.is_batched else states.squeeze(1)


def split_states(
    name: str, states: Any, count: int, batch: int, size: int, layer: str
) -> list[Value | None]:
    """Initial state of each layer and direction, ``[batch, size]``; None where it is zero.

    Args:
        name: name of the argument, for messages.
        states: None, ``[count, batch, size]`` as a tensor or quantized, or a list of ``count``
            tensors ``[batch, size]`` or ``[1, batch, size]``. The batch may be left out of the
            states of one sequence, the count where it is 1.
        count: layers times directions.
        batch: size of the batch.
        size: size of the state.
        layer: class of the layer, for messages.

    Raises:
        ValueError: for another shape.

    Example:
        >>> [tuple(s.shape) for s in split_states("hx", torch.zeros(2, 5, 3), 2, 5, 3, "QuantRNN")]
        [(5, 3), (5, 3)]
    """
    if states is None:
        return [None] * count
    is_list = isinstance(states, (list, tuple)) and not isinstance(states, QuantTensor)
    found: list[Any] = list(states) if is_list else _rows(states, count)
    shapes = [tuple(state.shape) for state in found]
    accepted = [(batch, size), (1, batch, size), *([(size,)] if batch == 1 else [])]
    if len(found) != count or any(shape not in accepted for shape in shapes):
        received: Any = states
        given = f"a list of shapes {shapes}" if is_list else f"shape {tuple(received.shape)}"
        raise ValueError(
            f"{name}: {given}, expected [{count}, {batch}, {size}], of layers times directions, "
            f"batch and size of the state. Layer: {layer}"
        )
    return [state.reshape(batch, size) for state in found]


def _rows(states: Value, count: int) -> list[Value]:
    if states.dim() < 3 and count == 1:
        return [states]
    return [states[place] for place in range(states.shape[0])]


def joined(values: Sequence[Value], dim: int, is_dynamic: bool) -> Value:
    """Concatenate tensors that one quantizer has quantized.

    In training, while each has a scale of its own, they have the mean of all scales, as quantized
    tensors that are concatenated. Scales of a dynamic quantizer stay apart.

    Args:
        values: quantized tensors, or plain ones.
        dim: dimension along which they are put.
        is_dynamic: whether each has a scale of its own in evaluation.

    Returns:
        A quantized tensor where all are, else a plain one.

    Example:
        >>> x = IntQuantTensor(torch.ones(1, 2), 0.5, 0, 8, signed=True, training=False)
        >>> joined([x, x], 0, is_dynamic=False).scale
        tensor(0.5000)
    """
    value = torch.cat([plain(item) for item in values], dim=dim)
    first = values[0]
    if not all(isinstance(item, IntQuantTensor) for item in values):
        return value
    fields = {}
    for name in ("scale", "zero_point"):
        own = [getattr(item, name) for item in values]
        if any(field is not own[0] for field in own) and (is_dynamic or first.training):
            join = _side_by_side if is_dynamic else _mean
            fields[name] = join(own, values, dim)
    return first.set(value=value, **fields)


def _mean(fields: list[Tensor], values: Sequence[Value], dim: int) -> Tensor:
    return torch.stack(fields).mean(0)


def _side_by_side(fields: list[Tensor], values: Sequence[Value], dim: int) -> Tensor:
    spread = []
    for field, item in zip(fields, values, strict=True):
        shape = [1] * (item.dim() - field.dim()) + list(field.shape)
        shape[dim] = item.shape[dim]
        spread.append(field.expand(shape))
    return torch.cat(spread, dim=dim)
