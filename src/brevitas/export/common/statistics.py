"""Quantizers that a file says less of than expected: without data, or off. Layer: export (L8)."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from brevitas.common import ExportMixin, LayerProtocol
from brevitas.core.scaling._collected import CollectedParameter
from brevitas.proxy.quant_proxy import QuantProxyFromInjector

__all__ = ["disabled_quantizers", "quantizers_without_statistics", "warn_of_quantizers"]

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


def disabled_quantizers(model: nn.Module) -> list[str]:
    """List the quantizers that are there, and switched off: the file has no trace of them.

    Args:
        model: any model.

    Returns:
        Dotted names of their proxies, in the order of ``named_modules``.

    Example:
        >>> from brevitas.nn import QuantIdentity
        >>> layer = QuantIdentity()
        >>> layer.act_quant.disable_quant = True
        >>> disabled_quantizers(nn.Sequential(layer))
        ['0.act_quant']
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, QuantProxyFromInjector)
        and module.disable_quant
        and module._tensor_quant_impl() is not None
    ]


def warn_of_quantizers(model: nn.Module, stacklevel: int) -> None:
    """Warn once of scales that are placeholders, and once of quantizers that are switched off.

    Args:
        model: the model that is about to be exported.
        stacklevel: as of ``warnings.warn``, counted from the caller.
    """
    untold = quantizers_without_statistics(model)
    if untold:
        warnings.warn(
            f"{len(untold)} quantizers have collected no statistics, so that their exported scales "
            "are placeholders; first run data through the model in calibration_mode(model), or "
            f"train it. Layers: {_shown(untold)}",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
    disabled = disabled_quantizers(model)
    if disabled:
        warnings.warn(
            f"{len(disabled)} quantizers are switched off and left out of the file; export after "
            "the block of calibration_mode or bias_correction_mode, or set disable_quant to False. "
            f"Layers: {_shown(disabled)}",
            UserWarning,
            stacklevel=stacklevel + 1,
        )


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - _LARGEST_LIST} more" if len(names) > _LARGEST_LIST else ""
    return ", ".join(names[:_LARGEST_LIST]) + more
