"""Which quantizers have seen no data, and so hold a placeholder for a scale. Layer: export (L8)."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from brevitas.common import ExportMixin, LayerProtocol
from brevitas.core.scaling._collected import CollectedParameter

__all__ = ["quantizers_without_statistics", "warn_without_statistics"]

_LARGEST_LIST = 8


def quantizers_without_statistics(model: nn.Module) -> list[str]:
    """List the quantizers in use that are still to collect their first statistic.

    Args:
        model: any model.

    Returns:
        Dotted names of their proxies, in the order of ``named_modules``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> quantizers_without_statistics(nn.Sequential(QuantIdentity()))
        ['0.act_quant']
    """
    return [
        name or type(module).__name__
        for name, module in model.named_modules()
        if _is_proxy_in_use(module) and any(map(_awaits_statistics, module.modules()))
    ]


def _is_proxy_in_use(module: Any) -> bool:
    if not isinstance(module, ExportMixin) or isinstance(module, LayerProtocol):
        return False
    return module.requires_export_handler


def _awaits_statistics(module: nn.Module) -> bool:
    return isinstance(module, CollectedParameter) and not module.has_learned_value


def warn_without_statistics(model: nn.Module, stacklevel: int) -> None:
    """Warn once where scales of a model are placeholders, since no data ran through it.

    Args:
        model: the model that is about to be exported.
        stacklevel: as of ``warnings.warn``, counted from the caller.
    """
    names = quantizers_without_statistics(model)
    if not names:
        return
    shown = ", ".join(names[:_LARGEST_LIST])
    more = f" and {len(names) - _LARGEST_LIST} more" if len(names) > _LARGEST_LIST else ""
    warnings.warn(
        f"{len(names)} quantizers have collected no statistics, so that their exported scales are "
        "placeholders; first run data through the model in calibration_mode(model), or train it. "
        f"Layers: {shown}{more}",
        UserWarning,
        stacklevel=stacklevel + 1,
    )
