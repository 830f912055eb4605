"""Names of the TorchScript interface that clients import; nothing is scripted. Layer: L0.

PyTorch has given up TorchScript. `BREVITAS_JIT=1` compiles quantizers by TorchInductor instead,
see `brevitas.ops.region`, and asks nothing of how a quantizer is written.
"""

from __future__ import annotations

from typing import TypeVar

from torch.nn import Module as ScriptModule

from brevitas import config

__all__ = ["Attribute", "JIT_ENABLED", "ScriptModule", "ignore", "script", "script_method"]

T = TypeVar("T")

JIT_ENABLED: bool


def __getattr__(name: str) -> bool:
    if name != "JIT_ENABLED":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return config.JIT_ENABLED


def _disabled(fn: T) -> T:
    """Return the function, method or class unchanged."""
    return fn


script = _disabled
script_method = _disabled
ignore = _disabled


def Attribute(val: T, type: object) -> T:
    """Return `val`; the type is of use to TorchScript only.

    Args:
        val: The value of the attribute.
        type: Its type.
    """
    return val
