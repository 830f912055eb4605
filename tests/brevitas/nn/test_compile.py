"""Quantized models under `torch.compile`, `torch.export` and activation checkpointing.

Everything is compared with the eager model, through the end of the statistics phase.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int16Bias, ShiftedUint8ActPerTensorFloat

STEPS = 2


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = qnn.QuantLinear(
            4,
            3,
            bias_quant=Int16Bias,
            input_quant=Int8ActPerTensorFloat,
            input_collect_stats_steps=STEPS,
            weight_bit_width=4,
            return_quant_tensor=True,
        )
        self.relu = qnn.QuantReLU(bit_width=4, collect_stats_steps=STEPS)

    def forward(self, x):
        return self.relu(self.linear(x))


class Residual(nn.Module):
    """Two branches with one shared quantizer, quant tensors between layers."""

    def __init__(self):
        super().__init__()
        steps = {"collect_stats_steps": STEPS, "return_quant_tensor": True}
        self.input = qnn.QuantIdentity(**steps)
        self.conv1 = qnn.QuantConv2d(
            2, 4, 3, padding=1, weight_bit_width=4, bias_quant=Int16Bias, return_quant_tensor=True
        )
        self.relu = qnn.QuantReLU(bit_width=4, **steps)
        self.conv2 = qnn.QuantConv2d(4, 4, 3, padding=1, weight_scaling_per_output_channel=True)
        self.aligned = qnn.QuantIdentity(act_quant=self.relu.act_quant, return_quant_tensor=True)
        self.linear = qnn.QuantLinear(
            4, 3, input_quant=ShiftedUint8ActPerTensorFloat, input_collect_stats_steps=STEPS
        )

    def forward(self, x):
        x = self.relu(self.conv1(self.input(x)))
        return self.linear((x + self.aligned(self.conv2(x))).value.mean((2, 3)))


SHAPES = {Small: (5, 4), Residual: (2, 2, 6, 6)}


def data(kind, step):
    return torch.randn(SHAPES[kind], generator=torch.Generator().manual_seed(step))


def build(kind):
    torch.manual_seed(0)
    return kind()


def train(model, run, kind):
    """Outputs, gradients and learned scales of a few steps through the end of the phase."""
    results = []
    for step in range(STEPS + 2):
        model.zero_grad()
        output = run(data(kind, step))
        output.square().sum().backward()
        gradients = {key: p.grad.clone() for key, p in model.named_parameters()}
        results.append((output.detach(), gradients))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(1e-3 * parameter.grad)
    model.eval()
    results.append((run(data(kind, 0)).detach(), {}))
    return results


def assert_equal_runs(ours, expected):
    for (output, gradients), (output_expected, gradients_expected) in zip(
        ours, expected, strict=True
    ):
        torch.testing.assert_close(output, output_expected)
        assert gradients.keys() == gradients_expected.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(gradient, gradients_expected[key], msg=key)


@pytest.mark.parametrize("kind", [Small, pytest.param(Residual, marks=pytest.mark.long)])
def test_compiled_training_and_evaluation(kind):
    expected_model, model = build(kind), build(kind)
    expected = train(expected_model, expected_model, kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_equal_runs(train(model, compiled, kind), expected)


@pytest.mark.parametrize("strict", [False, pytest.param(True, marks=pytest.mark.long)])
def test_exported_evaluation(strict):
    model = build(Residual)
    train(model, model, Residual)
    x = data(Residual, 5)
    exported = torch.export.export(model.eval(), (x,), strict=strict)
    assert torch.equal(exported.module()(x), model(x))


@pytest.mark.parametrize("kind", [Small, Residual])
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_across_the_end_of_the_phase(kind, reentrant):
    """The recomputation in the backward pass repeats the phase of its forward pass."""
    expected_model, model = build(kind), build(kind)

    def run(x):
        return checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)

    expected = train(expected_model, expected_model, kind)
    assert_equal_runs(train(model, run, kind), expected)
    counters = [m.counter for m in model.modules() if hasattr(m, "collect_stats_steps")]
    # The shared quantizer of the residual model sees two tensors a step.
    assert counters and all(counter == STEPS for counter in counters)


def test_autocast_trains_and_evaluates():
    model = build(Residual)
    for step in range(STEPS + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(data(Residual, step)).float().square().sum()
        loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    exact = copy.deepcopy(model).eval()(data(Residual, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.eval()(data(Residual, 1))
    # bfloat16 keeps 8 bits: sums of a few terms are off by a few 1/256 of the largest.
    assert float((output - exact).detach().abs().max()) < 0.1 * float(exact.detach().abs().max())
