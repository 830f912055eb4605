"""The inference mode changes nothing but the time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from brevitas.export.common.spec import ExportError
from brevitas.export.inference import InferenceManager, quant_inference_mode
from brevitas.nn import QuantConv2d, QuantIdentity, QuantReLU
from brevitas.quant import Int32Bias


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        QuantIdentity(return_quant_tensor=True),
        QuantConv2d(3, 4, 3, bias_quant=Int32Bias, weight_bit_width=4),
        QuantReLU(bit_width=4),
    )
    model(torch.randn(1, 3, 6, 6))
    return model.eval()


@pytest.mark.parametrize("cache", [False, True])
def test_outputs_are_the_same(cache: bool) -> None:
    model, x = make_model(), torch.randn(1, 3, 6, 6)
    keys = list(model.state_dict())
    with torch.no_grad():
        expected = model(x)
        with quant_inference_mode(model, cache_quant_weight=cache):
            assert torch.equal(model(x), expected)
            assert torch.equal(model(x), expected)
            assert list(model.state_dict()) == keys
            assert model[0].act_quant.export_mode
        assert torch.equal(model(x), expected)
    for module in model.modules():
        assert "export_handler" not in module._modules
    assert not model[1].weight_quant.cache_inference_quant_weight
    assert not model[0].act_quant.export_mode


def test_disabled_does_nothing() -> None:
    model = make_model()
    with quant_inference_mode(model, enabled=False):
        assert not model[0].act_quant.export_mode


def test_training_is_refused_and_the_model_left_as_it_was() -> None:
    model = make_model().train()
    with pytest.raises(RuntimeError, match="Can't enter export mode during training"):
        with quant_inference_mode(model, cache_quant_weight=True):
            pass
    assert model[0].act_quant.export_handler is None
    assert not model[1].weight_quant.cache_inference_quant_weight


def test_blocks_nest() -> None:
    model, x = make_model(), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        expected = model(x)
        with quant_inference_mode(model):
            with quant_inference_mode(model, cache_quant_weight=True):
                assert torch.equal(model(x), expected)
            assert model[0].act_quant.export_mode
            assert torch.equal(model(x), expected)


def test_there_is_no_file() -> None:
    with pytest.raises(ExportError, match="quant_inference_mode"):
        InferenceManager.export()
