"""Managers find handlers by class and leave a model as they found it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.common.handler.base import BaseHandler
from brevitas.export.common.spec import ExportError
from brevitas.export.manager import (
    BaseManager,
    ExportContext,
    _set_layer_export_handler,
    _set_layer_export_mode,
    _set_proxy_export_handler,
    _set_proxy_export_mode,
    export_mode,
)
from brevitas.nn import QuantLinear
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat


class ZeroWeight(BaseHandler):
    handled_layer = WeightQuantProxyFromInjector

    def prepare_for_export(self, module: nn.Module) -> None:
        self.metadata = (module.scale(), module.zero_point(), module.bit_width())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return torch.zeros_like(x), *self.metadata


class ZeroManager(BaseManager):
    target_name = "zero"
    handlers = [ZeroWeight]

    @classmethod
    def export(cls, *args: Any, **kwargs: Any) -> None:
        pass

    @classmethod
    def set_export_mode(cls, model: nn.Module, enabled: bool) -> None:
        _set_layer_export_mode(model, enabled)
        _set_proxy_export_mode(model, enabled)

    @classmethod
    def set_export_handler(cls, module: nn.Module) -> None:
        _set_layer_export_handler(cls, module)
        _set_proxy_export_handler(cls, module)


def test_a_handler_replaces_the_quantizer() -> None:
    layer = QuantLinear(3, 2, bias=False).eval()
    x = torch.ones(1, 3)
    expected = layer(x)
    layer.apply(ZeroManager.set_export_handler)
    ZeroManager.set_export_mode(layer, enabled=True)
    assert layer(x).tolist() == [[0.0, 0.0]]
    ZeroManager.set_export_mode(layer, enabled=False)
    assert layer.weight_quant.export_handler is None
    assert torch.equal(layer(x), expected)


def test_lookup_prefers_the_nearest_class() -> None:
    class Special(WeightQuantProxyFromInjector):
        pass

    assert ZeroManager.handler_from_module(Special) is ZeroWeight
    assert ZeroManager.handler_from_module(Special, no_inheritance=True) is None
    assert ZeroManager.handler_from_module(nn.Linear(1, 1)) is None


def test_export_mode_restores_everything() -> None:
    model = nn.Sequential(QuantLinear(3, 2), QuantLinear(2, 2))
    model[1].eval()
    proxy = model[0].weight_quant
    proxy.export_debug_name = "mine"
    proxy.cache_inference_quant_weight = True
    keys = list(model.state_dict())
    with export_mode(ZeroManager, model):
        assert not model.training
        assert proxy.export_mode
        assert proxy.export_debug_name == "0.weight_quant"
        assert not proxy.cache_inference_quant_weight
    assert model.training
    assert not model[1].training
    assert not proxy.export_mode
    assert proxy.export_debug_name == "mine"
    assert proxy.cache_inference_quant_weight
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules() if "export" in name] == []


def test_export_mode_restores_after_an_error() -> None:
    model = QuantLinear(3, 2)
    with pytest.raises(ZeroDivisionError), export_mode(ZeroManager, model):
        _ = 1 / 0
    assert model.training
    assert model.weight_quant.export_handler is None
    assert torch.is_grad_enabled()


def test_a_quantizer_without_handler_is_an_error() -> None:
    model = nn.Sequential(QuantLinear(3, 2, input_quant=Int8ActPerTensorFloat))
    with pytest.raises(ExportError, match=r"no representation of Act.*Layer: 0\.input_quant"):
        with export_mode(ZeroManager, model):
            pass
    assert model[0].weight_quant.export_handler is None


def test_training_has_no_export_mode() -> None:
    layer = QuantLinear(3, 2)
    layer.apply(ZeroManager.set_export_handler)
    with pytest.raises(RuntimeError, match="Can't enter export mode during training"):
        ZeroManager.set_export_mode(layer, enabled=True)


def test_context_keeps_gradients_off() -> None:
    with ExportContext(ZeroManager) as context:
        assert not torch.is_grad_enabled()
    assert context.target_name == "zero"
    assert torch.is_grad_enabled()
