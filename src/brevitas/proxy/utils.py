"""Adapts checkpoints between kinds of activation quantizers. Layer: proxy (L4)."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["ConvertRuntimeStatsToParameter"]

_SCALING = "fused_activation_quant_proxy.tensor_quant.scaling_impl."


class ConvertRuntimeStatsToParameter:
    """Lets a learned scale start from the running statistics of an older checkpoint.

    Renames ``runtime_stats.running_stats`` to ``value``, in the domain of the learned scale.

    Args:
        restrict_scaling_impl: domain in which the scale is learned.
    """

    def __init__(self, restrict_scaling_impl: nn.Module) -> None:
        self.restrict_scaling_impl: Any = restrict_scaling_impl

    def __call__(self, prefix: str, state_dict: Any) -> None:
        """Rewrite the keys of the proxy at ``prefix`` in place."""
        running = prefix + _SCALING + "runtime_stats.running_stats"
        if running in state_dict:
            statistic = state_dict.pop(running)
            learned = self.restrict_scaling_impl.restrict_init_tensor(statistic)
            state_dict.setdefault(prefix + _SCALING + "value", learned)
