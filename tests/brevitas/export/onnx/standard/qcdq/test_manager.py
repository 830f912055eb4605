"""The QCDQ target."""

from __future__ import annotations

import pytest
import torch

from brevitas.export import StdQCDQONNXDynamoManager, StdQCDQONNXManager, export_onnx_qcdq
from brevitas.export.common.spec import ExportError
from brevitas.nn import QuantConv2d, QuantConvTranspose2d, QuantIdentity, QuantLinear
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int32Bias
from export_runtime import operators, run_onnxruntime


def test_names() -> None:
    assert StdQCDQONNXDynamoManager is StdQCDQONNXManager
    assert export_onnx_qcdq == StdQCDQONNXManager.export


def test_the_option_for_weights_is_taken_out() -> None:
    options = {"export_weight_q_node": True, "verbose": True}
    assert StdQCDQONNXManager.new_session(options).weight_quantize_node
    assert options == {"verbose": True}
    assert not StdQCDQONNXManager.new_session({}).weight_quantize_node


@pytest.mark.parametrize("bits", [12, 16])
def test_16_bits_need_opset_21(bits: int) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = QuantLinear(
        4, 3, weight_bit_width=bits, input_quant=Int8ActPerTensorFloat, input_bit_width=bits
    )
    x = torch.randn(8, 4)
    model(x)
    model.eval()
    with pytest.raises(ExportError, match=r"opset_version=21.*Layer: input_quant"):
        export_onnx_qcdq(model, x)
    exported = export_onnx_qcdq(model, x, opset_version=21)
    torch.testing.assert_close(run_onnxruntime(exported, x), model(x), rtol=1e-5, atol=1e-6)


def test_values_beyond_a_short_width_are_clipped() -> None:
    pytest.importorskip("onnxscript")
    model = QuantIdentity(bit_width=12)
    model(torch.linspace(-10, 10, 64))
    model.eval()
    x = torch.linspace(-100, 100, 64)
    exported = export_onnx_qcdq(model, x, opset_version=21)
    assert torch.equal(run_onnxruntime(exported, x), model(x))


WIDE = {"bias_quant": Int32Bias}
PER_CHANNEL = {"weight_quant": Int8WeightPerChannelFloat, **WIDE}


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("options", [WIDE, PER_CHANNEL], ids=["tensor", "channel"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda **options: QuantLinear(4, 3, **options), (8, 4)),
        (lambda **options: QuantConv2d(4, 3, 3, **options), (2, 4, 5, 5)),
        (lambda **options: QuantConvTranspose2d(4, 3, 3, **options), (2, 4, 5, 5)),
    ],
    ids=["linear", "conv", "transposed"],
)
def test_wide_weights_run_with_and_without_optimizations(layer, shape, options, bits) -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    x = torch.randn(shape)
    model = torch.nn.Sequential(
        QuantIdentity(return_quant_tensor=True),
        layer(weight_bit_width=bits, output_quant=Int8ActPerTensorFloat, **options),
    )
    model(x)
    model.eval()
    exported = export_onnx_qcdq(model, x)
    step = model[1].output_quant.scale().item()
    # A sum on the edge between two integers may round the other way in another order.
    torch.testing.assert_close(run_onnxruntime(exported, x), model(x), rtol=0, atol=1.001 * step)


def test_a_weight_that_rounds_to_nearest_once_trained() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = QuantLinear(4, 3, weight_float_to_int_impl_type="stochastic_round").eval()
    x = torch.randn(8, 4)
    exported = export_onnx_qcdq(model, x)
    torch.testing.assert_close(run_onnxruntime(exported, x), model(x), rtol=1e-5, atol=1e-6)


def test_an_activation_that_rounds_to_nearest_once_trained() -> None:
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    x = torch.randn(64)
    model = QuantIdentity(float_to_int_impl_type="stochastic_round")
    model(x)
    model.eval()
    exported = export_onnx_qcdq(model, x)
    assert operators(exported)[0] == "QuantizeLinear"
    assert torch.equal(run_onnxruntime(exported, x), model(x))


def test_real_values_in_float64_are_refused_by_name() -> None:
    pytest.importorskip("onnxscript")
    model = torch.nn.Sequential(QuantIdentity(), QuantLinear(4, 3)).double()
    x = torch.randn(8, 4, dtype=torch.float64)
    model(x)
    with pytest.raises(ExportError, match=r"float64.*model\.float\(\).*Layer: 0\.act_quant$"):
        export_onnx_qcdq(model.eval(), x)
