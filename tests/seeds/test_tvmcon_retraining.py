"""TVMCon tutorial, cells 29 to 31: retraining from a floating-point model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from brevitas import config
from brevitas.nn import QuantLinear
from brevitas.quant import Int8WeightPerTensorFloat
from programs import run_program
from seeds.facts import assert_prints
from seeds.learned_quantizers import LearnedIntActPerTensorFloat, LearnedIntWeightPerChannelFloat

MISSING_KEYS = [
    "input_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value",
    "input_quant.fused_activation_quant_proxy.tensor_quant.msb_clamp_bit_width_impl"
    ".bit_width_offset",
    "weight_quant.tensor_quant.scaling_impl.value",
    "weight_quant.tensor_quant.msb_clamp_bit_width_impl.bit_width_offset",
]


@pytest.fixture(autouse=True)
def _keep_the_flag(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what a cell assigns to the flag."""
    monkeypatch.setattr(config, "IGNORE_MISSING_KEYS", False)
    yield


def layers() -> tuple[nn.Linear, Any]:
    torch.manual_seed(0)

    from torch import nn

    float_linear = nn.Linear(2, 4, bias=False)
    quant_linear = QuantLinear(
        2, 4,
        input_quant=LearnedIntActPerTensorFloat,
        weight_quant=LearnedIntWeightPerChannelFloat,
        return_quant_tensor=True, bias=False)  # fmt: skip
    return float_linear, quant_linear


def test_s0_48_loading_a_float_checkpoint_names_the_missing_keys_and_the_remedy() -> None:
    float_linear, quant_linear = layers()

    with pytest.raises(RuntimeError) as error:
        quant_linear.load_state_dict(float_linear.state_dict())

    headline, missing, remedy = str(error.value).splitlines()
    assert headline == "Error(s) in loading state_dict for QuantLinear:"
    assert missing.startswith("\tMissing key(s) in state_dict: ")
    assert re.findall(r'"(.*?)"', missing) == MISSING_KEYS
    assert remedy.endswith(
        "`brevitas.config.IGNORE_MISSING_KEYS = True`, or under `BREVITAS_IGNORE_MISSING_KEYS=1`."
    )


def test_s0_48_other_missing_keys_are_missing_whatever_the_flag_says() -> None:
    quant_linear = layers()[1]
    config.IGNORE_MISSING_KEYS = True
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "weight"\. $'):
        quant_linear.load_state_dict({})


def test_s0_49_a_flag_suppresses_the_error() -> None:
    from brevitas import config

    config.IGNORE_MISSING_KEYS = True

    float_linear, quant_linear = layers()
    result = quant_linear.load_state_dict(float_linear.state_dict())

    assert str(result) == "<All keys matched successfully>"
    assert torch.equal(quant_linear.weight, float_linear.weight)
    assert quant_linear(torch.randn(3, 2)).is_valid, "ready to be trained"


def test_s0_50_the_scale_follows_the_loaded_weights() -> None:
    config.IGNORE_MISSING_KEYS = True

    float_linear, quant_linear = layers()

    assert_prints(quant_linear.quant_weight().scale, "S0-50", "scale before")
    quant_linear.load_state_dict(float_linear.state_dict())
    assert_prints(quant_linear.quant_weight().scale, "S0-50", "scale after")


CELL_30 = """
from torch import nn
from brevitas.nn import QuantLinear
from seeds.learned_quantizers import LearnedIntActPerTensorFloat, LearnedIntWeightPerChannelFloat

float_linear = nn.Linear(2, 4, bias=False)
quant_linear = QuantLinear(
    2, 4,
    input_quant=LearnedIntActPerTensorFloat,
    weight_quant=LearnedIntWeightPerChannelFloat,
    return_quant_tensor=True, bias=False)

print(quant_linear.load_state_dict(float_linear.state_dict()))
"""


def test_s0_51_an_environment_variable_suppresses_the_error() -> None:
    printed = run_program(CELL_30, BREVITAS_IGNORE_MISSING_KEYS="1")
    assert printed == "<All keys matched successfully>\n"


@pytest.mark.parametrize(
    "quantizer", [Int8WeightPerTensorFloat, LearnedIntWeightPerChannelFloat.let(bit_width=4)]
)
def test_s0_52_a_shared_quantizer_follows_all_loaded_weights(quantizer: Any) -> None:
    config.IGNORE_MISSING_KEYS = True
    first = QuantLinear(2, 4, weight_quant=quantizer, bias=False)
    model = nn.Sequential(first, QuantLinear(4, 4, weight_quant=first.weight_quant, bias=False))
    float_model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 4, bias=False))
    float_model[0].weight.data.mul_(0.01)
    float_model[1].weight.data.mul_(100.0)
    scale_before = first.quant_weight().scale.detach()

    model.load_state_dict(float_model.state_dict())

    per_channel = first.quant_weight().scale.dim() == 2
    weights = torch.cat([layer.weight.detach() for layer in float_model], dim=1).abs()
    largest = weights.amax(1, keepdim=True) if per_channel else weights.max()
    limit = 7 if per_channel else 127
    for layer in model:
        torch.testing.assert_close(layer.quant_weight().scale.detach(), largest / limit)
    assert not torch.isclose(first.quant_weight().scale, scale_before).any()
