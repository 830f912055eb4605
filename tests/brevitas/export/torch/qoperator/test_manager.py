"""The target of PyTorch's quantized operators: saved, loaded, run, compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import TorchQOpManager, export_torch_qop
from brevitas.export.common.spec import ExportError
from brevitas.nn import (
    QuantConv1d,
    QuantConv2d,
    QuantConv3d,
    QuantConvTranspose1d,
    QuantIdentity,
    QuantLinear,
    QuantReLU,
)
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int16Bias,
    Int32Bias,
    ShiftedUint8ActPerTensorFloat,
    ShiftedUint8WeightPerChannelFloat,
    Uint8ActPerTensorFloat,
)
from integer_networks import Block

pytestmark = [
    # 2026-11: PyTorch deprecates TorchScript and quantized tensors, which this target writes.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
]

SIGNED: dict[str, Any] = {
    "input_quant": Int8ActPerTensorFloat,
    "output_quant": Int8ActPerTensorFloat,
    "weight_bit_width": 7,
}
SHIFTED: dict[str, Any] = {
    "input_quant": ShiftedUint8ActPerTensorFloat,
    "output_quant": ShiftedUint8ActPerTensorFloat,
    "weight_bit_width": 7,
}


def saved(model: nn.Module, x: Tensor, path: Path) -> torch.jit.ScriptModule:
    """Collect scales, export, and load the file."""
    with torch.no_grad():
        model.train()(x)
    export_torch_qop(model.eval(), x, path)
    return torch.jit.load(path)


def called(module: torch.jit.ScriptModule) -> set[str]:
    """Name the operators of a module and of those inside of it."""
    graphs: Any = [getattr(m, "inlined_graph", None) for m in module.modules()]
    return {node.kind() for graph in graphs if graph is not None for node in graph.nodes()}


PER_CHANNEL: dict[str, Any] = {"weight_scaling_per_output_channel": True}

LAYERS = [
    (QuantConv1d(4, 6, 3, stride=2, padding=1, bias_quant=Int32Bias, **SIGNED), (2, 4, 16)),
    (QuantConv1d(4, 4, 3, groups=4, dilation=2, padding="same", **SHIFTED), (2, 4, 16)),
    (QuantConv1d(4, 4, 4, stride=2, padding="same", bias=False, **SHIFTED), (2, 4, 17)),
    (
        QuantConv2d(4, 8, 3, stride=(2, 1), padding=(1, 0), groups=2, **PER_CHANNEL, **SHIFTED),
        (2, 4, 8, 8),
    ),
    (QuantConv2d(4, 8, 4, padding="same", bias_quant=Int32Bias, **SIGNED), (2, 4, 8, 8)),
    (QuantConv2d(4, 8, 3, padding=1, padding_mode="reflect", **SIGNED), (2, 4, 8, 8)),
    (QuantConv2d(4, 8, 3, padding=1, padding_mode="circular", **SIGNED), (2, 4, 8, 8)),
    (QuantConv2d(4, 8, 3, weight_quant=ShiftedUint8WeightPerChannelFloat, **SIGNED), (2, 4, 8, 8)),
    (
        QuantConv2d(4, 8, 3, **(SIGNED | {"output_quant": Uint8ActPerTensorFloat})),
        (2, 4, 8, 8),
    ),
    (QuantConv3d(2, 4, 3, padding=1, stride=2, **PER_CHANNEL, **SHIFTED), (2, 2, 5, 5, 5)),
    (QuantLinear(6, 4, bias_quant=Int32Bias, **SIGNED), (6,)),
    (QuantLinear(6, 4, bias=False, **PER_CHANNEL, **SHIFTED), (5, 6)),
    (QuantLinear(6, 4, bias_quant=Int32Bias, **PER_CHANNEL, **SHIFTED), (2, 3, 5, 6)),
]


# 2026-11: PyTorch says so of padding="same" with even kernels, in the model itself.
@pytest.mark.filterwarnings("ignore:.*zero-padded copy of the input:UserWarning")
@pytest.mark.parametrize("layer, shape", LAYERS)
def test_layers(layer: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    loaded = saved(layer, torch.randn(shape), tmp_path / "layer.pt")
    kind = "linear" if isinstance(layer, QuantLinear) else f"conv{len(layer.kernel_size)}d"
    assert f"quantized::{kind}" in called(loaded)
    x = 1.3 * torch.randn(shape)
    difference = ((loaded(x) - layer(x)) / layer.output_quant.scale()).abs()
    # One step, and a relative rounding of the dequantized value; a bias in floating point is
    # rounded to the accumulator's steps, so that more values cross an edge.
    assert difference.max() < 1.01
    assert (difference > 0.5).float().mean() < 0.05


def test_the_documented_example(tmp_path: Path) -> None:
    layer = QuantConv1d(2, 4, 3, bias=True, bias_quant=Int16Bias, **SHIFTED)
    x = torch.randn(1, 2, 5)
    layer(x)
    path = tmp_path / "conv.pt"
    traced = export_torch_qop(layer, input_t=x, export_path=path)
    layer.eval()
    torch.testing.assert_close(torch.jit.load(path)(x), traced(x), rtol=0, atol=0)
    difference = ((traced(x) - layer(x)) / layer.output_quant.scale()).abs()
    assert difference.max() < 1.01


def test_the_file_needs_nothing_of_this_library(tmp_path: Path) -> None:
    layer = QuantLinear(3, 2, **SHIFTED)
    saved(layer, torch.randn(4, 3), tmp_path / "layer.pt")
    program = (
        "import sys, torch; sys.modules['brevitas'] = None; "
        "print(torch.jit.load(sys.argv[1])(torch.zeros(5, 3)).shape)"
    )
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "layer.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([5, 2])"


class Flat(Block):
    """The same, flattened by a size that was read off the batch."""

    def flatten(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1)


def test_a_network_takes_other_batches(tmp_path: Path) -> None:
    model = Flat(**SIGNED)
    loaded = saved(model, torch.randn(4, 3, 8, 8), tmp_path / "block.pt")
    assert {"quantized::conv2d", "quantized::linear", "quantized::add"} <= called(loaded)
    x = torch.randn(7, 3, 8, 8)
    difference = ((loaded(x) - model(x)) / model.head.output_quant.scale()).abs()
    # A step in an early layer may move the last one by more than one.
    assert difference.max() < 2.01 and (difference > 0.5).float().mean() < 0.1


def test_two_quantizers_behind_one_layer(tmp_path: Path) -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = QuantLinear(4, 4, bias=False, input_quant=Int8ActPerTensorFloat)
            self.fine, self.coarse = QuantIdentity(), QuantReLU(bit_width=3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.layer(x)
            return torch.cat([self.fine(y), self.coarse(y)])

    model = Fork()
    with pytest.warns(UserWarning, match="weight_bit_width=7"):
        loaded = saved(model, torch.randn(16, 4), tmp_path / "fork.pt")
    x = torch.randn(16, 4)
    difference = (loaded(x) - model(x)).abs()
    assert difference[:16].max() < 1.01 * model.fine.act_quant.scale()
    assert difference[16:].max() < 1.01 * model.coarse.act_quant.scale()


def test_full_ranges_are_warned_about() -> None:
    layer, x = QuantLinear(4, 4, **(SIGNED | {"weight_bit_width": 8})), torch.randn(2, 4)
    layer(x)
    with pytest.warns(UserWarning, match="weight_bit_width=7. Layers: QuantLinear"):
        export_torch_qop(layer, x)


@pytest.mark.parametrize(
    "model, message",
    [
        (
            nn.Sequential(QuantIdentity(), QuantConv1d(2, 2, 1)),
            "leaves the model.*output_quant=Int8ActPerTensorFloat.*export_torch_qcdq. Layer: 1$",
        ),
        (
            nn.Sequential(QuantIdentity(), QuantConv1d(2, 2, 1), nn.Sigmoid()),
            "read by sigmoid.*Layer: 1$",
        ),
        (
            QuantConv1d(2, 2, 1, output_quant=Int8ActPerTensorFloat),
            "input is not quantized.*input_quant.*Layer: QuantConv1d$",
        ),
        (nn.Sequential(QuantConv1d(2, 2, 1, weight_quant=None)), "weight_quant=None.*Layer: 0$"),
        (
            nn.Sequential(QuantIdentity(), QuantConvTranspose1d(2, 2, 1)),
            "transposed.*export_torch_qcdq. Layer: 1$",
        ),
    ],
)
def test_what_has_no_quantized_operator_names_layer_and_remedy(
    model: nn.Module, message: str, tmp_path: Path
) -> None:
    x = torch.randn(1, 2, 4)
    with torch.no_grad():
        model(x)
    path = tmp_path / "model.pt"
    with pytest.raises(ExportError, match=message):
        export_torch_qop(model.eval(), x, path)
    assert not path.exists()


def test_models_elsewhere_are_refused() -> None:
    with pytest.raises(ExportError, match="model.cpu"):
        export_torch_qop(nn.Linear(2, 2, device="meta"), torch.zeros(1, 2))


def test_the_model_is_afterwards_what_it_was() -> None:
    layer = QuantLinear(3, 2, **SHIFTED)
    x = torch.randn(4, 3)
    layer(x)
    expected = layer.eval()(x)
    layer.train()
    export_torch_qop(layer, x)
    assert layer.training and layer.weight_quant.export_handler is None
    assert torch.equal(layer.eval()(x), expected)
    assert layer.weight.requires_grad
    assert export_torch_qop == TorchQOpManager.export
