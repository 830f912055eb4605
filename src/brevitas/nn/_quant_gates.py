"""Quantizes the weights of all gates of a layer, in one operation where they allow it.

Layer: nn (L6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from brevitas.core.quant._fixed import (
    FixedGrid,
    GivenScale,
    at_given_scale,
    fixed_grids,
    joint_grid,
)
from brevitas.core.quant._plan import is_plain
from brevitas.nn._gates import GateParams, QuantGate
from brevitas.ops.fake_quant import fake_quant
from brevitas.proxy.parameter_quant import BiasQuantProxyFromInjector, WeightQuantProxyFromInjector
from brevitas.quant_tensor import IntQuantTensor, QuantTensor

__all__ = ["quant_gates"]


def quant_gates(gates: Sequence[GateParams], quant_input: Tensor | QuantTensor) -> QuantGate:
    """Return the quantized parameters of all gates, one below the other.

    Args:
        gates: the gates of one layer and direction.
        quant_input: its quantized input.
    """
    quantizers = [_fixed_quantizer_of(gate) for gate in gates]
    fixed = [grid for grid in fixed_grids(quantizers) if grid is not None]
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


def _fixed_quantizer_of(gate: GateParams) -> Any:
    """The quantizer of both weights of a gate; None where its proxy has to be called."""
    proxy, hidden = gate.input_weight.weight_quant, gate.hidden_weight.weight_quant
    if proxy is not hidden or type(proxy) is not WeightQuantProxyFromInjector:
        return None
    if not is_plain(proxy) or not is_plain(gate.input_weight) or not is_plain(gate.hidden_weight):
        return None
    caches = proxy.cache_inference_quant_weight and not proxy.training
    if proxy.export_mode or caches or not proxy.is_quant_enabled:
        return None
    return None if proxy.skip_create_quant_tensor else proxy.tensor_quant


def _on_one_grid(
    gates: Sequence[GateParams], grids: Sequence[FixedGrid], grid: FixedGrid, quant_input: Any
) -> QuantGate:
    inputs = torch.cat([gate.input_weight.weight for gate in gates])
    hidden = torch.cat([gate.hidden_weight.weight for gate in gates])
    both = grid.quantize(torch.cat((inputs, hidden), dim=1))
    sizes = (inputs.shape[1], hidden.shape[1])
    input_weight, hidden_weight = both.split(sizes, dim=1)
    bias = _joint_bias(gates, grids, quant_input)
    if bias is not None:
        return QuantGate(input_weight, hidden_weight, bias)
    biases = []
    for gate, own, value in zip(gates, grids, input_weight.chunk(len(gates)), strict=True):
        fields = (value, own.scale, own.zero_point, own.bit_width)
        weight = gate.input_weight.weight_quant.int_quant_tensor(fields)
        biases.append(gate.bias_for(quant_input, weight))
    present = [bias for bias in biases if bias is not None]
    return QuantGate(input_weight, hidden_weight, torch.cat(present) if present else None)


def _joint_bias(
    gates: Sequence[GateParams], grids: Sequence[FixedGrid], quant_input: Any
) -> Tensor | None:
    """The biases of all gates at the scales of their accumulators, in one operation.

    Returns:
        None where their quantizers have to be called, or differ.
    """
    kinds = {_bias_kind(gate, quant_input) for gate in gates}
    is_scalar = all(grid.scale.numel() == 1 for grid in grids)
    kind = next(iter(kinds)) if len(kinds) == 1 and is_scalar else None
    if kind is None or quant_input.scale.numel() != 1:
        return None
    if not gates[0].has_accumulator_scale(quant_input):
        return None
    biases = torch.stack([gate.bias for gate in gates])  # type: ignore[misc]
    weight_scales = torch.stack([grid.scale.reshape(1) for grid in grids])
    scale = quant_input.scale.reshape(1, 1) * weight_scales
    lower, upper, plan = kind[0]
    return fake_quant(biases, scale, None, lower, upper, plan).flatten()


def _bias_kind(gate: GateParams, quant_input: Any) -> tuple[GivenScale, torch.dtype] | None:
    """What the quantizer of a bias does beside its scale; None where it has to be called."""
    proxy: Any = gate.bias_quant
    if type(gate) is not GateParams or not is_plain(gate) or gate.bias is None:
        return None
    if type(proxy) is not BiasQuantProxyFromInjector or not is_plain(proxy):
        return None
    if proxy.export_mode or proxy.cache_inference_quant_bias or not proxy.requires_input_scale:
        return None
    limits = at_given_scale(proxy.tensor_quant)
    is_int = isinstance(quant_input, IntQuantTensor)
    return None if limits is None or not is_int else (limits, gate.bias.dtype)
