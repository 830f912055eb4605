"""What a model must be so that its layers become operators on integers. Layer: export (L8)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from brevitas.export.common.inputs import plain_values
from brevitas.export.common.spec import ExportError
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer

__all__ = ["check_integer_model"]


def check_integer_model(model: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Raise on a layer whose weight is not quantized, and on real values that are not float32.

    Args:
        model: the model.
        inputs: example inputs.

    Raises:
        ExportError: on either.

    Example:
        >>> check_integer_model(nn.Linear(2, 2).half(), ())
        Traceback (most recent call last):
        brevitas.export.common.spec.ExportError: dtype=torch.float16: operators on integers read
        and write real values in float32; call model.float() first. Layer: weight
    """
    for name, module in model.named_modules():
        if isinstance(module, QuantWeightBiasInputOutputLayer):
            if not module.weight_quant.is_quant_enabled:
                raise ExportError(
                    "weight_quant=None: an integer operator needs a quantized weight, such as "
                    f"weight_quant=Int8WeightPerTensorFloat. Layer: {name or type(module).__name__}"
                )
    for name, parameter in model.named_parameters():
        _check_float32(parameter, f"call model.float() first. Layer: {name}")
    for leaf in tree_leaves(plain_values(inputs)):
        if isinstance(leaf, Tensor):
            _check_float32(leaf, "pass an example input in float32.")


def _check_float32(tensor: Tensor, remedy: str) -> None:
    if tensor.is_floating_point() and tensor.dtype != torch.float32:
        raise ExportError(
            f"dtype={tensor.dtype}: operators on integers read and write real values in float32; "
            f"{remedy}"
        )
