"""TVMCon tutorial, cells 34 to 36: quantizers defined from scratch with dependency injection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.core.bit_width import BitWidthConst
from brevitas.core.function_wrapper import OverTensorView, RoundSte, TensorClamp
from brevitas.core.quant import IntQuant, RescalingIntQuant
from brevitas.core.restrict_val import FloatRestrictValue
from brevitas.core.scaling import IntScaling, ParameterFromRuntimeStatsScaling, ParameterScaling
from brevitas.core.stats import AbsPercentile
from brevitas.core.zero_point import ZeroZeroPoint
from brevitas.inject import DependencyError, ExtendedInjector, value
from brevitas.nn import QuantIdentity, QuantLinear
from brevitas.proxy import ActQuantProxyFromInjector, WeightQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor
from seeds.learned_quantizers import LearnedIntActPerTensorFloat, LearnedIntWeightPerChannelFloat
from seeds.user_parts import LearnedRange, fit


class Int8ActPerTensorFloatFromScratch(ExtendedInjector):
    proxy_class = ActQuantProxyFromInjector  # Python wrapper, returns QuantTensor
    # TorchScript implementation, returns (dequant_value, scale, zero_point, bit_width)
    tensor_quant = RescalingIntQuant
    int_quant = IntQuant
    float_to_int_impl = RoundSte
    zero_point_impl = ZeroZeroPoint
    bit_width_impl = BitWidthConst
    tensor_clamp_impl = TensorClamp
    int_scaling_impl = IntScaling
    scaling_impl = ParameterFromRuntimeStatsScaling
    scaling_stats_input_view_shape_impl = OverTensorView
    scaling_stats_impl = AbsPercentile
    restrict_scaling_impl = FloatRestrictValue
    high_percentile_q = 99.999
    collect_stats_steps = 300
    scaling_shape = ()
    stats_reduce_dim = None
    bit_width = 8
    narrow_range = True
    signed = True


class Int8ActPerTensorFloatParameterFromScratch(ExtendedInjector):
    @value
    def scaling_init(module):
        return module.weight.abs().max().detach()

    proxy_class = WeightQuantProxyFromInjector  # Python wrapper, returns QuantTensor
    tensor_quant = RescalingIntQuant
    int_quant = IntQuant
    float_to_int_impl = RoundSte
    zero_point_impl = ZeroZeroPoint
    bit_width_impl = BitWidthConst
    tensor_clamp_impl = TensorClamp
    int_scaling_impl = IntScaling
    scaling_impl = ParameterScaling
    restrict_scaling_impl = FloatRestrictValue
    scaling_shape = ()
    bit_width = 8
    narrow_range = True
    signed = True


def _tensor_quant(layer: QuantIdentity) -> Any:
    return layer.act_quant.fused_activation_quant_proxy.tensor_quant


def test_s0_58_an_activation_quantizer_from_scratch() -> None:
    from_scratch = QuantIdentity(
        act_quant=Int8ActPerTensorFloatFromScratch, return_quant_tensor=True
    )
    predefined = QuantIdentity(
        act_quant=Int8ActPerTensorFloat, narrow_range=True, return_quant_tensor=True
    )
    for _ in range(301):  # through the collection of statistics, into the learned phase
        x = torch.randn(8)
        ours, expected = from_scratch(x), predefined(x)
        assert isinstance(ours, IntQuantTensor)
        assert torch.equal(ours.value, expected.value) and torch.equal(ours.scale, expected.scale)
    assert list(from_scratch.state_dict()) == list(predefined.state_dict())


def test_s0_58_a_part_of_ones_own_is_wired_by_its_argument_and_trained() -> None:
    class Quantizer(Int8ActPerTensorFloatFromScratch):
        scaling_impl = LearnedRange
        range_init = 10.0  # the argument of `LearnedRange.__init__`
        bit_width = 3

    layer = QuantIdentity(act_quant=Quantizer, range_init=8.0, return_quant_tensor=True)
    x = torch.randn(1000)
    # A narrow range of 3 bits is -3 ... 3; the keyword went before the attribute.
    assert layer(x).scale.item() == pytest.approx(8.0 / 3)
    before, after = fit(_tensor_quant(layer).scaling_impl, lambda x: layer(x).value, x)
    # Steps of 2.7 leave most of a normal distribution at zero; the best 7 levels leave 4 % of it.
    assert before > 0.3 and after < 0.06


def test_s0_59_a_quantizer_is_a_proxy_and_a_module_that_returns_four_tensors() -> None:
    class HalfSteps(nn.Module):
        """A whole quantizer of one's own, from nothing that the library has."""

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            scale = torch.tensor(0.5)
            integers = (x / scale).round().clamp(-128, 127)
            return integers * scale, scale, torch.tensor(0.0), torch.tensor(8.0)

    class Quantizer(ExtendedInjector):
        proxy_class = ActQuantProxyFromInjector
        tensor_quant = HalfSteps
        signed = True

    output = QuantIdentity(act_quant=Quantizer, return_quant_tensor=True)(torch.tensor([0.6, -9.0]))
    assert isinstance(output, IntQuantTensor)
    assert output.int().tolist() == [1, -18] and output.scale == 0.5 and output.bit_width == 8
    predefined = _tensor_quant(QuantIdentity())(torch.randn(4))
    assert [type(part) for part in predefined] == [Tensor] * 4


