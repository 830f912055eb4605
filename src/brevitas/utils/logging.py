"""A logger of the library, and hooks that note the bit widths of a running model.

Layer: utils.logging (L4).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from brevitas import config
from brevitas.proxy._bits import FLOAT_PARTS, INT_PARTS, bit_width_parts, total_bits
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjectorBase
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase

__all__ = ["LogActivationBitWidth", "LogBitWidth", "LogWeightBitWidth", "setup_logger"]

_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def setup_logger(name: str) -> logging.Logger:
    """Return the logger of a module, which writes to the error stream.

    Its level is ``config.LOGGING_LEVEL`` at the time of the call. A second call sets the level
    anew and adds no second handler.

    Args:
        name: name of the logger, the module's by custom.

    Example:
        >>> logger = setup_logger("brevitas.example")
        >>> logger.name, len(setup_logger("brevitas.example").handlers)
        ('brevitas.example', 1)
    """
    logger = logging.getLogger(name)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(_FORMAT))
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(config.LOGGING_LEVEL)
    for handler in logger.handlers:
        handler.setLevel(config.LOGGING_LEVEL)
    return logger


class LogBitWidth(ABC):
    """Notes the bits of quantizers each time they run.

    Args:
        model: the model.

    Attributes:
        bit_width_dict: name of a proxy -> its bits when it ran last, 0-d; with sign, exponent and
            mantissa of minifloats.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.bit_width_dict: dict[str, Tensor] = {}
        self.list_of_hooks: list[Any] = []
        self.register_hooks()

    @abstractmethod
    def register_hooks(self) -> None:
        """Hook the proxies of one kind, by ``hook``."""

    def hook(self, kind: type[QuantProxyFromInjector]) -> None:
        """Note the bits of every proxy of a kind."""
        for name, module in self.model.named_modules():
            if isinstance(module, kind):
                self.list_of_hooks.append(module.register_forward_hook(self._note_as(name)))

    def _note_as(self, name: str) -> Any:
        def note(proxy: Any, arguments: tuple[Any, ...], output: Any) -> None:
            for parts in (INT_PARTS, FLOAT_PARTS):
                if bit_width_parts(proxy, parts):
                    self.bit_width_dict[name] = total_bits(proxy, parts).detach().clone()

        return note

    def remove_hooks(self) -> None:
        """Stop noting; what was noted stays."""
        for hook in self.list_of_hooks:
            hook.remove()
        self.list_of_hooks = []


class LogWeightBitWidth(LogBitWidth):
    """Notes the bits of weights.

    Example:
        >>> from torch import ones
        >>> from brevitas.nn import QuantLinear
        >>> layer = QuantLinear(2, 3, weight_bit_width=4)
        >>> log = LogWeightBitWidth(layer)
        >>> _ = layer(ones(1, 2))
        >>> log.bit_width_dict
        {'weight_quant': tensor(4.)}
    """

    def register_hooks(self) -> None:
        """Hook the proxies of weights."""
        self.hook(WeightQuantProxyFromInjectorBase)


class LogActivationBitWidth(LogBitWidth):
    """Notes the bits of activations: inputs, outputs and activation functions.

    Example:
        >>> from torch import ones
        >>> from brevitas.nn import QuantReLU
        >>> layer = QuantReLU(bit_width=4)
        >>> log = LogActivationBitWidth(layer)
        >>> _ = layer(ones(1, 2))
        >>> log.bit_width_dict
        {'act_quant': tensor(4.)}
    """

    def register_hooks(self) -> None:
        """Hook the proxies of activations."""
        self.hook(ActQuantProxyFromInjectorBase)
