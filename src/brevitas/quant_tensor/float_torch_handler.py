"""Torch functions whose result on minifloat tensors is again minifloats.

Layer: quant_tensor (L2).

A sum or product of minifloats is in general no minifloat of the same format: layers, pools and
arithmetic give plain tensors, which is what happens to a function without a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from brevitas.quant_tensor import _shared_arithmetic as shared
from brevitas.quant_tensor._tensor_interface import tensor_functions
from brevitas.quant_tensor.torch_handler import embedding

__all__ = ["FLOAT_QUANT_TENSOR_FN_HANDLER", "implements_float_qt"]

Handler = Callable[..., Any]

# torch function -> its rule for minifloats.
FLOAT_QUANT_TENSOR_FN_HANDLER: dict[Any, Handler] = {}


def implements_float_qt(*torch_functions: Any) -> Callable[[Handler], Handler]:
    """Decorator that registers a rule for torch functions on minifloat tensors.

    Args:
        *torch_functions: Functions as torch dispatches them.

    Returns:
        Decorator that returns its argument.
    """

    def register(handler: Handler) -> Handler:
        for torch_function in torch_functions:
            FLOAT_QUANT_TENSOR_FN_HANDLER[torch_function] = handler
        return handler

    return register


cat_handler = implements_float_qt(torch.cat, torch.concat, torch.concatenate)(shared.concatenate)
embedding_handler = implements_float_qt(F.embedding)(embedding)
implements_float_qt(*tensor_functions("neg", "negative", "__neg__"))(shared.negate)
implements_float_qt(*tensor_functions("abs", "absolute", "__abs__"))(shared.absolute)
