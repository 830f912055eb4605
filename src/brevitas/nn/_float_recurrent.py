"""Reads checkpoints of ``torch.nn.LSTM`` and ``torch.nn.RNN``. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["split_float_parameters"]


def split_float_parameters(
    state_dict: dict[str, Any],
    prefix: str,
    place: tuple[int, int],
    gates: Sequence[str],
    hidden_size: int,
) -> str | None:
    """Replace the float parameters of one direction by those of its gates, in place.

    ``weight_ih_l0``, ``weight_hh_l0`` hold all gates one below the other; the quantized layer has
    one bias, the sum of ``bias_ih_l0`` and ``bias_hh_l0``.

    Args:
        state_dict: the checkpoint.
        prefix: prefix of the layer's keys, with its last dot.
        place: number of the layer and of the direction.
        gates: names of the modules that hold the gates, in the order of the float layer.
        hidden_size: size of a gate.

    Returns:
        What is wrong with the float parameters; None for nothing, or where there are none.

    Example:
        >>> from torch import zeros
        >>> state = {"weight_ih_l0": zeros(6, 4), "bias_ih_l0": zeros(6), "bias_hh_l0": zeros(6)}
        >>> split_float_parameters(state, "", (0, 0), ("first", "second"), 3)
        >>> list(state)[:2]
        ['layers.0.0.first.input_weight.weight', 'layers.0.0.second.input_weight.weight']
    """
    layer, direction = place
    suffix = f"_l{layer}{'_reverse' if direction else ''}"
    found: dict[str, Tensor] = {}
    for target, names in _SOURCES.items():
        keys = [f"{prefix}{name}{suffix}" for name in names]
        if all(key in state_dict for key in keys):
            found[target] = sum(state_dict[key] for key in keys[1:]) + state_dict[keys[0]]
            if found[target].shape[0] != len(gates) * hidden_size:
                return (
                    f"{keys[0]} of shape {tuple(found[target].shape)}: expected {len(gates)} "
                    f"gates of {hidden_size} rows each. A layer with coupled gates has no forget "
                    "gate to load."
                )
            for key in keys:
                del state_dict[key]
    for target, tensor in found.items():
        for gate, part in zip(gates, tensor.split(hidden_size), strict=True):
            # A tensor of its own: loading may keep it as the parameter.
            state_dict[f"{prefix}layers.{layer}.{direction}.{gate}.{target}"] = part.clone()
    return None


_SOURCES = {
    "input_weight.weight": ("weight_ih",),
    "hidden_weight.weight": ("weight_hh",),
    "bias": ("bias_ih", "bias_hh"),
}
