"""An overview of quantized activations: where scales come from, and ranges that the user gives."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor, nn

from brevitas.inject import DependencyError
from brevitas.nn import QuantHardTanh, QuantIdentity, QuantReLU
from brevitas.quant.scaled_int import Int8ActPerTensorFloat, Int8ActPerTensorFloatMinMaxInit
from brevitas.quant.shifted_scaled_int import ShiftedUint8ActPerTensorFloat


def learned_scale(layer: nn.Module) -> nn.Parameter:
    """The parameter that the statistics initialise."""
    return layer.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl.value


def learned_zero_point(layer: nn.Module) -> nn.Parameter:
    """The same for the zero point, in units of the scale's threshold."""
    return layer.act_quant.fused_activation_quant_proxy.tensor_quant.zero_point_impl.value


def moving_average(statistics: list[Tensor]) -> Tensor:
    """Exponential moving average that starts at the first value; the newest one weighs a tenth."""
    average = statistics[0]
    for statistic in statistics[1:]:
        average = 0.9 * average + 0.1 * statistic
    return average


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    """The two inputs of cell 15."""
    return torch.randn(3, 3), torch.randn(3, 3)


def test_s2_14_statistics_are_collected_for_300_steps() -> None:
    """The text says 30: it lost a zero, as the tutorial before it shows."""
    quant_identity = QuantIdentity()
    constructed = learned_scale(quant_identity).item()
    batch = torch.tensor([-2.0, 1.0])

    for _ in range(299):
        quant_identity(batch)
    assert learned_scale(quant_identity).item() == constructed != 2.0
    quant_identity(batch)
    # The statistic of every batch is the same, and so is their average.
    assert learned_scale(quant_identity).item() == pytest.approx(2.0)


def test_s2_15_scales_differ_between_batches_in_training(inputs: tuple[Tensor, Tensor]) -> None:
    inp1, inp2 = inputs
    quant_identity = QuantIdentity(return_quant_tensor=True)

    out1_train = quant_identity(inp1)
    out2_train = quant_identity(inp2)

    assert not out1_train.scale.isclose(out2_train.scale).item()
    assert out1_train.training


def test_s2_16_scales_are_the_moving_average_in_evaluation(inputs: tuple[Tensor, Tensor]) -> None:
    inp1, inp2 = inputs
    quant_identity = QuantIdentity(return_quant_tensor=True)
    out1_train = quant_identity(inp1)
    out2_train = quant_identity(inp2)

    quant_identity.eval()
    out1_eval = quant_identity(inp1)
    out2_eval = quant_identity(inp2)

    assert out1_eval.scale.isclose(out2_eval.scale).item()
    assert out1_eval.scale.isclose(moving_average([out1_train.scale, out2_train.scale])).item()
    assert not out1_eval.training


def test_s2_17_a_quant_hard_tanh_without_a_range_is_an_error() -> None:
    message = "^'Int8ActPerTensorFloatMinMaxInit' can not resolve attribute 'max_val'"
    with pytest.raises(DependencyError, match=message):
        QuantHardTanh()


def test_s2_18_the_signature_of_quant_hard_tanh() -> None:
    parameters = list(inspect.signature(QuantHardTanh.__init__).parameters.values())

    assert [(p.name, p.default) for p in parameters[1:-1]] == [
        ("act_quant", Int8ActPerTensorFloatMinMaxInit),
        ("input_quant", None),
        ("return_quant_tensor", False),
    ]
    assert parameters[-1].kind is inspect.Parameter.VAR_KEYWORD


def test_s2_19_the_range_of_a_quant_hard_tanh_is_learned_from_the_start(
    inputs: tuple[Tensor, Tensor],
) -> None:
    inp1, inp2 = inputs
    quant_hard_tanh = QuantHardTanh(max_val=1.0, min_val=-1.0, return_quant_tensor=True)

    out1_train = quant_hard_tanh(inp1)
    quant_hard_tanh.eval()
    out2_eval = quant_hard_tanh(inp2)

    assert out1_train.scale.isclose(out2_eval.scale).item()
    # The 256 integers divide the range from -1 to 1: one step is 2 / 256.
    assert out1_train.scale.item() == 1 / 128
    out1_train.value.sum().backward()
    assert learned_scale(quant_hard_tanh).grad is not None


