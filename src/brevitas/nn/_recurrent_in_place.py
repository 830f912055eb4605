"""Steps of recurrent layers that write into buffers: as few operations as eager code can have.

Layer: nn (L6).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from brevitas.nn._step_quantizers import FixedOperation
from brevitas.ops.quantize_into import QuantizeInto, quantize_into

__all__ = ["InPlaceLSTM", "InPlaceRNN"]

States = tuple[Tensor, ...]

# Bytes of the longest vector of a processor.
_VECTOR = 64
# Quantizers that are applied to a state.
_OF_STATES = ("cell_state", "hidden_tanh", "output")


def _prepared(
    operation: FixedOperation, like: Tensor, rows: int | None = None
) -> QuantizeInto | None:
    grid = operation.grid
    if grid is None:
        return quantize_into(operation.function, None, None, 0.0, 0.0, None, like)
    operands = (grid.scale, grid.shift, grid.lower, grid.upper)
    return quantize_into(operation.function, *operands, grid.plan, like, rows)


class InPlaceRNN:
    """``h = q(f(q(gate)))``, written where the caller says.

    Args:
        step: an ``RNNStep`` whose quantizers are single operations.
        like: the gates of one step, ``[batch, 1, size]``.
    """

    def __init__(self, step: Any, like: Tensor) -> None:
        state = like.squeeze(-2)
        self.function = torch.tanh_ if step.function is torch.tanh else torch.relu_
        prepared = [_prepared(op, state) for op in (step.gate, step.output)]
        self.usable = None not in prepared
        self.gate, self.output = prepared

    def __call__(self, gates: Tensor, states: States, out: States) -> None:
        """Write the next state."""
        assert self.gate is not None and self.output is not None
        (hidden,) = out
        self.gate(gates.squeeze(-2), hidden)
        self.function(hidden)
        self.output(hidden, hidden)


class InPlaceLSTM:
    """``c = q(q(f * c) + q(i * g))`` and ``h = q(o * q(tanh(c)))``, written where the caller says.

    Args:
        step: an ``LSTMStep`` whose quantizers are single operations.
        like: the gates of one step, ``[batch, gates, size]``.
    """

    def __init__(self, step: Any, like: Tensor) -> None:
        batch, count, size = like.shape
        # Elements beyond the last whole vector are computed by other instructions, which may round
        # a sigmoid otherwise. Gate after gate lies best, but not where that moves such elements.
        is_whole = size * like.element_size() % _VECTOR == 0
        self.rows = 0 if is_whole else 1
        shape = (count, batch, size) if is_whole else (batch, count, size)
        self.whole = like.new_empty(shape)
        first, last = self.whole.split((count - 1, 1), dim=self.rows)
        self.first = first
        self.sigmoids = first if is_whole else like.new_empty(first.shape)
        self.last = last.squeeze(self.rows)
        self.new = self.last if is_whole else like.new_empty(batch, size)
        self.pair = like.new_empty(2, batch, size)
        self.parts = self.sigmoids.unbind(self.rows)
        self.products = self.pair.unbind(0)
        self.scratch = like.new_empty(batch, size)
        self.forget = like.new_empty(batch, size)
        self.one = step.one(torch.ones_like(self.scratch)) if step.is_coupled else None
        prepared = [
            _prepared(step.gates, self.whole, self.rows),
            _prepared(step.sigmoids, self.sigmoids, self.rows),
            _prepared(step.cell_tanh, self.new),
            _prepared(step.terms, self.pair),
            *[_prepared(getattr(step, n), self.scratch) for n in _OF_STATES],
        ]
        self.usable = None not in prepared
        self.quantizers: list[Any] = prepared

    def __call__(self, gates: Tensor, states: States, out: States) -> None:
        """Write the next states."""
        of_gates, of_sigmoids, of_new, of_terms, of_cell, of_tanh, of_output = self.quantizers
        hidden, cell = out
        of_gates(gates.transpose(0, 1) if self.rows == 0 else gates, self.whole)
        of_sigmoids(self.first, self.sigmoids)
        of_new(self.last, self.new)
        enter, forget, leave = self.parts[0], self.parts[1], self.parts[-1]
        if self.one is not None:
            forget = torch.sub(self.one, enter, out=self.forget)
        kept, added = self.products
        torch.mul(forget, states[1], out=kept)
        torch.mul(enter, self.new, out=added)
        of_terms(self.pair, self.pair)
        torch.add(kept, added, out=cell)
        of_cell(cell, cell)
        of_tanh(cell, self.scratch)
        torch.mul(leave, self.scratch, out=hidden)
        of_output(hidden, hidden)
