"""A network of which every part has an integer operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn import QuantConv2d, QuantIdentity, QuantLinear, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias


class Block(nn.Module):
    """Pooling in front of the activation, a short width, a residual sum, a concatenation."""

    def __init__(self, **head: Any) -> None:
        super().__init__()
        self.input = QuantIdentity(return_quant_tensor=True)
        self.first = QuantConv2d(3, 4, 3, padding=1, weight_bit_width=4, bias_quant=Int32Bias)
        self.pool = nn.MaxPool2d(2, padding=1)
        self.act = QuantReLU(bit_width=4, return_quant_tensor=True)
        self.second = QuantConv2d(
            4, 4, 3, padding=1, bias_quant=Int32Bias, output_quant=Int8ActPerTensorFloat
        )
        self.sum = QuantIdentity(return_quant_tensor=True)
        self.head = QuantLinear(2 * 4 * 25, 3, bias_quant=Int32Bias, **head)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.pool(self.first(self.input(x))))
        x = self.sum(x.value + self.second(x))
        x = torch.cat([x.value, x.value], 1)
        return self.head(self.flatten(torch.relu(x)))

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)
