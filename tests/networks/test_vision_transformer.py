"""A vision transformer of quantized layers learns digits as well as its float twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat
from networks.digits import accuracy, quantized_from, train

# Points of accuracy that a quantized network may lie below its float twin.
ALLOWED = 1.5
PATCH, WIDTH, HEADS, HIDDEN, BLOCKS = 2, 32, 4, 64, 2
TOKENS = (8 // PATCH) ** 2


@dataclass(frozen=True)
class Layers:
    """What differs between the float and the quantized network."""

    linear: Callable[..., nn.Module] = nn.Linear
    relu: Callable[..., nn.Module] = nn.ReLU
    attention: Callable[..., nn.Module] = partial(nn.MultiheadAttention, batch_first=True)
    classifier: Callable[..., nn.Module] = nn.Linear


def quantized(bits: int) -> Layers:
    """Weights and activations of so many bits; 8 bits where images enter and classes leave."""
    weights = {"weight_quant": Int8WeightPerChannelFloat, "weight_bit_width": bits}
    inputs = {"input_quant": Int8ActPerTensorFloat, "input_bit_width": bits}
    projections = {"in_proj": weights, "out_proj": weights}
    attention = {f"{name}_{key}": v for name, d in projections.items() for key, v in d.items()}
    scores = ("q_scaled", "k_transposed", "v", "attn_output_weights", "out_proj_input")
    attention |= {f"{name}_bit_width": bits for name in (*scores, "in_proj_input")}
    return Layers(
        linear=partial(qnn.QuantLinear, **weights, **inputs),
        relu=partial(qnn.QuantReLU, bit_width=bits),
        attention=partial(qnn.QuantMultiheadAttention, batch_first=True, **attention),
        classifier=partial(qnn.QuantLinear, **{**weights, "weight_bit_width": 8}),
    )


class Block(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = layers.attention(WIDTH, HEADS)
        self.up, self.relu = layers.linear(WIDTH, HIDDEN), layers.relu()
        self.down = layers.linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.down(self.relu(self.up(self.norm2(x))))


class VisionTransformer(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        # Without an input quantizer in the float twin; images are 16 levels already.
        self.embedding = layers.classifier(PATCH * PATCH, WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.blocks = nn.Sequential(*[Block(layers) for _ in range(BLOCKS)])
        self.norm = nn.LayerNorm(WIDTH)
        self.classifier = layers.classifier(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
        tokens = patches.reshape(len(x), TOKENS, PATCH * PATCH)
        y = self.blocks(self.embedding(tokens) + self.position)
        return self.classifier(self.norm(y).mean(1))


@pytest.fixture(scope="module")
def float_twin() -> nn.Module:
    torch.manual_seed(0)
    return train(VisionTransformer(Layers()), epochs=40, learning_rate=0.004)


@pytest.mark.parametrize("bits", [8, 4])
def test_accuracy_is_that_of_the_float_twin(float_twin: nn.Module, bits: int) -> None:
    model = quantized_from(lambda: VisionTransformer(quantized(bits)), float_twin)
    train(model, epochs=12, learning_rate=0.002)
    reference, found = accuracy(float_twin), accuracy(model)
    assert reference > 95
    assert found >= reference - ALLOWED, (found, reference)
    weights = [m.quant_weight() for m in model.blocks.modules() if isinstance(m, qnn.QuantLinear)]
    assert weights and all(w.bit_width == bits and w.is_valid for w in weights)