@pytest.mark.parametrize("absent", ["proxy_class", "tensor_quant"])
def test_s0_59_either_of_the_two_is_required(absent: str) -> None:
    parts = {"proxy_class": ActQuantProxyFromInjector, "tensor_quant": RescalingIntQuant}
    del parts[absent]
    with pytest.raises(DependencyError, match=absent):
        QuantIdentity(act_quant=ExtendedInjector.let(**parts))


def test_s0_60_classes_are_instantiated_and_instances_are_taken_as_they_are() -> None:
    instance = BitWidthConst(4)
    given = QuantIdentity(act_quant=Int8ActPerTensorFloatFromScratch, bit_width_impl=instance)
    assert _tensor_quant(given).msb_clamp_bit_width_impl is instance
    built = [QuantIdentity(act_quant=Int8ActPerTensorFloatFromScratch) for _ in range(2)]
    parts = [_tensor_quant(layer).msb_clamp_bit_width_impl for layer in built]
    assert [type(part) for part in parts] == [BitWidthConst] * 2 and parts[0] is not parts[1]
    assert parts[0]() == 8, "the attribute bit_width is the argument of BitWidthConst"


def test_s0_60_the_enums_name_the_same_parts() -> None:
    from_scratch = QuantIdentity(act_quant=Int8ActPerTensorFloatFromScratch)
    # The predefined quantizer has a lower bound for its scale, too.
    from_enums = QuantIdentity(act_quant=Int8ActPerTensorFloat, scaling_min_val=None)
    parts = [
        {path: type(part) for path, part in _tensor_quant(layer).named_modules()}
        for layer in (from_scratch, from_enums)
    ]
    assert parts[0] == parts[1] and parts[0]["scaling_impl"] is ParameterFromRuntimeStatsScaling
    # So either kind of quantizer takes a part under the part's name.
    layer = QuantIdentity(act_quant=Int8ActPerTensorFloat, scaling_impl=LearnedRange(4.0))
    assert layer.act_quant.scale().item() == 4.0 / 128


def test_s0_61_a_weight_quantizer_from_scratch_with_a_learned_scale() -> None:
    torch.manual_seed(0)
    quant_linear = QuantLinear(
        2, 4, weight_quant=Int8ActPerTensorFloatParameterFromScratch, bias=False
    )

    quant_weight = quant_linear.quant_weight()
    torch.manual_seed(0)
    predefined = QuantLinear(2, 4, weight_quant=Int8WeightPerTensorFloat, bias=False)
    assert torch.equal(quant_weight.value, predefined.quant_weight().value)
    largest = quant_linear.weight.abs().max().item()
    assert quant_weight.scale.item() == pytest.approx(largest / 127)
    learned = dict(quant_linear.named_parameters())["weight_quant.tensor_quant.scaling_impl.value"]
    quant_weight.scale.backward()
    assert learned.item() == pytest.approx(largest) and learned.grad.item() == pytest.approx(
        1 / 127
    )


