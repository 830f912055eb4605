"""One call of multi-head attention: rows that are added, fixed keys, which kernel computes."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import brevitas.nn as qnn
from brevitas.nn import _attention_call
from brevitas.nn._attention_call import AttentionCall, attend_heads
from brevitas.nn._attention_heads import HeadLayout

FLOAT = qnn.QuantScaledDotProductAttention(
    q_scaled_quant=None, k_transposed_quant=None, attn_output_weights_quant=None, v_quant=None
)
LAYOUT = HeadLayout(2, True, False)


def call(layout=LAYOUT, padding=None, mask=None, weights=True, average=False, **changes):
    return AttentionCall(layout, padding, mask, weights, average, 0.0, **changes)


def projected(queries=3, keys=4):
    torch.manual_seed(0)
    return tuple(torch.randn(size, 2, 8) for size in (queries, keys, keys))


@pytest.fixture
def kernel(monkeypatch):
    """Record the calls of the fused kernel."""
    calls = []

    def recorded(*args, **kwargs):
        calls.append((args, kwargs))
        return F.scaled_dot_product_attention(*args, **kwargs)

    functions = SimpleNamespace(scaled_dot_product_attention=recorded)
    monkeypatch.setattr(_attention_call, "F", functions)
    return calls


def test_the_fused_kernel_computes_what_is_not_quantized(kernel):
    output, weights = attend_heads(FLOAT, call(weights=False), projected())
    stepwise, _ = attend_heads(FLOAT, call(), projected())
    assert weights is None
    assert len(kernel) == 1
    torch.testing.assert_close(output, stepwise)


def test_the_fused_kernel_is_told_that_a_mask_is_causal(kernel):
    inputs = projected(4, 4)
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1)
    output, _ = attend_heads(FLOAT, call(weights=False, is_causal=True, mask=causal), inputs)
    (args, kwargs), *_ = kernel
    assert args[3] is None and kwargs["is_causal"]
    expected, _ = attend_heads(FLOAT, call(mask=causal), inputs)
    torch.testing.assert_close(output, expected)
    padding = torch.tensor([[False, False, False, True], [False] * 4])
    changes = {"weights": False, "is_causal": True, "padding": padding}
    output, _ = attend_heads(FLOAT, call(**changes), inputs)
    expected, _ = attend_heads(FLOAT, call(padding=padding, mask=causal), inputs)
    torch.testing.assert_close(output, expected)


def test_quantized_attention_does_not_use_the_fused_kernel(kernel):
    layer = qnn.QuantScaledDotProductAttention()
    _, weights = attend_heads(layer, call(weights=False), projected())
    assert weights is None and kernel == []


@pytest.mark.parametrize("need_weights", [False, True])
def test_a_row_of_zeros_takes_weight_and_gives_nothing(need_weights):
    q, k, v = projected()
    asked = call(add_zero_attn=True, weights=need_weights)
    output, weights = attend_heads(FLOAT, asked, (q, 0 * k, v))
    # All scores are 0: each of 4 keys and the row of zeros gets 1/5.
    torch.testing.assert_close(output, v.sum(0, keepdim=True).expand(3, -1, -1) / 5)
    if need_weights:
        torch.testing.assert_close(weights, torch.full((2, 2, 3, 5), 0.2))


@pytest.mark.parametrize("batch_first", [False, True])
def test_a_learned_row_is_the_same_for_all_sequences(batch_first):
    inputs = projected()
    bias_k, bias_v = torch.randn(1, 1, 8), torch.randn(1, 1, 8)
    layout = HeadLayout(2, True, batch_first)
    given = tuple(x.transpose(0, 1) if batch_first else x for x in inputs)
    output, _ = attend_heads(FLOAT, call(layout, bias_k=bias_k, bias_v=bias_v), given)
    q, k, v = inputs
    longer = (q, torch.cat([k, bias_k.expand(1, 2, 8)]), torch.cat([v, bias_v.expand(1, 2, 8)]))
    expected, _ = attend_heads(FLOAT, call(), longer)
    torch.testing.assert_close(output.transpose(0, 1) if batch_first else output, expected)


def test_fixed_keys_and_values_replace_the_projected_ones():
    q, k, v = projected()
    split = [LAYOUT.split(x).flatten(0, 1) for x in (k, v)]
    fixed = call(static_k=split[0], static_v=split[1], add_zero_attn=True)
    output, _ = attend_heads(FLOAT, fixed, (q, k[:1] * 3, v[:1] * 5))
    expected, _ = attend_heads(FLOAT, call(add_zero_attn=True), (q, k, v))
    assert torch.equal(output, expected)


def test_weights_are_averaged_on_request():
    _, each = attend_heads(FLOAT, call(), projected())
    _, mean = attend_heads(FLOAT, call(average=True), projected())
    assert each.shape == (2, 2, 3, 4)
    torch.testing.assert_close(mean, each.mean(1))
    inputs = tuple(x[:, 0] for x in projected())
    _, unbatched = attend_heads(FLOAT, call(HeadLayout(2, False, False)), inputs)
    torch.testing.assert_close(unbatched, each[0])
