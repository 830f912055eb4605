"""Running a traced model on quantized tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_torch_qop
from brevitas.export.common.spec import ExportError
from brevitas.nn import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantIdentity,
    QuantLinear,
    QuantReLU,
)
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


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def clamps(x: Tensor) -> Tensor:
    return x.clamp(min=-0.2).clamp_(max=0.4).clamp_min(-0.1).clamp(-0.1, 0.3)


def dealt_out(x: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=1)
    first, *_ = torch.stack([right, left]).unbind(0)
    return first


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
    "clamps of functions": (
        nn.Sequential(QuantConv1d(2, 4, 3, **INPUT), Applied(clamps), QuantIdentity()),
        (2, 2, 6),
    ),
    "dealt out": (
        nn.Sequential(
            QuantIdentity(),
            Applied(dealt_out),
            QuantConv1d(2, 4, 3, bias=False, weight_bit_width=6),
            QuantIdentity(),
        ),
        (2, 4, 6),
    ),
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


def test_zeros_around_values_are_clamped_too() -> None:
    model = nn.Sequential(
        QuantConv1d(2, 4, 3, **INPUT), nn.ZeroPad1d(1), nn.Hardtanh(0.1, 0.3), QuantIdentity()
    )
    model(torch.randn(2, 2, 6))
    with pytest.raises(ExportError, match="read by hardtanh before it is quantized.*Layer: 0$"):
        export_torch_qop(model.eval(), torch.randn(2, 2, 6))


class ConstantScale(Int8ActPerTensorFloat):
    """Steps of 1/16, on which limits of clamps lie exactly."""

    scaling_impl_type = "const"
    restrict_scaling_type = "fp"
    scaling_init = 8.0


BORDER, CLAMP = nn.ZeroPad1d(1), nn.Hardtanh(0.5, 1.0)


@pytest.mark.parametrize(
    "layers",
    [
        (CLAMP, BORDER, CLAMP),
        (QuantConv1d(2, 4, 3, **INPUT), CLAMP, BORDER, QuantIdentity(ConstantScale), CLAMP),
        (QuantConv1d(2, 4, 3, **INPUT), CLAMP, QuantIdentity(ConstantScale), BORDER, CLAMP),
    ],
    ids=["values", "a layer", "a quantized layer"],
)
def test_zeros_around_clamped_values_are_clamped_again(layers: tuple[nn.Module, ...]) -> None:
    model = nn.Sequential(QuantIdentity(ConstantScale), *layers)
    x = torch.randn(2, 2, 6)
    model(x)
    traced = export_torch_qop(model.eval(), x)
    border = traced(x)[..., [0, -1]]
    assert torch.equal(border, torch.full_like(border, 0.5))
    assert torch.equal(model(x)[..., [0, -1]], border)


class Reweighted(nn.Module):
    """A quantized weight that something else than a layer of this library reads."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = QuantLinear(4, 4, bias=False, weight_bit_width=6)
        self.quant = QuantIdentity()
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 0.0]))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.quant_weight()
        return self.quant(self.function(self.quant(x), weight * self.mask))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x, weight: nn.functional.linear(x, weight - weight.mean()), "linear"),
        (lambda x, weight: x @ weight, "matmul"),
        (lambda x, weight: torch.einsum("bi,io->bo", x, weight), "einsum"),
    ],
)
def test_a_layer_never_computes_with_a_quantized_weight_in_real_values(
    function: Callable[[Tensor, Tensor], Tensor], name: str
) -> None:
    model = Reweighted(function)
    model(torch.randn(3, 4))
    with pytest.raises(ExportError, match=f"^{name}: its weight is quantized.*Layer: layer$"):
        export_torch_qop(model.eval(), torch.randn(3, 4))


def test_a_weight_may_be_read_where_no_layer_does() -> None:
    model = Reweighted(lambda x, weight: x + weight.sum(0))
    x = torch.randn(3, 4)
    model(x)
    traced = export_torch_qop(model.eval(), x)
    assert (traced(x) - model(x)).abs().max() < 1.01 * model.quant.act_quant.scale()


def test_a_bias_that_depends_on_an_input_is_refused() -> None:
    model = Reweighted(lambda x, weight: x)
    model.function = lambda x, _: nn.functional.linear(x, model.layer.quant_weight(), x.sum(0))
    model(torch.randn(3, 4))
    with pytest.raises(ExportError, match="^linear: its weight is quantized.*Layer: layer$"):
        export_torch_qop(model.eval(), torch.randn(3, 4))
