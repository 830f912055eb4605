"""Scaled dot-product attention step by step, against the formula in plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import brevitas.nn as qnn
from brevitas.nn._attention import quantizes
from brevitas.quant import Int8ActPerTensorFloat
from brevitas.quant_tensor import IntQuantTensor

NONE = dict.fromkeys(
    ("q_scaled_quant", "k_transposed_quant", "attn_output_weights_quant", "v_quant")
)


def rounded(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Quantize with the scale and the range that a quantizer states."""
    proxy = layer.act_quant
    if not proxy.is_quant_enabled:
        return x
    scale, bits = proxy.scale(), float(proxy.bit_width())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if proxy.is_signed else (0, 2**bits - 1)
    return torch.clamp(torch.round(x / scale), low, high) * scale


def reference(layer, q, k, v, mask=None, scale=None):
    """``quant(softmax(quant(quant(scale * q) @ quant(k.T)) + mask)) @ quant(v)``."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = rounded(layer.q_scaled_quant, q * scale) @ rounded(
        layer.k_transposed_quant, k.transpose(-2, -1)
    )
    scores = rounded(layer.softmax_input_quant, scores)
    if mask is not None:
        scores = scores.masked_fill(~mask, -float("inf"))
    weights = torch.softmax(scores, -1).nan_to_num(0.0)
    return rounded(layer.attn_output_weights_quant, weights) @ rounded(layer.v_quant, v)


def trained(**keywords):
    torch.manual_seed(0)
    layer = qnn.QuantScaledDotProductAttention(**keywords)
    q, k, v = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 4)
    layer(q, k, v)
    return layer.eval(), q, k, v


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("softmax_input_quant", [None, Int8ActPerTensorFloat])
@pytest.mark.parametrize("masked", [False, True])
def test_formula(bit_width, softmax_input_quant, masked):
    names = ("q_scaled", "k_transposed", "attn_output_weights", "v")
    bits = {f"{name}_bit_width": bit_width for name in names}
    layer, q, k, v = trained(softmax_input_quant=softmax_input_quant, **bits)
    mask = torch.rand(5, 6) < 0.6 if masked else None
    if masked:
        mask[2] = False
    torch.testing.assert_close(layer(q, k, v, mask), reference(layer, q, k, v, mask))


def test_a_query_without_keys_gets_zeros_and_finite_gradients():
    layer, q, k, v = trained(softmax_input_quant=Int8ActPerTensorFloat)
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1] = False
    leaves = [x.requires_grad_() for x in (q, k, v)]
    output = layer.train()(*leaves, mask)
    assert torch.equal(output[..., 1, :], torch.zeros(2, 3, 4))
    output.square().sum().backward()
    assert all(bool(x.grad.isfinite().all()) for x in leaves)
    assert all(bool(p.grad.isfinite().all()) for p in layer.parameters())
    # In training, the scales of the queries depend on the largest one, blocked or not.
    q.grad = None
    layer.eval()(*leaves, mask).square().sum().backward()
    assert torch.equal(q.grad[..., 1, :], torch.zeros(2, 3, 8))


@pytest.mark.parametrize("blocked", [-float("inf"), torch.finfo(torch.float32).min])
def test_statistics_of_the_scores_do_not_see_what_a_mask_blocks(blocked):
    layer, q, k, v = trained(softmax_input_quant=Int8ActPerTensorFloat)
    fresh, *_ = trained(softmax_input_quant=Int8ActPerTensorFloat)
    mask = torch.zeros(5, 6).masked_fill(torch.rand(5, 6) < 0.5, blocked)
    mask[:, 0] = 0.0
    fresh.train()(q, k, v, mask)
    layer.train()(q, k, v)
    scales = [m.softmax_input_quant.act_quant.scale() for m in (fresh, layer)]
    assert torch.equal(*scales)


def test_statistics_of_the_scores_see_a_finite_mask():
    layer = qnn.QuantScaledDotProductAttention(softmax_input_quant=Int8ActPerTensorFloat, **NONE)
    q = torch.randn(1, 3, 4)
    layer(q, q, q, torch.full((3, 3), 100.0))
    scores = q @ q.transpose(-2, -1) / 2 + 100
    largest = float(layer.softmax_input_quant.act_quant.scale()) * 128
    torch.testing.assert_close(largest, float(scores.max()))


def test_dropped_weights_are_zero_and_the_others_grow():
    torch.manual_seed(0)
    layer = qnn.QuantScaledDotProductAttention(**{**NONE, "v_quant": Int8ActPerTensorFloat})
    q, v = torch.zeros(1, 64, 4), torch.eye(64).unsqueeze(0)
    output = layer.eval()(q, q, v, dropout_p=0.25)
    # All scores are equal: each weight is 1/64, or with dropout 0 or 1/48.
    kept = output > 1e-3
    scale = float(layer.v_quant.act_quant.scale())
    one = min(round(1 / scale), 127) * scale
    torch.testing.assert_close(output[kept], torch.full_like(output[kept], one / 48))
    # 4096 draws: five standard deviations.
    assert abs(float(kept.float().mean()) - 0.75) < 5 * (0.25 * 0.75 / 4096) ** 0.5


def test_the_last_product_keeps_its_integers():
    keywords = {f"{name}_bit_width": 4 for name in ("attn_output_weights", "v")}
    layer, q, k, v = trained(sdpa_output_return_quant_tensor=True, **keywords)
    output = layer(q, k, v)
    assert isinstance(output, IntQuantTensor) and output.is_valid
    proxies = (layer.attn_output_weights_quant.act_quant, layer.v_quant.act_quant)
    product = proxies[0].scale() * proxies[1].scale()
    torch.testing.assert_close(output.scale.flatten(), product.flatten())
    # An unsigned and a signed number of 4 bits, summed up 6 times.
    assert float(output.bit_width) <= 4 + 4 + 3
    torch.testing.assert_close(output.value, reference(layer, q, k, v))


def test_which_layers_quantize():
    layer = qnn.QuantIdentity()
    assert quantizes(layer)
    layer.act_quant.disable_quant = True
    assert quantizes(layer)
    assert not quantizes(qnn.QuantIdentity(act_quant=None))
    assert quantizes(nn.Identity())

    class Watched(qnn.QuantIdentity):
        def forward(self, input):
            return super().forward(input)

    assert quantizes(Watched(act_quant=None))


def test_disabled_quantizers_still_see_their_inputs():
    layer, q, k, v = trained()
    seen = []
    layer.q_scaled_quant.act_quant.register_forward_hook(lambda *_: seen.append(1))
    for module in layer.modules():
        if hasattr(module, "disable_quant"):
            module.disable_quant = True
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(layer(q, k, v), expected)
    assert seen == [1]
