"""Calibration collects on float values; correction adds the mean error to each bias."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import brevitas.nn as qnn
from brevitas import config
from brevitas.graph.calibrate import (
    bias_correction_mode,
    calibration_mode,
    extend_collect_stats_steps,
    finalize_collect_stats,
    load_quant_model_mode,
    quantization_status_manager,
    set_collect_stats_to_average,
)
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8ActPerTensorFloatMinMaxInit,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightPerTensorFloat,
    Int16Bias,
    ShiftedUint8ActPerTensorFloat,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def scaling(proxy):
    return proxy.fused_activation_quant_proxy.tensor_quant.scaling_impl


def model():
    return nn.Sequential(
        qnn.QuantIdentity(return_quant_tensor=True),
        qnn.QuantLinear(4, 6, bias_quant=Int16Bias, weight_bit_width=3, return_quant_tensor=True),
        qnn.QuantReLU(bit_width=3, return_quant_tensor=True),
        qnn.QuantLinear(6, 2, weight_bit_width=3, output_quant=ShiftedUint8ActPerTensorFloat),
    ).eval()


def float_forward(module, x):
    x = F.linear(x, module[1].weight, module[1].bias)
    return F.linear(x.relu(), module[3].weight, module[3].bias)


BATCHES = [
    factor * torch.randn(5, 4, generator=torch.Generator().manual_seed(3))
    for factor in (1.0, 4.0, 2.0)
]


class TestCalibration:
    def test_float_inside_and_quantized_outside(self):
        module = model()
        with torch.no_grad(), calibration_mode(module) as same:
            assert same is module
            for x in BATCHES:
                assert torch.equal(module(x), float_forward(module, x))
        with torch.no_grad():
            difference = module(BATCHES[0]) - float_forward(module, BATCHES[0])
        assert float(difference.abs().max()) > 0

    def test_scales_are_means_of_the_statistics_of_the_float_values(self):
        module = model()
        with torch.no_grad(), calibration_mode(module):
            for x in BATCHES:
                module(x)
        inputs, hidden = (
            BATCHES,
            [F.linear(x, module[1].weight, module[1].bias).relu() for x in BATCHES],
        )
        mean_input = torch.stack([x.abs().max() for x in inputs]).mean()
        mean_hidden = torch.stack([h.max() for h in hidden]).mean()
        torch.testing.assert_close(module[0].act_quant.scale(), mean_input / 128)
        torch.testing.assert_close(module[2].act_quant.scale(), mean_hidden / 7)
        for part in (scaling(module[0].act_quant), scaling(module[2].act_quant)):
            assert not part.collecting and part.value.requires_grad

    def test_zero_points_are_means(self):
        layer = qnn.QuantIdentity(act_quant=ShiftedUint8ActPerTensorFloat).eval()
        with torch.no_grad(), calibration_mode(layer):
            for x in BATCHES:
                layer(x)
        low = torch.stack([x.min() for x in BATCHES])
        high = torch.stack([x.max() for x in BATCHES])
        scale = (high - low).mean() / 255
        torch.testing.assert_close(layer.act_quant.scale(), scale)
        # Percentiles of 20 values lie within eps of the extremes; the rounding may go either way.
        zero_point = (-low.mean() / scale).round()
        assert abs(float(layer.act_quant.zero_point().detach() - zero_point)) <= 1

    def test_more_batches_than_the_steps_of_training(self):
        layer = qnn.QuantIdentity(collect_stats_steps=2).eval()
        with torch.no_grad(), calibration_mode(layer):
            for x in BATCHES:
                layer(x)
        mean = torch.stack([x.abs().max() for x in BATCHES]).mean()
        torch.testing.assert_close(layer.act_quant.scale(), mean / 128)
        assert scaling(layer.act_quant).collect_stats_steps == 2

    def test_learned_scales_are_left_alone(self):
        """A phase that has ended does not start anew."""
        trained = qnn.QuantIdentity(collect_stats_steps=1)
        trained(BATCHES[0])
        given = qnn.QuantIdentity(
            act_quant=Int8ActPerTensorFloatMinMaxInit, min_val=-3.0, max_val=3.0
        )
        loaded = qnn.QuantIdentity()
        loaded.load_state_dict(trained.state_dict())
        for layer in (trained, given, loaded):
            before = layer.eval().act_quant.scale().clone()
            with torch.no_grad(), calibration_mode(layer):
                layer(10 * BATCHES[0])
            assert torch.equal(layer.act_quant.scale(), before)

    def test_trains_after_calibration(self):
        module = model()
        with torch.no_grad(), calibration_mode(module):
            module(BATCHES[0])
        scale = scaling(module[0].act_quant).value
        before = scale.detach().clone()
        module.train()(BATCHES[1]).sum().backward()
        assert torch.equal(scale.detach(), before) and float(scale.grad.abs()) > 0

    def test_runtime_statistics_are_collected(self):
        runtime = Int8ActPerTensorFloat.let(scaling_impl_type=ScalingImplType.STATS)
        layer = qnn.QuantIdentity(act_quant=runtime).eval()
        with torch.no_grad(), calibration_mode(layer):
            layer(BATCHES[0])
        torch.testing.assert_close(layer.act_quant.scale(), BATCHES[0].abs().max() / 128)

    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("fail", [True, False])
    def test_everything_is_restored(self, training, fail):
        module = model().train(training)
        module[3].input_quant.disable_quant = True
        module[1].weight_quant.disable_quant = True
        before = _status(module)
        try:
            with torch.no_grad(), calibration_mode(module):
                assert not module[0].return_quant_tensor
                assert not module[1].bias_quant.is_quant_enabled
                module(BATCHES[0])
                if fail:
                    raise KeyError("stop")
        except KeyError:
            pass
        assert _status(module) == before

    def test_an_error_ends_no_phase(self):
        layer = qnn.QuantIdentity()
        with pytest.raises(KeyError), torch.no_grad(), calibration_mode(layer):
            layer(BATCHES[0])
            raise KeyError("stop")
        assert scaling(layer.act_quant).collecting

    def test_without_data(self):
        layer = qnn.QuantIdentity()
        with pytest.warns(UserWarning, match="calibration_mode: no data reached act_quant"):
            with calibration_mode(layer):
                pass
        assert scaling(layer.act_quant).collecting
        assert layer.state_dict() == {}

    def test_not_enabled(self):
        module = model()
        before = _status(module)
        with torch.no_grad(), calibration_mode(module, enabled=False):
            assert _status(module) == before
        assert scaling(module[0].act_quant).collecting


def _status(module: nn.Module) -> dict[str, Any]:
    """All that a mode may change and has to restore."""
    status: dict[str, Any] = {}
    for name, part in module.named_modules():
        status[name] = (
            part.training,
            getattr(part, "disable_quant", None),
            getattr(part, "return_quant_tensor", None),
            getattr(part, "collect_stats_steps", None),
            getattr(part, "momentum", None),
            len(part._forward_hooks) + len(part._forward_pre_hooks),
        )
    return status


class TestStatusManager:
    KINDS = {
        "disable_act_quant": lambda m: [m.input_quant, m.output_quant],
        "disable_weight_quant": lambda m: [m.weight_quant],
        "disable_bias_quant": lambda m: [m.bias_quant],
    }

    @pytest.mark.parametrize("kind", KINDS)
    def test_disables_one_kind(self, kind):
        layer = qnn.QuantLinear(
            4,
            6,
            bias_quant=Int8BiasPerTensorFloatInternalScaling,
            input_quant=Int8ActPerTensorFloat,
            output_quant=Int8ActPerTensorFloat,
        )
        before = _status(layer)
        with quantization_status_manager(layer, **{kind: True}):
            for other, proxies in self.KINDS.items():
                assert all(p.is_quant_enabled != (other == kind) for p in proxies(layer))
        assert _status(layer) == before

    @pytest.mark.parametrize("is_training", [True, False, None])
    def test_mode_of_the_disabled_proxies(self, is_training):
        layer = qnn.QuantReLU()
        manager = quantization_status_manager(
            layer, disable_act_quant=True, is_training=is_training
        )
        with manager:
            expected = True if is_training is None else is_training
            assert layer.act_quant.training is expected
        assert layer.act_quant.training

    def test_quantizers_run_on_request(self):
        layer = qnn.QuantReLU()
        with quantization_status_manager(
            layer, call_act_quantizer_impl=True, disable_act_quant=True
        ):
            assert torch.equal(layer(BATCHES[0]), BATCHES[0].relu())
        assert scaling(layer.act_quant).counter == 1

    def test_shared_proxies_are_restored_once(self):
        first = qnn.QuantReLU()
        module = nn.Sequential(first, qnn.QuantReLU(act_quant=first.act_quant))
        with torch.no_grad(), calibration_mode(module):
            module(BATCHES[0])
        assert first.act_quant.is_quant_enabled
        torch.testing.assert_close(first.act_quant.scale(), BATCHES[0].max() / 255)


class TestParts:
    def test_only_what_collects_is_changed(self):
        collecting = scaling(qnn.QuantIdentity().act_quant)
        extend_collect_stats_steps(collecting)
        set_collect_stats_to_average(collecting)
        assert collecting.collect_stats_steps > 10**9 and collecting.momentum is None
        finalize_collect_stats(collecting)
        assert collecting.collecting  # no data yet
        collecting(torch.tensor([2.0]))
        finalize_collect_stats(collecting)
        assert not collecting.collecting and collecting.value == 2.0
        for function in (extend_collect_stats_steps, finalize_collect_stats):
            function(nn.ReLU())


LAYERS = {
    "linear": (lambda bias: qnn.QuantLinear(4, 6, bias, weight_bit_width=2), (5, 4)),
    "linear 1d": (lambda bias: qnn.QuantLinear(4, 6, bias, weight_bit_width=2), (4,)),
    "linear 3d": (lambda bias: qnn.QuantLinear(4, 6, bias, weight_bit_width=2), (5, 3, 4)),
    "linear 4d": (lambda bias: qnn.QuantLinear(4, 6, bias, weight_bit_width=2), (2, 3, 2, 4)),
}
for _dims in (1, 2, 3):
    for _kind in ("Conv", "ConvTranspose"):
        _class = getattr(qnn, f"Quant{_kind}{_dims}d")
        LAYERS[f"{_kind}{_dims}d"] = (
            lambda bias, kind=_class: kind(4, 6, 3, groups=2, bias=bias, weight_bit_width=2),
            (5, 4, *[4] * _dims),
        )
        LAYERS[f"{_kind}{_dims}d unbatched"] = (LAYERS[f"{_kind}{_dims}d"][0], (4, *[4] * _dims))


def _channels_last(name: str, y: torch.Tensor) -> torch.Tensor:
    """Bring an output to `[elements, channels]`."""
    if name.startswith("linear"):
        return y.reshape(-1, y.shape[-1])
    spatial = int(name.split("d")[0][-1])
    return y.movedim(-1 - spatial, -1).reshape(-1, y.shape[-1 - spatial])


class TestBiasCorrection:
    @pytest.mark.parametrize("name", LAYERS)
    @pytest.mark.parametrize("bias", [True, False])
    def test_mean_error_of_float_and_quantized_outputs(self, name, bias):
        build, shape = LAYERS[name]
        layer = build(bias).eval()
        twin = copy.deepcopy(layer)
        twin.weight_quant.disable_quant = True
        batches = [torch.randn(shape) for _ in range(3)]
        with torch.no_grad():
            errors = [_channels_last(name, twin(x) - layer(x)).mean(0) for x in batches]
            expected = torch.stack(errors).mean(0)
            before = layer.bias.clone() if bias else torch.zeros(6)
            with bias_correction_mode(layer):
                for x in batches:
                    # The next layer sees exact values.
                    assert torch.equal(layer(x), twin(x))
        # Sums of a few hundred float32 numbers of order one.
        torch.testing.assert_close(layer.bias.detach(), before + expected, rtol=1e-5, atol=1e-6)
        assert isinstance(layer.bias, nn.Parameter)
        assert len(layer._forward_hooks) == 0

    def test_removes_the_mean_error(self):
        layer = qnn.QuantConv2d(2, 3, 3, weight_bit_width=2).eval()
        x = torch.randn(4, 2, 6, 6)
        exact = F.conv2d(x, layer.weight, layer.bias).detach()
        with torch.no_grad(), bias_correction_mode(layer):
            layer(x)
        error = (layer(x).detach() - exact).mean((0, 2, 3))
        assert float(error.abs().max()) < 1e-6

    def test_quantizer_of_the_output_is_left_out(self):
        layer = qnn.QuantLinear(
            4, 6, weight_bit_width=2, output_quant=Int8ActPerTensorFloat, output_bit_width=2
        )
        x = torch.randn(5, 4)
        layer(x)
        layer.eval()
        with torch.no_grad():
            exact = F.linear(x, layer.weight)
            quantized = F.linear(x, layer.quant_weight().value)
            before = layer.bias.clone()
            with bias_correction_mode(layer):
                layer(x)
        expected = before + (exact - quantized).mean(0)
        torch.testing.assert_close(layer.bias.detach(), expected, rtol=1e-5, atol=1e-6)

    def test_quantizers_of_input_and_bias_count(self):
        layer = qnn.QuantLinear(
            4, 6, weight_quant=None, input_quant=Int8ActPerTensorFloat, input_bit_width=2
        )
        x = torch.randn(5, 4)
        layer(x)
        layer.eval()
        with torch.no_grad():
            before = layer.bias.clone()
            expected = before + (F.linear(x - layer.input_quant(x).value, layer.weight)).mean(0)
            with bias_correction_mode(layer):
                layer(x)
        torch.testing.assert_close(layer.bias.detach(), expected, rtol=1e-5, atol=1e-6)

    def test_each_layer_of_a_model_on_the_float_input(self):
        module = model()
        with torch.no_grad(), calibration_mode(module):
            for x in BATCHES:
                module(x)
        before = _status(module)
        first, last = module[1].bias.detach().clone(), module[3].bias.detach().clone()
        with torch.no_grad(), bias_correction_mode(module):
            for x in BATCHES:
                module(x)
        assert _status(module) == before
        assert not torch.equal(module[1].bias, first) and not torch.equal(module[3].bias, last)
        assert module(BATCHES[0]).isfinite().all()

    def test_skip_if_no_bias(self):
        layer = qnn.QuantLinear(4, 6, bias=False, weight_bit_width=2).eval()
        with torch.no_grad(), bias_correction_mode(layer, skip_if_no_bias=True):
            layer(torch.randn(5, 4))
        assert layer.bias is None

    def test_not_enabled(self):
        layer = qnn.QuantLinear(4, 6, weight_bit_width=2).eval()
        before = layer.bias.detach().clone()
        with torch.no_grad(), bias_correction_mode(layer, enabled=False):
            layer(torch.randn(5, 4))
        assert torch.equal(layer.bias, before)

    def test_an_error_changes_nothing(self):
        layer = qnn.QuantLinear(4, 6, weight_bit_width=2).eval()
        before, status = layer.bias.detach().clone(), _status(layer)
        with pytest.raises(KeyError), torch.no_grad(), bias_correction_mode(layer):
            layer(torch.randn(5, 4))
            raise KeyError("stop")
        assert torch.equal(layer.bias, before) and _status(layer) == status

    def test_returns_quant_tensors_again(self):
        layer = qnn.QuantLinear(4, 6, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        x = torch.randn(5, 4)
        layer(x)
        layer.eval()
        with torch.no_grad(), bias_correction_mode(layer):
            layer(x)
        assert layer(x).is_valid

    def test_gradients_flow_through_nothing(self):
        layer = qnn.QuantLinear(4, 6, weight_bit_width=2).eval()
        with bias_correction_mode(layer):
            layer(torch.randn(5, 4))
        assert layer.bias.grad is None and layer.bias.is_leaf


class TestLoading:
    def test_loads_into_an_uninitialised_model(self):
        learned = Int8WeightPerTensorFloat.let(
            scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS
        )
        build = {"weight_quant": learned, "input_quant": Int8ActPerTensorFloat}
        source, target = qnn.QuantLinear(4, 6, **build), qnn.QuantLinear(4, 6, **build)
        x = torch.randn(5, 4)
        source(x)
        with load_quant_model_mode(target) as same:
            assert same is target
            target.load_state_dict(source.state_dict())
        assert torch.equal(target.eval()(x), source.eval()(x))

    @pytest.mark.parametrize("outside", [True, False])
    def test_initialisation_on_loading_is_off_inside(self, outside):
        layer = qnn.QuantLinear(4, 6)
        with config.overrides(REINIT_ON_STATE_DICT_LOAD=outside):
            with load_quant_model_mode(layer):
                assert not config.REINIT_ON_STATE_DICT_LOAD
                with load_quant_model_mode(layer):
                    assert not config.REINIT_ON_STATE_DICT_LOAD
                assert not config.REINIT_ON_STATE_DICT_LOAD
            assert config.REINIT_ON_STATE_DICT_LOAD is outside

    @pytest.mark.parametrize("outside", [True, False])
    def test_an_error_restores_the_configuration(self, outside):
        layer = qnn.QuantLinear(4, 6)
        with config.overrides(REINIT_ON_STATE_DICT_LOAD=outside):
            with pytest.raises(RuntimeError, match="size mismatch"), load_quant_model_mode(layer):
                layer.load_state_dict({"weight": torch.zeros(1)}, strict=False)
            assert config.REINIT_ON_STATE_DICT_LOAD is outside

    def test_learned_values_stay_where_the_checkpoint_lacks_them(self):
        learned = Int8WeightPerTensorFloat.let(
            scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS
        )
        layer = qnn.QuantLinear(4, 6, weight_quant=learned)
        before = layer.quant_weight().scale.detach().clone()
        state = {"weight": 3 * layer.weight.detach()}
        with load_quant_model_mode(layer):
            layer.load_state_dict(state, strict=False)
        assert torch.equal(layer.quant_weight().scale.detach(), before)
        layer.load_state_dict(state, strict=False)
        torch.testing.assert_close(layer.quant_weight().scale.detach(), 3 * before)
