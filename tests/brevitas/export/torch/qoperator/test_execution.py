"""Running a traced model on quantized tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_torch_qop
from brevitas.nn import QuantConv1d, QuantConv2d, QuantConv3d, QuantIdentity, QuantReLU
from brevitas.quant import Int8ActPerTensorFloat

pytestmark = [
    # 2026-11: PyTorch deprecates TorchScript and quantized tensors, which this target writes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
]

INPUT = {"input_quant": Int8ActPerTensorFloat, "weight_bit_width": 6, "bias": False}


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = QuantIdentity(), QuantIdentity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x * x.transpose(1, 2))


MODELS = {
    "clamps": (
        nn.Sequential(QuantConv2d(2, 4, 3, **INPUT), nn.ReLU6(), QuantIdentity()),
        (2, 2, 6, 6),
    ),
    "hardtanh": (
        nn.Sequential(QuantConv1d(2, 4, 3, **INPUT), nn.Hardtanh(-0.3, 0.2), QuantIdentity()),
        (2, 2, 6),
    ),
    "pool": (
        nn.Sequential(QuantConv1d(2, 4, 3, **INPUT), nn.MaxPool1d(2), QuantReLU(bit_width=5)),
        (2, 2, 8),
    ),
    "pool of volumes": (
        nn.Sequential(QuantConv3d(2, 4, 3, **INPUT), nn.MaxPool3d(2), QuantReLU()),
        (2, 2, 6, 6, 6),
    ),
    "shapes": (
        nn.Sequential(
            QuantConv2d(2, 4, 3, **INPUT), nn.Flatten(2), nn.Dropout(), QuantReLU(), nn.Flatten()
        ),
        (2, 2, 6, 6),
    ),
    "real values": (
        nn.Sequential(
            QuantConv2d(2, 4, 3, **INPUT),
            QuantReLU(),
            nn.AvgPool2d(2),
            nn.Sigmoid(),
            QuantIdentity(),
        ),  # fmt: skip
        (2, 2, 6, 6),
    ),
    "product": (Doubled(), (2, 5, 5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_operators_around_layers(name: str) -> None:
    model, shape = MODELS[name]
    with torch.no_grad():
        model.train()(torch.randn(shape))
    traced = export_torch_qop(model.eval(), torch.randn(shape))
    x = torch.randn(shape)
    quantizer = [m for m in model.modules() if isinstance(m, (QuantIdentity, QuantReLU))][-1]
    # A step, since sums close to the edge between two integers may round either way.
    allowed = 1.01 * quantizer.act_quant.scale()
    assert (traced(x) - model(x)).abs().max() < allowed
