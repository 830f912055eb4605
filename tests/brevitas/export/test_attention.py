"""Attention in every export format, run in the programs that read it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_onnx_qcdq, export_onnx_qop, export_qonnx, export_torch_qcdq
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantMultiheadAttention, QuantScaledDotProductAttention
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat
from export_runtime import operators, run_onnxruntime, run_qonnx

pytest.importorskip("onnxscript")

ONNX = {"qonnx": (export_qonnx, run_qonnx), "qcdq": (export_onnx_qcdq, run_onnxruntime)}
CHANNELS = Int8WeightPerChannelFloat
LAYERS: dict[str, dict[str, Any]] = {
    "packed": {},
    "separate": {"packed_in_proj": False},
    "scores": {"softmax_input_quant": Int8ActPerTensorFloat},
    "added keys": {"add_bias_kv": True, "add_zero_attn": True},
    "channels": {"in_proj_weight_quant": CHANNELS, "out_proj_weight_quant": CHANNELS},
    "output": {"out_proj_output_quant": Int8ActPerTensorFloat, "return_quant_tensor": True},
    "integers": {"out_proj_input_quant": None, "v_bit_width": 4},
    "few bits": {
        "q_scaled_bit_width": 4,
        "k_transposed_bit_width": 3,
        "in_proj_weight_bit_width": 2,
    },
}


class Attention(nn.Module):
    """A block of attention over one or two inputs, with a fixed mask if asked."""

    def __init__(self, inputs: int = 1, causal: bool = False, **keywords: Any) -> None:
        super().__init__()
        self.attention = QuantMultiheadAttention(8, 2, batch_first=True, **keywords)
        self.norm = nn.LayerNorm(8)
        self.inputs = inputs
        mask = torch.ones(4, 4, dtype=torch.bool).triu(1) if causal else None
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        memory = x if memory is None else memory
        output, _ = self.attention(x, memory, memory, need_weights=False, attn_mask=self.mask)
        return self.norm(x + getattr(output, "value", output))


class Product(nn.Module):
    """Scaled dot-product attention of an input with itself."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__()
        self.attention = QuantScaledDotProductAttention(**keywords)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, is_causal=True)


def trained(model: nn.Module, *inputs: Tensor) -> Tensor:
    """Let a model see data; return its output in evaluation."""
    with torch.no_grad():
        model.train()(*inputs)
        return model.eval()(*inputs)


def attention(
    name: str = "packed", **keywords: Any
) -> tuple[nn.Module, tuple[Tensor, ...], Tensor]:
    torch.manual_seed(0)
    model = Attention(**keywords, **LAYERS[name])
    inputs = tuple(torch.randn(2, 4, 8) for _ in range(model.inputs))
    return model, inputs, trained(model, *inputs)


def assert_runs(target: str, model: nn.Module, inputs: tuple[Tensor, ...], expected: Tensor) -> Any:
    export, run = ONNX[target]
    exported = export(model, inputs)
    # The order of float32 sums of some dozens of terms about 1 in size.
    torch.testing.assert_close(run(exported, *inputs), expected, rtol=1e-5, atol=1e-5)
    return exported


OFTEN = ("packed", "integers")
SELDOM = [pytest.param(name, marks=pytest.mark.long) for name in LAYERS if name not in OFTEN]


@pytest.mark.parametrize("target", ONNX)
@pytest.mark.parametrize("name", [*OFTEN, *SELDOM])
def test_multi_head_attention(name, target):
    assert_runs(target, *attention(name))


@pytest.mark.parametrize("target", ONNX)
@pytest.mark.parametrize("packed", [True, pytest.param(False, marks=pytest.mark.long)])
def test_attention_to_another_input(packed, target):
    assert_runs(target, *attention("packed" if packed else "separate", inputs=2))


@pytest.mark.parametrize("target", ONNX)
@pytest.mark.parametrize("name", ["scores", pytest.param("packed", marks=pytest.mark.long)])
def test_mask(name, target):
    assert_runs(target, *attention(name, causal=True))


@pytest.mark.parametrize("target", ONNX)
def test_product(target):
    torch.manual_seed(0)
    model, x = Product(softmax_input_quant=Int8ActPerTensorFloat), torch.randn(2, 3, 4, 8)
    assert_runs(target, model, (x,), trained(model, x))


def test_each_operand_of_a_product_has_its_node():
    torch.manual_seed(0)
    model, x = Product(), torch.randn(2, 3, 4, 8)
    names = operators(assert_runs("qonnx", model, (x,), trained(model, x)))
    assert [name.rpartition("::")[2] for name in names] == [
        *("Mul", "Quant", "Transpose", "Quant", "Quant", "MatMul"),
        *("Add", "Softmax", "Quant", "MatMul"),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::Warning")
@pytest.mark.parametrize("name", ["packed", "integers"])
def test_torch_qcdq(name):
    model, inputs, expected = attention(name, causal=True)
    program = export_torch_qcdq(model, inputs)
    torch.testing.assert_close(program(*inputs), expected, rtol=1e-5, atol=1e-5)


def test_integer_operators_refuse_what_they_cannot_hold():
    model, inputs, _ = attention()
    with pytest.raises(ExportError, match="attention"):
        export_onnx_qop(model, inputs)
