"""Putting quantized weights in the place of the float ones. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjectorBase
from brevitas.quant_tensor import plain

__all__ = ["merge_quant_weights"]


def merge_quant_weights(
    model: nn.Module, example_input: Tensor, preserve_original_weights: bool = False
) -> None:
    """Replace the float weight of each layer by its quantized weight, ``W <- q(W)``, in place.

    The model is run once, in evaluation mode and without gradients: a layer that is not run keeps
    its weight. Quantizers stay, with the scales that they have learned. The output stays the same
    where quantizing twice is quantizing once, ``q(q(W)) = q(W)``, as it is for every scale that is
    learned or taken from a maximum.

    Args:
        model: a model with quantized layers.
        example_input: what the model is called with; a tuple or list stands for several arguments,
            a dict for keywords.
        preserve_original_weights: keep each float weight with its layer, as the buffer
            ``original_weight``, which is not part of checkpoints.

    Raises:
        RuntimeError: a weight is parametrized, or shared by layers that quantize it to different
            values. Nothing is replaced then.

    Example:
        >>> import brevitas.nn as qnn
        >>> model = nn.Sequential(qnn.QuantLinear(4, 2, weight_bit_width=2))
        >>> merge_quant_weights(model, torch.randn(1, 4))
        >>> torch.equal(model[0].weight, model[0].quant_weight().value)
        True
    """
    proxies = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, WeightQuantProxyFromInjectorBase) and module.is_quant_enabled
    }
    merged = _QuantizedWeights()
    hooks = [
        proxy.register_forward_hook(merged.hook(name.rpartition(".")[0]))
        for name, proxy in proxies.items()
    ]
    try:
        with _evaluation(model), torch.no_grad():
            _call(model, example_input)
    finally:
        for hook in hooks:
            hook.remove()
    for weight, quantized in merged.found.values():
        if preserve_original_weights:
            _keep_original(model, weight)
        # Another storage, not another content: a checkpoint taken before stays what it is.
        weight.data = quantized
    for proxy in proxies.values():
        proxy.drop_cache()


class _QuantizedWeights:
    """Each weight that a quantizer was called with, and what it made of it."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[nn.Parameter, Tensor]] = {}

    def hook(self, layer: str) -> Any:
        """The forward hook of one quantizer of weights."""

        def record(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._add(layer, args[0], plain(output))

        return record

    def _add(self, layer: str, weight: Any, quantized: Tensor) -> None:
        if not isinstance(weight, nn.Parameter):
            raise RuntimeError(
                "The weight is computed at each call, so that no value can be put in its place. "
                "Call torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight') first. "
                f"Layer: {layer}"
            )
        quantized = quantized.detach().to(weight.dtype, copy=True)
        _, other = self.found.setdefault(id(weight), (weight, quantized))
        if not torch.equal(other, quantized):
            raise RuntimeError(
                "The weight is shared with a layer that quantizes it to other values, and can hold "
                "only one of them. Give each layer a weight of its own, or one quantizer to both. "
                f"Layer: {layer}"
            )


def _keep_original(model: nn.Module, weight: nn.Parameter) -> None:
    for module in model.modules():
        if any(parameter is weight for parameter in module._parameters.values()) and isinstance(
            getattr(module, "weight_quant", None), WeightQuantProxyFromInjectorBase
        ):
            # The weight itself moves on to new values, so this is no second copy of the old.
            module.register_buffer("original_weight", weight.data, persistent=False)


@contextmanager
def _evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: no statistics are collected, nothing is dropped out."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _call(model: nn.Module, example: Any) -> None:
    if isinstance(example, Mapping):
        model(**example)
    elif type(example) in (tuple, list):  # a quantized tensor is a tuple too
        model(*example)
    else:
        model(example)
