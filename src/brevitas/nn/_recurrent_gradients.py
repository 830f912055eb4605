"""The backward pass of an LSTM's step in buffers: as few operations as eager code can have.

Layer: nn (L6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from brevitas.nn._step_quantizers import FixedOperation
from brevitas.ops.quantize_into import QuantizeGradients, quantize_into

__all__ = ["LSTMGradients", "supports_gradients"]

States = tuple[Tensor, ...]


def _shapes(batch: int, count: int, size: int) -> dict[str, tuple[tuple[int, ...], int | None]]:
    """Shape of what each quantizer of a step is applied to, and the dimension of its gates."""
    state = (batch, size)
    return {
        "gates": ((count, *state), 0),
        "sigmoids": ((count - 1, *state), 0),
        "cell_tanh": (state, None),
        "terms": ((2, *state), None),
        "cell_state": (state, None),
        "hidden_tanh": (state, None),
        "output": (state, None),
    }


def _quantizer(
    operation: FixedOperation, like: Tensor, rows: int | None, sums: bool
) -> QuantizeGradients | None:
    grid = operation.grid
    fields = (None, None, 0.0, 0.0, None)
    if grid is not None:
        fields = (grid.scale, grid.shift, grid.lower, grid.upper, grid.plan)
    write = quantize_into(operation.function, *fields, like, rows)
    if write is None or not QuantizeGradients.supports(write, fields[-1]):
        return None
    return QuantizeGradients(write, like, sums)


def supports_gradients(operations: Mapping[str, FixedOperation], like: Tensor) -> bool:
    """Whether ``LSTMGradients`` serves a step.

    Args:
        operations: its quantizers, by name.
        like: the gates of one step, ``[batch, gates, size]``.
    """
    shapes = _shapes(1, like.shape[1], 1)
    if operations.keys() != shapes.keys():  # a coupled forget gate
        return False
    quantizers = (
        _quantizer(operations[name], like.new_empty(shape), rows, sums=False)
        for name, (shape, rows) in shapes.items()
    )
    return None not in quantizers


class LSTMGradients:
    """Computes each step again, and goes back through it; see ``ops.recurrence.StepGradients``.

    Args:
        operations: the quantizers of the step, by name, which ``supports_gradients``.
        parameters: the scale of each that has one, in the same order.
        needs: which of them need a gradient.
        gates: sums of all gates, ``[steps, batch, gates, size]``.
        before: states before each step, hidden state first.
    """

    def __init__(
        self,
        operations: Mapping[str, FixedOperation],
        parameters: Sequence[Tensor],
        needs: Sequence[bool],
        gates: Tensor,
        before: States,
    ) -> None:
        _, batch, count, size = gates.shape
        self.scales, self.needs = parameters, needs
        self.gates, self.cells = gates.transpose(1, 2).unbind(0), before[1].unbind(0)
        scales = zip(parameters, needs, strict=True)
        self.with_scale: list[QuantizeGradients] = []
        self.quantizers: list[Any] = []
        for name, (shape, rows) in _shapes(batch, count, size).items():
            own = operations[name]
            need = False
            if own.grid is not None:
                scale, need = next(scales)
                own = own.with_tensors(iter([scale]))
            quantizer: Any = _quantizer(own, gates.new_empty(shape), rows, need)
            self.quantizers.append(quantizer)
            if own.grid is not None:
                self.with_scale.append(quantizer)
        self.products, self.of_products = (gates.new_empty(2, batch, size) for _ in range(2))
        self.sum, self.hidden, self.of_cell = (gates.new_empty(batch, size) for _ in range(3))
        self.of_gates = gates.new_empty(count, batch, size)
        # Views of buffers, made once.
        self.of_each = self.of_gates.unbind(0)
        self.of_sigmoids, self.of_pair = self.of_gates[:-1], self.of_products.unbind(0)
        self.pair = self.products.unbind(0)
        sums, sigmoids, terms = (self.quantizers[place].y for place in (0, 1, 3))
        self.sums = None if sums is None else (sums[:-1], sums[-1])
        self.each = sigmoids.unbind(0)
        self.terms = self.pair if terms is None else terms.unbind(0)

    def step(self, number: int, grads: States, after: States, out: States) -> None:
        """Go back by one step."""
        of_gates, adjoint, of_cell_before = out
        torch.add(*grads, out=adjoint)
        before = self.cells[number]
        parts = self._again(self.gates[number], before)
        self._back(parts, before, adjoint, after[0], of_cell_before)
        self.quantizers[0].backward(self.of_gates, of_gates.transpose(0, 1))

    def _again(self, gates: Tensor, before: Tensor) -> States:
        """Values of the step: the gates, and the quantized hyperbolic tangent of the cell."""
        all_gates, sigmoids, tanh, terms, cell, hidden_tanh, output = self.quantizers
        sums = all_gates.forward(gates)
        first, last = self.sums or (sums[:-1], sums[-1])
        sigmoids.forward(first)
        enter, forget, leave = self.each
        new = tanh.forward(last)
        torch.mul(forget, before, out=self.pair[0])
        torch.mul(enter, new, out=self.pair[1])
        terms.forward(self.products)
        kept, added = self.terms
        activated = hidden_tanh.forward(cell.forward(torch.add(kept, added, out=self.sum)))
        output.forward(torch.mul(leave, activated, out=self.hidden))
        return enter, forget, leave, new, activated

    def _back(
        self, parts: States, before: Tensor, adjoint: Tensor, after: Tensor, out: Tensor
    ) -> None:
        """Write the gradients of the quantized sums of the gates, and of the cell state before."""
        _, sigmoids, tanh, terms, cell, hidden_tanh, output = self.quantizers
        enter, forget, leave, new, activated = parts
        of_enter, of_forget, of_leave, of_new = self.of_each
        of_hidden = output.backward(adjoint, self.of_cell)
        torch.mul(of_hidden, activated, out=of_leave)
        of_cell = hidden_tanh.backward(of_hidden.mul_(leave), self.of_cell)
        of_sum = cell.backward(of_cell.add_(after), self.of_cell)
        terms.backward(of_sum, self.of_products)
        of_kept, of_added = self.of_pair
        torch.mul(of_kept, before, out=of_forget)
        torch.mul(of_kept, forget, out=out)
        torch.mul(of_added, new, out=of_enter)
        torch.mul(of_added, enter, out=of_new)
        tanh.backward(of_new, of_new)
        sigmoids.backward(self.of_sigmoids, self.of_sigmoids)

    def of_parameters(self, adjoints: States) -> list[Tensor | None]:
        """Gradients of all scales, None for one that needs none."""
        triples = zip(self.with_scale, self.scales, self.needs, strict=True)
        return [quantizer.of_scale(scale) if need else None for quantizer, scale, need in triples]