def test_s0_61_a_part_of_ones_own_starts_from_the_weight_and_is_trained() -> None:
    class Quantizer(Int8ActPerTensorFloatParameterFromScratch):
        scaling_impl = LearnedRange
        bit_width = 3

        @value
        def range_init(scaling_init):
            return 4.0 * float(scaling_init)

    layer = QuantLinear(8, 64, weight_quant=Quantizer, bias=False)
    weight = layer.weight.detach()
    assert layer.quant_weight().scale.item() == pytest.approx(4 * weight.abs().max().item() / 3)
    assert "weight_quant.tensor_quant.scaling_impl.range" in layer.state_dict()
    scaling = layer.weight_quant.tensor_quant.scaling_impl
    before, after = fit(scaling, lambda _: layer.quant_weight().value, weight)
    # A range four times too wide leaves most weights at zero. Of uniform ones, with the variance
    # range^2 / 3, 7 levels leave (range / 3)^2 / 12: a 36th.
    variance = weight.square().mean().item()
    assert before > 0.5 * variance and after < 0.03 * variance


def test_s0_62_a_value_function_sees_the_layer_or_the_layers() -> None:
    seen: list[Any] = []

    class Quantizer(Int8ActPerTensorFloatParameterFromScratch):
        @value
        def scaling_init(module):
            seen.append(module)
            modules = module if isinstance(module, tuple) else (module,)
            return torch.stack([m.weight.abs().max().detach() for m in modules]).max()

    first = QuantLinear(2, 4, weight_quant=Quantizer, bias=False)
    assert seen == [first]
    second = QuantLinear(2, 4, weight_quant=first.weight_quant, bias=False)
    assert seen[-1] == (first, second)
    largest = torch.cat([first.weight, second.weight]).abs().max().item()
    assert first.quant_weight().scale.item() == pytest.approx(largest / 127)


def test_s0_63_a_change_in_place_is_followed_on_request() -> None:
    quant_linear = QuantLinear(
        2, 4, weight_quant=Int8ActPerTensorFloatParameterFromScratch, bias=False
    )
    before = quant_linear.quant_weight().scale.item()
    nn.init.constant_(quant_linear.weight, 2.54)
    assert quant_linear.quant_weight().scale.item() == before

    quant_linear.weight_quant.init_tensor_quant()

    assert quant_linear.quant_weight().scale.item() == pytest.approx(0.02)


def cell_36() -> tuple[Any, Any]:
    torch.manual_seed(0)

    quant_linear = QuantLinear(
        2, 4, weight_quant=LearnedIntWeightPerChannelFloat, return_quant_tensor=True, bias=False
    )
    quant_identity = QuantIdentity(
        bit_width_impl=quant_linear.weight_quant.tensor_quant.msb_clamp_bit_width_impl,
        act_quant=LearnedIntActPerTensorFloat, return_quant_tensor=True)  # fmt: skip
    return quant_linear, quant_identity


def test_s0_65_layers_share_a_learned_bit_width() -> None:
    quant_linear, quant_identity = cell_36()

    quant_identity_bit_width = (
        quant_identity.act_quant.fused_activation_quant_proxy.tensor_quant.msb_clamp_bit_width_impl
    )
    quant_linear_bit_width = quant_linear.weight_quant.tensor_quant.msb_clamp_bit_width_impl

    assert quant_identity_bit_width is quant_linear_bit_width
    # One is learned through the other.
    quant_identity(torch.randn(3, 2)).bit_width.backward()
    offset = quant_linear_bit_width.bit_width_offset
    with torch.no_grad():
        offset -= 3 * offset.grad
    assert quant_linear.quant_weight().bit_width == 5
    assert quant_identity(torch.randn(3, 2)).bit_width == 5
