"""Scaled dot-product attention as a module: equal to the function of torch, quantized if asked."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import brevitas.nn as qnn
from brevitas.common import LayerProtocol
from brevitas.quant import Int8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor

PLAIN = dict.fromkeys(
    ("q_scaled_quant", "k_transposed_quant", "attn_output_weights_quant", "v_quant")
)
MODULES = {
    "float": qnn.ScaledDotProductAttention,
    "without quantizers": lambda **keywords: qnn.QuantScaledDotProductAttention(
        **PLAIN, **keywords
    ),
}


def inputs(heads=4, key_heads=4, keys=6):
    torch.manual_seed(0)
    q = torch.randn(2, heads, 5, 8, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, key_heads, keys, 8, dtype=torch.float64, requires_grad=True)
    v = torch.randn(2, key_heads, keys, 3, dtype=torch.float64, requires_grad=True)
    return q, k, v


def _arguments(name):
    torch.manual_seed(1)
    return {
        "nothing": {},
        "scale": {"scale": 0.3},
        "causal": {"is_causal": True},
        "boolean mask": {"attn_mask": torch.rand(5, 6) < 0.6},
        "mask of each head": {"attn_mask": torch.rand(2, 4, 5, 6) < 0.6},
        "float mask": {"attn_mask": torch.randn(2, 1, 5, 6).double()},
        "groups": {"enable_gqa": True},
    }[name]


ARGUMENTS = (
    "nothing",
    "scale",
    "causal",
    "boolean mask",
    "mask of each head",
    "float mask",
    "groups",
)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("name", ARGUMENTS)
def test_it_is_the_function_of_torch(module, name):
    arguments = _arguments(name)
    given = inputs(key_heads=2 if name == "groups" else 4)
    results = []
    for function in (MODULES[module](), F.scaled_dot_product_attention):
        output = function(*given, **arguments)
        results.append((output, *torch.autograd.grad(output.square().sum(), given)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_step_by_step_it_computes_the_same(name):
    """With a quantizer of so many bits that it rounds nothing away."""
    arguments = _arguments(name)
    given = inputs(key_heads=2 if name == "groups" else 4)
    layer = qnn.QuantScaledDotProductAttention(
        **{**PLAIN, "v_quant": Int8ActPerTensorFloat}, v_bit_width=44, dtype=torch.float64
    )
    expected = F.scaled_dot_product_attention(*given, **arguments)
    results = []
    for output in (layer(*given, **arguments), expected):
        results.append((output, *torch.autograd.grad(output.square().sum(), given[:2])))
    # The clamp of the largest value, one step of 2**-43 of it, and float64's rounding.
    torch.testing.assert_close(*results, rtol=1e-7, atol=1e-9)


class TestPreProcess:
    @pytest.mark.parametrize("kind", [qnn.ScaledDotProductAttention, *MODULES.values()])
    def test_functions_of_the_inputs(self, kind):
        functions = {
            "pre_process_q": torch.neg,
            "pre_process_k": nn.LayerNorm(8, dtype=torch.float64),
            "pre_process_v": torch.abs,
        }
        layer, (q, k, v) = kind(**functions), inputs()
        expected = F.scaled_dot_product_attention(-q, functions["pre_process_k"](k), v.abs())
        torch.testing.assert_close(layer(q, k, v), expected)

    def test_a_module_is_a_child(self):
        for kind in (qnn.ScaledDotProductAttention, qnn.QuantScaledDotProductAttention):
            layer = kind(pre_process_q=nn.Linear(8, 8))
            assert "pre_process_q.weight" in layer.state_dict()

    def test_a_quant_tensor_they_return_is_taken(self):
        identity = qnn.QuantIdentity(return_quant_tensor=True, dtype=torch.float64)
        for kind in MODULES.values():
            layer, (q, k, v) = kind(pre_process_q=identity), inputs()
            layer(q, k, v)
            expected = F.scaled_dot_product_attention(identity.eval()(q).value, k, v)
            torch.testing.assert_close(layer(q, k, v), expected)


def trained(**keywords):
    torch.manual_seed(0)
    layer = qnn.QuantScaledDotProductAttention(**keywords)
    given = [x.detach().float() for x in inputs()]
    layer(*given)
    return layer.eval(), given


class TestQuantized:
    def test_it_is_a_layer_without_a_handler_of_its_own(self):
        layer = qnn.QuantScaledDotProductAttention()
        assert isinstance(layer, LayerProtocol)
        assert layer.requires_export_handler is False
        assert layer.export_mode is False

    def test_groups_share_keys_and_values(self):
        layer, (q, k, v) = trained()
        grouped = layer(q, k[:, :2], v[:, :2], enable_gqa=True)
        repeated = (x[:, :2].repeat_interleave(2, dim=1) for x in (k, v))
        assert torch.equal(grouped, layer(q, *repeated))

    @pytest.mark.parametrize("returns", [False, True])
    def test_output_quantizer(self, returns):
        keywords = {"sdpa_output_return_quant_tensor": returns, "sdpa_output_bit_width": 4}
        layer, given = trained(sdpa_output_quant=Int8ActPerTensorFloat, **keywords)
        output = layer(*given)
        assert isinstance(output, IntQuantTensor) == returns
        if returns:
            assert output.is_valid and output.bit_width == 4

    def test_quant_tensors_as_inputs(self):
        layer, given = trained()
        identity = qnn.QuantIdentity(return_quant_tensor=True).eval()
        quantized = [identity(x) for x in given]
        assert torch.equal(layer(*quantized), layer(*(x.value for x in quantized)))

    def test_keywords_reach_their_quantizers(self):
        names = (
            *("q_scaled", "k_transposed", "v"),
            *("softmax_input", "attn_output_weights", "sdpa_output"),
        )
        quants = dict.fromkeys(("softmax_input_quant", "sdpa_output_quant"), Int8ActPerTensorFloat)
        widths = {f"{name}_bit_width": 2 + place for place, name in enumerate(names)}
        layer = qnn.QuantScaledDotProductAttention(**quants, **widths)
        for place, name in enumerate(names):
            assert getattr(layer, f"{name}_quant").act_quant.bit_width() == 2 + place

    def test_unread_keywords_are_reported(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            qnn.QuantScaledDotProductAttention(q_scaled_bitwidth=4, sdpa_output_bit_width=4)
        messages = sorted(str(item.message) for item in caught)
        assert len(messages) == 2
        assert "q_scaled_bitwidth=4" in messages[0] and "'q_scaled_bit_width'" in messages[0]
        assert "sdpa_output_quant is None here" in messages[1]
        assert all(text.startswith("QuantScaledDotProductAttention: ") for text in messages)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_dtype_and_device(self, dtype):
        layer = qnn.QuantScaledDotProductAttention(dtype=dtype)
        assert {p.dtype for p in layer.parameters()} == {dtype}
        q, k, v = (x.to(dtype) for x in inputs())
        assert layer(q, k, v, torch.zeros(5, 6)).dtype == dtype
        layer = qnn.QuantScaledDotProductAttention(device="meta")
        assert all(p.is_meta for p in layer.parameters())
        assert layer(*(x.to("meta") for x in inputs())).is_meta

    def test_copies(self):
        layer, given = trained()
        expected = layer(*given)
        fresh = qnn.QuantScaledDotProductAttention().eval()
        fresh.load_state_dict(layer.state_dict())
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
            assert torch.equal(other(*given), expected)

    def test_autocast(self):
        layer, given = trained(softmax_input_quant=Int8ActPerTensorFloat)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = layer(*given, is_causal=True)
        # bfloat16 has 8 bits, and so have the quantizers: a few steps of either.
        scale = float(given[2].abs().max())
        torch.testing.assert_close(
            output.float(), layer(*given, is_causal=True), rtol=0, atol=8 * scale / 128
        )

    def test_compiles_and_exports_as_one_graph_with_a_mask(self):
        torch._dynamo.reset()
        layer, given = trained(softmax_input_quant=Int8ActPerTensorFloat)
        arguments = {"attn_mask": torch.rand(5, 6) < 0.6}
        expected = layer(*given, **arguments)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*given, **arguments), expected)
        program = torch.export.export(layer, tuple(given), arguments)
        torch.testing.assert_close(program.module()(*given, **arguments), expected)


@pytest.mark.parametrize(
    "kind", [qnn.ScaledDotProductAttention, qnn.QuantScaledDotProductAttention]
)
class TestErrors:
    def test_a_mask_besides_the_causal_one(self, kind):
        with pytest.raises(ValueError, match=r"attn_mask of shape \(5, 6\) with is_causal=True"):
            kind()(*inputs(), torch.zeros(5, 6), is_causal=True)

    def test_dtype_of_a_mask(self, kind):
        with pytest.raises(TypeError, match=r"torch.int64: expected torch.bool \(False where"):
            kind()(*inputs(), torch.zeros(5, 6, dtype=torch.int64))


def test_heads_that_do_not_fit():
    with pytest.raises(ValueError, match="enable_gqa=True with 4 heads of queries, 3 of keys"):
        qnn.QuantScaledDotProductAttention()(*inputs(key_heads=3), enable_gqa=True)
