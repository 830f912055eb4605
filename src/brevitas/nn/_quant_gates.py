"""Quantizes the weights of all gates of a layer, in one operation where they allow it.

Layer: nn (L6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brevitas.core.quant._fixed import FixedGrid, fixed_grid, joint_grid
from brevitas.core.quant._plan import is_plain
from brevitas.nn._gates import GateParams, QuantGate
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.quant_tensor import QuantTensor

__all__ = ["quant_gates"]


def quant_gates(gates: Sequence[GateParams], quant_input: Tensor | QuantTensor) -> QuantGate:
    """Return the quantized parameters of all gates, one below the other.

    Args:
        gates: the gates of one layer and direction.
        quant_input: its quantized input.
    """
    grids = [_grid_of(gate) for gate in gates]
    fixed = [grid for grid in grids if grid is not None]
    rows = gates[0].input_weight.out_channels
    grid = joint_grid(fixed, rows) if len(fixed) == len(gates) else None
    if grid is not None:
        return _on_one_grid(gates, fixed, grid, quant_input)
    each = [gate.quant_gate(quant_input) for gate in gates]
    biases = [gate.bias for gate in each if gate.bias is not None]
    return QuantGate(
        torch.cat([gate.input_weight for gate in each]),
        torch.cat([gate.hidden_weight for gate in each]),
        torch.cat(biases) if biases else None,
    )


def _grid_of(gate: GateParams) -> FixedGrid | None:
    """The grid of both weights of a gate; None where their quantizer has to be called."""
    proxy, hidden = gate.input_weight.weight_quant, gate.hidden_weight.weight_quant
    if proxy is not hidden or type(proxy) is not WeightQuantProxyFromInjector:
        return None
    if not is_plain(proxy) or not is_plain(gate.input_weight) or not is_plain(gate.hidden_weight):
        return None
    caches = proxy.cache_inference_quant_weight and not proxy.training
    if proxy.export_mode or caches or not proxy.is_quant_enabled:
        return None
    return None if proxy.skip_create_quant_tensor else fixed_grid(proxy.tensor_quant)


def _on_one_grid(
    gates: Sequence[GateParams], grids: Sequence[FixedGrid], grid: FixedGrid, quant_input: Any
) -> QuantGate:
    inputs = torch.cat([gate.input_weight.weight for gate in gates])
    hidden = torch.cat([gate.hidden_weight.weight for gate in gates])
    both = grid.quantize(torch.cat((inputs, hidden), dim=1))
    sizes = (inputs.shape[1], hidden.shape[1])
    input_weight, hidden_weight = both.split(sizes, dim=1)
    biases = []
    for gate, own, value in zip(gates, grids, input_weight.chunk(len(gates)), strict=True):
        fields = (value, own.scale, own.zero_point, own.bit_width)
        biases.append(
            gate.bias_for(quant_input, gate.input_weight.weight_quant.int_quant_tensor(fields))
        )
    present = [bias for bias in biases if bias is not None]
    return QuantGate(input_weight, hidden_weight, torch.cat(present) if present else None)
