"""TVMCon tutorial, cells 15 to 18: arithmetic and functions of quant tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from brevitas.nn import QuantIdentity
from brevitas.quant_tensor import IntQuantTensor
from seeds.facts import assert_prints


def cell_15() -> dict[str, Any]:
    torch.manual_seed(0)

    float_inp1 = torch.randn(3, 2)
    float_inp2 = torch.randn(3, 2)
    quant_identity = QuantIdentity(return_quant_tensor=True)

    # Training mode, statistics are being collected, scaling factors are different but it doesn't
    # raise an error
    train_quant_inp1 = quant_identity(float_inp1)
    train_quant_inp2 = quant_identity(float_inp2)
    train_mode_add = train_quant_inp1 + train_quant_inp2

    # Inference mode, the EMA buffer is being used, scaling factors are the same
    quant_identity.eval()
    eval_quant_inp1 = quant_identity(float_inp1)
    eval_quant_inp2 = quant_identity(float_inp2)
    eval_mode_add = eval_quant_inp1 + eval_quant_inp2
    return locals()


def test_s0_25_sum_in_evaluation() -> None:
    cell = cell_15()
    assert_prints(cell["eval_quant_inp1"].value, "S0-25", "eval a")
    assert_prints(cell["eval_quant_inp2"].value, "S0-25", "eval b")
    assert_prints(cell["eval_quant_inp1"].scale, "S0-25", "scale a")
    assert_prints(cell["eval_quant_inp2"].scale, "S0-25", "scale b")
    assert_prints(cell["eval_mode_add"].value, "S0-25", "sum")
    assert_prints(cell["eval_mode_add"].scale, "S0-25", "sum scale")
    assert_prints(cell["eval_mode_add"].bit_width, "S0-25", "sum bit_width")
    assert not cell["eval_mode_add"].training and cell["eval_mode_add"].is_valid


def test_s0_26_sum_in_training_averages_the_scales() -> None:
    cell = cell_15()
    first, second = cell["train_quant_inp1"], cell["train_quant_inp2"]
    assert first.scale > 2 * second.scale, "the scales of the two batches differ"
    torch.testing.assert_close(cell["train_mode_add"].scale, (first.scale + second.scale) / 2)
    assert torch.equal(cell["train_mode_add"].value, first.value + second.value)


def _made(scale: float = 0.5, zero_point: float = 0.0, bits: int = 8, signed: bool = True) -> Any:
    return IntQuantTensor(torch.tensor([0.5, 2.0]), scale, zero_point, bits, signed, training=False)


def test_s0_27_sum_in_evaluation_needs_equal_scales() -> None:
    with pytest.raises(RuntimeError, match="Scaling factors are different"):
        _made(scale=0.5) + _made(scale=0.25)


def cell_16_input() -> Any:
    torch.manual_seed(0)

    float_inp = torch.randn(3, 2, 4)
    quant_identity = QuantIdentity(return_quant_tensor=True)

    return quant_identity(float_inp)


def test_s0_28_max_pooling_keeps_the_quantization() -> None:
    quant_input = cell_16_input()
    quant_output = torch.nn.functional.max_pool1d(quant_input, kernel_size=2, stride=2)

    assert_prints(quant_input.value, "S0-28", "quant_input")
    assert_prints(quant_input.scale, "S0-28", "scale")
    assert_prints(quant_output.value, "S0-28", "output")
    assert_prints(quant_output.scale, "S0-28", "out scale")
    assert_prints(quant_output.bit_width, "S0-28", "out bit_width")
    # Invariant: the function of the value is a value of the same integers.
    assert quant_output.zero_point == quant_input.zero_point and quant_output.is_valid
    pooled = torch.nn.functional.max_pool1d(quant_input.int().float(), 2, 2)
    assert torch.equal(quant_output.int().float(), pooled)


def test_s0_29_tanh_decays_to_a_plain_tensor() -> None:
    quant_input = cell_16_input()
    quant_output = torch.tanh(quant_input)

    assert_prints(quant_output, "S0-29", "output")
    assert type(quant_output) is Tensor and quant_output.grad_fn is not None


def cell_18() -> dict[str, Any]:
    torch.manual_seed(0)

    float_inp1 = torch.randn(3, 2)
    float_inp2 = torch.randn(3, 2)
    quant_identity = QuantIdentity(return_quant_tensor=True)

    # Training mode, statistics are being collected, scaling factors are different but it doesn't
    # raise an error
    train_mode_cat = torch.cat([quant_identity(float_inp1), quant_identity(float_inp2)], dim=1)

    # Inference mode, the EMA buffer is being used, scaling factors are the same
    quant_identity.eval()
    eval_quant_inp1 = quant_identity(float_inp1)
    eval_quant_inp2 = quant_identity(float_inp2)
    eval_mode_cat = torch.cat([eval_quant_inp1, eval_quant_inp2], dim=1)
    return locals()


def test_s0_30_concatenation_in_evaluation() -> None:
    cell = cell_18()
    quant_output = cell["eval_mode_cat"]
    assert_prints(cell["eval_quant_inp1"].value, "S0-25", "eval a")
    assert_prints(cell["eval_quant_inp2"].value, "S0-25", "eval b")
    assert_prints(quant_output.value, "S0-30", "cat")
    assert_prints(quant_output.scale, "S0-30", "scale")
    assert_prints(quant_output.bit_width, "S0-30", "bit_width")
    assert isinstance(quant_output, IntQuantTensor) and not quant_output.training


def test_s0_31_concatenation_in_training_takes_different_scales() -> None:
    quant_output = cell_18()["train_mode_cat"]
    operands = cell_15()
    first, second = operands["train_quant_inp1"], operands["train_quant_inp2"]
    assert isinstance(quant_output, IntQuantTensor) and quant_output.training
    assert torch.equal(quant_output.value, torch.cat([first.value, second.value], dim=1))
    torch.testing.assert_close(quant_output.scale, (first.scale + second.scale) / 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"scale": 0.25}, "Scaling factors are different"),
        ({"zero_point": 1.0}, "Zero points are different"),
        ({"bits": 4}, "Bit widths are different"),
        ({"signed": False}, "Signs are different"),
    ],
)
def test_s0_32_concatenation_needs_equal_fields_and_a_sum_needs_equal_scales(
    other: dict[str, Any], message: str
) -> None:
    first, second = _made(), _made(**other)
    with pytest.raises(RuntimeError, match=message):
        torch.cat([first, second])
    if "scale" in other:
        with pytest.raises(RuntimeError, match=message):
            first + second
        return
    total = first + second
    assert isinstance(total, IntQuantTensor) and total.is_valid
    assert torch.equal(total.value, torch.tensor([1.0, 4.0])) and total.scale == 0.5