def test_s2_24_a_quant_identity_with_a_range_is_a_quant_hard_tanh() -> None:
    limits = {"max_val": 1.0, "min_val": -1.0, "return_quant_tensor": True}
    quant_identity = QuantIdentity(act_quant=Int8ActPerTensorFloatMinMaxInit, **limits)
    quant_hard_tanh = QuantHardTanh(**limits)
    assert_equal_in_training_and_evaluation(quant_identity, quant_hard_tanh)


def test_s2_25_a_quant_hard_tanh_with_statistics_is_a_quant_identity() -> None:
    quant_hard_tanh = QuantHardTanh(act_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
    quant_identity = QuantIdentity(return_quant_tensor=True)
    assert_equal_in_training_and_evaluation(quant_hard_tanh, quant_identity)


def assert_equal_in_training_and_evaluation(first: nn.Module, second: nn.Module) -> None:
    """Both give the same tensors, gradients and checkpoints over three steps and in evaluation."""
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (first, second)]
    for _ in range(3):
        # Wider than the range of one, and not symmetric.
        batch = 3 * torch.randn(8, 4) + 0.5
        outputs = [layer(batch) for layer in (first, second)]
        assert torch.equal(outputs[0].value, outputs[1].value)
        assert torch.equal(outputs[0].scale, outputs[1].scale)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            output.value.square().sum().backward()
            optimizer.step()
    assert torch.equal(learned_scale(first).grad, learned_scale(second).grad)
    assert first.state_dict() == second.state_dict()
    batch = 3 * torch.randn(8, 4)
    assert torch.equal(first.eval()(batch).value, second.eval()(batch).value)


def test_s2_26_the_quantizer_decides_which_keywords_a_layer_needs() -> None:
    with pytest.raises(DependencyError, match="'max_val'"):
        QuantIdentity(act_quant=Int8ActPerTensorFloatMinMaxInit)
    given = QuantIdentity(
        act_quant=Int8ActPerTensorFloatMinMaxInit,
        max_val=2.0,
        min_val=-3.0,
        return_quant_tensor=True,
    )
    # A symmetric quantizer covers the wider side.
    assert given(torch.tensor([0.0])).scale.item() == 3 / 128
    with pytest.warns(UserWarning, match="max_val"):  # the default takes statistics instead
        QuantIdentity(max_val=2.0)


def test_s2_27_the_average_initialises_a_learned_scale_and_zero_point() -> None:
    steps = 4
    batches = [torch.randn(10) for _ in range(steps)]
    quant_identity = QuantIdentity(
        act_quant=ShiftedUint8ActPerTensorFloat,
        collect_stats_steps=steps,
        return_quant_tensor=True,
    )
    for batch in batches:
        quant_identity(batch)

    # Percentiles so near to the ends are the largest and smallest of ten values.
    average_range = moving_average([batch.max() - batch.min() for batch in batches])
    average_minimum = moving_average([batch.min() for batch in batches])
    assert learned_scale(quant_identity).isclose(average_range)
    assert learned_zero_point(quant_identity).abs().isclose(average_minimum.abs())
    for parameter in (learned_scale(quant_identity), learned_zero_point(quant_identity)):
        assert isinstance(parameter, nn.Parameter)
        assert parameter.requires_grad

    # From here on both are learned: no batch changes them, in training as in evaluation.
    in_training = quant_identity(100 * torch.randn(10))
    in_evaluation = quant_identity.eval()(torch.randn(10))
    assert in_training.scale == in_evaluation.scale
    assert in_training.scale.isclose(average_range / 255)
    assert in_training.zero_point == in_evaluation.zero_point
    assert in_training.zero_point == torch.round(-average_minimum / in_training.scale)
    in_training.value.sum().backward()
    assert learned_scale(quant_identity).grad is not None
    assert learned_zero_point(quant_identity).grad is not None


def test_s2_27_an_unsigned_quantizer_learns_its_scale_only() -> None:
    quant_relu = QuantReLU(collect_stats_steps=1)
    quant_relu(torch.tensor([-4.0, 3.0]))
    assert [tuple(p.shape) for p in quant_relu.parameters()] == [()]
    assert learned_scale(quant_relu).item() == 3.0
