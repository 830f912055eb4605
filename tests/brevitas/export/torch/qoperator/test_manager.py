"""The target of PyTorch's quantized operators: saved, loaded, run, compared."""

from __future__ import annotations

import io
import math
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


class Sliced(nn.Module):
    """Reads sizes: for a slice, for arithmetic that TorchScript records, and in a branch."""

    def __init__(self, **sizes: Any) -> None:
        super().__init__()
        self.layer = QuantLinear(4, 4, bias=False, **SIGNED)
        self.position = nn.Parameter(torch.randn(9, 4))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 5:
            x = -x
        x = x + self.position[: x.shape[1]]
        return self.layer(x[:, : x.shape[1] // 2] / x.shape[1]).flip(0)


def test_a_file_takes_the_sizes_that_it_computes_right_and_no_others(tmp_path: Path) -> None:
    model = Sliced()
    loaded = saved(model, torch.randn(1, 6, 4), tmp_path / "model.pt")
    for shape in ((1, 6, 4), (4, 8, 4), (5, 2, 4)):
        x = torch.randn(shape)
        difference = ((loaded(x) - model(x)) / model.layer.output_quant.scale()).abs()
        assert difference.max() < 1.01
    for shape in ((6, 6, 4), (1, 6, 3), (6, 4)):
        with pytest.raises(torch.jit.Error, match=r"input 0 of sizes \[0 to 5, any, 4\]"):
            loaded(torch.randn(shape))


def test_a_size_that_is_a_constant_of_the_file_is_fixed(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = QuantLinear(4, 4, bias=False, **SIGNED)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) / math.sqrt(x.shape[0])

    loaded = saved(Scaled(), torch.randn(3, 4), tmp_path / "model.pt")
    with pytest.raises(torch.jit.Error, match=r"sizes \[3, 4\]"):
        loaded(torch.randn(2, 4))


class Inplace(nn.Module):
    """Changes values in place that something else reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.input = QuantIdentity()
        self.first = QuantConv1d(3, 3, 1, bias=False, **SIGNED)
        self.last = QuantConv1d(3, 3, 1, bias=False, **SIGNED)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.input(x)
        y = self.first(x)
        x += y
        nn.functional.relu(y, inplace=True)
        return self.last(x), y


def test_changes_in_place_reach_every_reader(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 5)
    model = Inplace()
    loaded = saved(model, x, tmp_path / "model.pt")
    scales = (model.last.output_quant.scale(), model.first.output_quant.scale())
    for result, expected, scale in zip(loaded(x), model(x), scales, strict=True):
        # A step in the first layer may move the last one by more than one.
        assert (result - expected).abs().max() < 2.01 * scale


class Many(nn.Module):
    """Any number of inputs, and outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = QuantLinear(3, 2, bias=False, **SIGNED)

    def forward(self, *inputs: Tensor, scale: float = 2.0) -> dict[str, Tensor]:
        return {str(index): self.layer(x) * scale for index, x in enumerate(inputs)}


def test_any_number_of_inputs_and_outputs_by_name(tmp_path: Path) -> None:
    inputs = (torch.randn(4, 3), torch.randn(2, 3))
    model = Many()
    model(*inputs)
    export_torch_qop(model.eval(), inputs, tmp_path / "model.pt")
    result, expected = torch.jit.load(tmp_path / "model.pt")(*inputs), model(*inputs)
    assert list(result) == list(expected)
    for name, value in expected.items():
        assert (result[name] - value).abs().max() < 2.01 * model.layer.output_quant.scale()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: (x, None), r"\(Tensor, None\).*return a tuple"),
        (lambda x: {"a": x, "b": [x]}, r"\{'a': Tensor, 'b': \[Tensor\]\}"),
        (lambda x: (x, 3), r"\(Tensor, int\)"),
    ],
)
def test_outputs_that_torchscript_has_no_type_for(function: Any, message: str) -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return function(x)

    with pytest.raises(ExportError, match=f"the model returns {message}.*Layer: Model$"):
        export_torch_qop(Model(), torch.ones(1))


def test_a_constant_may_be_an_output() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.arange(3.0))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, self.mask

    model = Model()
    result = export_torch_qop(model, torch.ones(1))(torch.zeros(1))[1]
    assert torch.equal(result, model.mask)


def test_a_compiled_model_is_exported_as_written() -> None:
    model = nn.Sequential(QuantLinear(3, 2, **SHIFTED))
    x = torch.randn(4, 3)
    model(x)
    compiled: Any = torch.compile(model.eval())
    traced = export_torch_qop(compiled, x)
    assert (traced(x) - model(x)).abs().max() < 1.01 * model[0].output_quant.scale()


def test_a_file_that_is_open() -> None:
    stream = io.BytesIO()
    traced = export_torch_qop(nn.ReLU(), torch.ones(2), stream)
    stream.seek(0)
    x = torch.randn(3)
    assert torch.equal(torch.jit.load(stream)(x), traced(x))


def test_models_elsewhere_are_refused() -> None:
    for model in (nn.Linear(2, 2, device="meta"), nn.BatchNorm1d(2, affine=False).to("meta")):
        with pytest.raises(ExportError, match="model.cpu"):
            export_torch_qop(model, torch.zeros(1, 2))


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
