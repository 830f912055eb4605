"""The TorchScript target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from brevitas.export import export_torch_qcdq
from brevitas.export.common.spec import ExportError
from brevitas.nn import (
    QuantConv2d,
    QuantConvTranspose1d,
    QuantIdentity,
    QuantLinear,
    QuantReLU,
    TruncAdaptiveAvgPool2d,
)
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant import Int8ActPerTensorFloat, Int32Bias

# 2026-11: PyTorch deprecates TorchScript, which this target writes.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def ready(model: nn.Module, *inputs: Any) -> nn.Module:
    """Let a model collect its scales."""
    with torch.no_grad():
        model.train()(*inputs)
    return model.eval()


class Dynamic(nn.Module):
    """Takes its scale from the input."""

    def __init__(self, int_quant: nn.Module) -> None:
        super().__init__()
        self.int_quant = int_quant

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        scale, zero_point, bit_width = x.abs().max() / 127, torch.zeros(()), torch.tensor(8.0)
        value = self.int_quant(scale, zero_point, bit_width, x)
        return value, scale, zero_point, bit_width


class Applied(nn.Module):
    """A quantized input, and what a function makes of it."""

    def __init__(self, function: Callable[[Tensor], Any], quantizer: nn.Module) -> None:
        super().__init__()
        self.function, self.quantizer = function, quantizer

    def forward(self, x: Tensor) -> Any:
        return self.function(self.quantizer(x))


def test_the_trace_computes_what_the_model_does(tmp_path: Path) -> None:
    model = nn.Sequential(
        QuantIdentity(return_quant_tensor=True),
        QuantConv2d(3, 4, 3, bias_quant=Int32Bias, weight_bit_width=4),
        QuantReLU(bit_width=4),
    )
    ready(model, torch.randn(1, 3, 6, 6))
    path = tmp_path / "model.pt"
    traced = export_torch_qcdq(model, torch.randn(1, 3, 6, 6), path)
    # Another batch and another image size: neither is part of the file.
    x = torch.randn(3, 3, 9, 7)
    assert torch.equal(traced(x), model(x))
    assert torch.equal(torch.jit.load(path)(x), model(x))
    assert model[1].weight_quant.export_handler is None


MODELS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "transposed": (
        nn.Sequential(QuantIdentity(), QuantConvTranspose1d(3, 2, 3, stride=2)),
        (2, 3, 5),
    ),
    "16 bits": (nn.Sequential(QuantIdentity(bit_width=16), QuantLinear(5, 2)), (2, 5)),
    "truncation": (
        nn.Sequential(
            QuantIdentity(bit_width=4, return_quant_tensor=True),
            TruncAdaptiveAvgPool2d(2, bit_width=4),
        ),
        (2, 3, 4, 4),
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("keeps_float", [False, True], ids=["integers", "float weights"])
def test_kinds_of_quantizers(name: str, keeps_float: bool) -> None:
    model, shape = MODELS[name]
    ready(model, torch.randn(shape))
    traced = export_torch_qcdq(model, torch.randn(shape), export_weight_q_node=keeps_float)
    x = 2 * torch.randn(5, *shape[1:])
    expected = model(x)
    torch.testing.assert_close(traced(x), getattr(expected, "value", expected))


def test_a_scale_is_computed_anew_for_each_input() -> None:
    class DynamicAct(Int8ActPerTensorFloat):
        proxy_class = DynamicActQuantProxyFromInjector
        narrow_range = True

    model = QuantIdentity(act_quant=DynamicAct).eval()
    quantizer = model.act_quant.fused_activation_quant_proxy
    quantizer.tensor_quant = Dynamic(quantizer.tensor_quant.int_quant)
    traced = export_torch_qcdq(model, torch.randn(2, 4))
    for factor in (0.1, 10.0):
        x = factor * torch.randn(3, 4)
        torch.testing.assert_close(traced(x), model(x))


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (lambda q: q if q.shape[0] > 1 else 2 * q, (1, 6)),
        (lambda q: torch.stack([q[i] for i in range(q.shape[0])]).sum(0), (4, 6)),
        (lambda q: torch.roll(q, q.shape[1] // 2, 1), (2, 8)),
    ],
    ids=["branch", "loop", "number"],
)
def test_sizes_that_the_file_holds_are_checked_where_it_runs(
    function: Callable[[Tensor], Tensor], other: tuple[int, ...]
) -> None:
    model = ready(Applied(function, QuantIdentity()), torch.randn(2, 6))
    traced = export_torch_qcdq(model, torch.randn(2, 6))
    x = torch.randn(2, 6)
    assert torch.equal(traced(x), model(x))
    with pytest.raises(Exception, match="this file was written for input 0 of sizes"):
        traced(torch.randn(other))


def test_a_branch_on_values_is_refused() -> None:
    model = ready(Applied(lambda q: q if q.sum() > 0 else -q, QuantIdentity()), torch.ones(2))
    with pytest.raises(ExportError, match="tracing failed"):
        export_torch_qcdq(model, torch.ones(2))


def test_outputs_are_plain_values() -> None:
    quantizer = QuantIdentity(return_quant_tensor=True)
    model = ready(Applied(lambda q: (q, {"half": q * 0.5}), quantizer), torch.randn(8))
    x = torch.randn(5)
    value, rest = export_torch_qcdq(model, torch.randn(8))(x)
    assert torch.equal(value, model(x)[0].value)
    torch.testing.assert_close(rest["half"], value / 2)
    # And inputs: of a QuantTensor, its value.
    again = export_torch_qcdq(nn.Sequential(nn.Flatten(0)), (model(x)[0],))
    assert torch.equal(again(value), value)


def test_the_file_is_one_of_its_own() -> None:
    model = ready(nn.Sequential(QuantIdentity(), nn.BatchNorm1d(3)), torch.randn(4, 3))
    x = torch.randn(4, 3)
    traced = export_torch_qcdq(model, x)
    expected = traced(x)
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(traced(x), expected)


def test_what_failed_leaves_no_trace_on_the_example() -> None:
    model = ready(Applied(lambda q: q if q.sum() > 0 else -q, QuantIdentity()), torch.ones(2))
    x = torch.ones(2)
    with pytest.raises(ExportError):
        export_torch_qcdq(model, x)
    assert not vars(x)
