"""Calibration after training: statistics of activations, correction of biases. Layer: graph (L7).

Every mode here is a context manager that restores what it changed, also after an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as _DDP

from brevitas import config
from brevitas.core.scaling._collected import CollectedParameter
from brevitas.nn.mixin.base import QuantLayerMixin
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from brevitas.proxy.parameter_quant import (
    BiasQuantProxyFromInjectorBase,
    WeightQuantProxyFromInjectorBase,
)
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase
from brevitas.quant_tensor import plain

__all__ = [
    "bias_correction_mode",
    "calibration_mode",
    "extend_collect_stats_steps",
    "finalize_collect_stats",
    "load_quant_model_mode",
    "quantization_status_manager",
    "set_collect_stats_to_average",
]

_NEVER = 2**62


def extend_collect_stats_steps(module: nn.Module) -> None:
    """Keep a part collecting statistics until it is told to stop.

    Args:
        module: any module; those that do not collect are left alone.
    """
    if isinstance(module, CollectedParameter) and module.collecting:
        module.collect_stats_steps = _NEVER


def set_collect_stats_to_average(module: nn.Module) -> None:
    """Weigh every batch alike instead of the newest ones more.

    Args:
        module: any module; those that do not collect are left alone.
    """
    if isinstance(module, CollectedParameter):
        module.momentum = None


def finalize_collect_stats(module: nn.Module) -> None:
    """End the collection of a part: what was collected is learned from here on.

    Args:
        module: any module; those that do not collect, or have seen no data, are left alone.
    """
    if isinstance(module, CollectedParameter) and module.collecting and module.has_statistics:
        module.finish_collection()


class quantization_status_manager:
    """Disable the quantization of activations, weights or biases inside a ``with`` block.

    Args:
        model: model with quantized layers.
        call_act_quantizer_impl: keep running the quantizers of disabled activations on the
            float values (so that they collect statistics) and drop what they return.
        disable_act_quant: disable inputs, outputs and activation functions.
        disable_weight_quant: disable weights.
        disable_bias_quant: disable biases.
        is_training: mode of the disabled proxies; unchanged by default.
    """

    def __init__(
        self,
        model: nn.Module,
        call_act_quantizer_impl: bool = False,
        disable_act_quant: bool = False,
        disable_weight_quant: bool = False,
        disable_bias_quant: bool = False,
        is_training: bool | None = None,
    ) -> None:
        self.model = model
        self.call_act_quantizer_impl = call_act_quantizer_impl
        self.is_training = is_training
        kinds: list[type[nn.Module]] = []
        kinds += [ActQuantProxyFromInjectorBase] if disable_act_quant else []
        kinds += [WeightQuantProxyFromInjectorBase] if disable_weight_quant else []
        kinds += [BiasQuantProxyFromInjectorBase] if disable_bias_quant else []
        self.disabled_kinds = tuple(kinds)
        self.disables_act = disable_act_quant
        self._disabled: list[tuple[QuantProxyFromInjector, bool, bool]] = []
        self._returning: list[QuantLayerMixin] = []
        self._hooks: list[Any] = []

    def _proxies(self) -> Iterator[Any]:
        kinds = self.disabled_kinds
        return (module for module in self.model.modules() if isinstance(module, kinds))

    def __enter__(self) -> nn.Module:
        for proxy in self._proxies():
            self._disabled.append((proxy, proxy.disable_quant, proxy.training))
            if self.call_act_quantizer_impl and isinstance(proxy, ActQuantProxyFromInjectorBase):
                self._hooks.append(proxy.register_forward_hook(_observe_only))
            proxy.disable_quant = True
            if self.is_training is not None:
                proxy.train(self.is_training)
        if self.disabled_kinds:
            for layer in self.model.modules():
                if isinstance(layer, QuantLayerMixin) and layer.return_quant_tensor:
                    self._returning.append(layer)
                    layer.return_quant_tensor = False
        return self.model

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        for proxy, was_disabled, was_training in self._disabled:
            proxy.disable_quant = was_disabled
            proxy.train(was_training)
        for layer in self._returning:
            layer.return_quant_tensor = True
        self._hooks, self._disabled, self._returning = [], [], []


def _observe_only(proxy: Any, args: tuple[Any, ...], output: Any) -> None:
    """Run the quantizer of a disabled proxy for its statistics; its result is dropped."""
    fused = proxy.fused_activation_quant_proxy
    if fused is None:
        return
    value = plain(args[0])
    fused.tensor_quant(fused.activation_impl(value))


class calibration_mode(quantization_status_manager):
    """Collect the statistics of activations on float values; learn from them afterwards.

    Inside the block the model computes in floating point while its activation quantizers see
    every batch, each weighing alike. On leaving, scales and zero points take the averages.

    Args:
        model: model with quantized layers; its training mode is kept. Of one wrapped in
            ``DistributedDataParallel`` the averages of all ranks are averaged on leaving.
        enabled: False to leave the model alone.

    Example:
        >>> import brevitas.nn as qnn
        >>> model = nn.Sequential(qnn.QuantIdentity(), qnn.QuantLinear(4, 2)).eval()
        >>> with torch.no_grad(), calibration_mode(model):
        ...     for batch in (torch.ones(8, 4), 3 * torch.ones(8, 4)):
        ...         _ = model(batch)
        >>> 128 * model[0].act_quant.scale().item()
        2.0
    """

    def __init__(self, model: nn.Module, enabled: bool = True) -> None:
        super().__init__(
            model,
            call_act_quantizer_impl=enabled,
            disable_act_quant=enabled,
            disable_weight_quant=enabled,
            disable_bias_quant=enabled,
        )
        self.enabled = enabled
        self._collected: list[tuple[CollectedParameter, int, float | None]] = []

    def __enter__(self) -> nn.Module:
        super().__enter__()
        if self.enabled:
            for proxy, *_ in self._disabled:
                if isinstance(proxy, ActQuantProxyFromInjectorBase):
                    proxy.train()
            for part in self.model.modules():
                if isinstance(part, CollectedParameter) and part.collecting:
                    self._collected.append((part, part.collect_stats_steps, part.momentum))
                    extend_collect_stats_steps(part)
                    set_collect_stats_to_average(part)
        return self.model

    def __exit__(self, *error: Any) -> None:
        wrapper = self.model
        groups = (wrapper.process_group,) if isinstance(wrapper, _DDP) else ()
        for part, steps, momentum in self._collected:
            part.collect_stats_steps, part.momentum = steps, momentum
            if error[:1] in ((), (None,)) and part.has_statistics:
                part.finish_collection(groups)
        unseen = [part for part, *_ in self._collected if not part.has_statistics]
        if unseen and error[:1] in ((), (None,)):
            names = [n for n, module in self.model.named_modules() if module in unseen]
            warnings.warn(
                f"calibration_mode: no data reached {', '.join(names)}; expected at least one "
                "forward pass of the model inside the block. Their scales are placeholders.",
                UserWarning,
                stacklevel=2,
            )
        self._collected = []
        super().__exit__(*error)


class bias_correction_mode:
    """Correct each bias for the mean error that quantization makes in its layer's output.

    Inside the block every layer puts out its float result, and records for each output channel
    the mean of ``float output - quantized output`` on the same input. On leaving, the mean
    over all batches is added to the bias; a layer without bias is given one.

    Args:
        model: calibrated model with quantized layers, in evaluation mode.
        enabled: False to leave the model alone.
        skip_if_no_bias: leave layers without bias alone.

    Example:
        >>> import brevitas.nn as qnn
        >>> model = nn.Sequential(qnn.QuantLinear(4, 2, weight_bit_width=2)).eval()
        >>> x = torch.randn(64, 4)
        >>> with torch.no_grad():
        ...     exact = torch.nn.functional.linear(x, model[0].weight, model[0].bias)
        ...     with bias_correction_mode(model):
        ...         _ = model(x)
        ...     error = (model(x) - exact).mean(0)
        >>> bool(error.abs().max() < 1e-6)
        True

    Reference: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
    Correction", 2019 (here with data).
    """

    def __init__(
        self, model: nn.Module, enabled: bool = True, skip_if_no_bias: bool = False
    ) -> None:
        self.model = model
        self.enabled = enabled
        self.skip_if_no_bias = skip_if_no_bias
        self._errors: dict[Any, tuple[Tensor, int]] = {}
        self._hooks: list[Any] = []

    def _layers(self) -> Iterator[Any]:
        for layer in self.model.modules():
            if isinstance(layer, QuantWeightBiasInputOutputLayer):
                if layer.bias is not None or not self.skip_if_no_bias:
                    yield layer

    def __enter__(self) -> nn.Module:
        if self.enabled:
            for layer in self._layers():
                self._hooks.append(layer.register_forward_hook(self._record, with_kwargs=True))
        return self.model

    @torch.no_grad()
    def _record(self, layer: Any, args: Any, kwargs: Any, output: Any) -> Tensor:
        with _only_disabled(layer, layer.output_quant):
            quantized = layer.forward(*args, **kwargs)
        proxies = (layer.weight_quant, layer.bias_quant, layer.input_quant, layer.output_quant)
        with _only_disabled(layer, *proxies):
            exact = layer.forward(*args, **kwargs)
        channel = exact.dim() - 1 - len(getattr(layer, "kernel_size", ()))
        others = [dim for dim in range(exact.dim()) if dim != channel]
        error = exact - quantized
        if others:  # an empty list would stand for all dimensions
            error = error.mean(dim=others)
        total, batches = self._errors.get(layer, (torch.zeros_like(error), 0))
        self._errors[layer] = (total + error, batches + 1)
        return exact

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if kind is None:
            for layer, (total, batches) in self._errors.items():
                _add_to_bias(layer, total / batches)
        self._errors = {}


@contextmanager
def _only_disabled(layer: Any, *proxies: Any) -> Iterator[None]:
    """Disable the given proxies of one layer, and let it return plain tensors."""
    states = [(proxy, proxy.disable_quant) for proxy in proxies]
    returned = layer.return_quant_tensor
    layer.return_quant_tensor = False
    for proxy in proxies:
        proxy.disable_quant = True
    try:
        yield
    finally:
        layer.return_quant_tensor = returned
        for proxy, was_disabled in states:
            proxy.disable_quant = was_disabled


@torch.no_grad()
def _add_to_bias(layer: Any, correction: Tensor) -> None:
    if layer.bias is None:
        layer.register_parameter("bias", nn.Parameter(correction.to(layer.weight)))
    else:
        layer.bias.data.add_(correction)


class load_quant_model_mode:
    """Load a quantized checkpoint into a model without initialising scales from its weights.

    Inside the block nothing is taken anew from weights that are about to be overwritten.
    Missing learned values are reported as always; see ``config.IGNORE_MISSING_KEYS``.

    Args:
        model: model with quantized layers.

    Example:
        >>> import brevitas.nn as qnn
        >>> source, target = qnn.QuantLinear(2, 2), qnn.QuantLinear(2, 2)
        >>> with load_quant_model_mode(target):
        ...     target.load_state_dict(source.state_dict())
        <All keys matched successfully>
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._overrides = config.overrides(REINIT_ON_STATE_DICT_LOAD=False)

    def __enter__(self) -> nn.Module:
        self._overrides.__enter__()
        return self.model

    def __exit__(self, *error: Any) -> None:
        self._overrides.__exit__(*error)
