"""Train a small CNN on handwritten digits, quantize it, export it, and run it in other runtimes.

The way of the model: float training -> post-training quantization (calibration and bias
correction) and quantization-aware training (learned scales) -> QCDQ and QONNX files -> ONNX Runtime
and the `qonnx` executor, over the whole test split. Ends with a table, a picture of accuracy
against bits, and a check of what the quantized models are expected to reach.

Run it with `make demo`, or `python examples/digits.py` where `brevitas[export,plot]` and
scikit-learn are installed. It needs no download and writes to `build/digits/`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
from brevitas.inject.enum import ScalingImplType
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int32Bias,
    Uint8ActPerTensorFloat,
)
from digits_report import Result, RuntimeResult, draw_accuracy, print_progress, print_table
from onnx_runtimes import run_onnxruntime, run_qonnx

OUTPUT = Path(__file__).resolve().parent.parent / "build" / "digits"
BATCH_SIZE = 64
# Points of accuracy that a quantized model may lie below the float model.
EXPECTED = {("PTQ", 8): 0.5, ("QAT", 4): 1.5, ("QAT", 2): 5.0}


# The model: one definition, in float or quantized, by what its layers are made from.


@dataclass(frozen=True)
class Layers:
    """The four kinds of layer that differ between the float and the quantized model."""

    input: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    relu: Callable[..., nn.Module]
    classifier: Callable[..., nn.Module]


FLOAT = Layers(input=nn.Identity, conv=nn.Conv2d, relu=nn.ReLU, classifier=nn.Linear)


def quantized(bits: int, **weight_options: object) -> Layers:
    """Layers with weights and activations of `bits` bits, and 8-bit input and output.

    Each layer passes a QuantTensor on, so that the next one knows the scale of its input and
    quantizes its bias in the unit of its accumulator.
    """
    weights = {
        "weight_quant": Int8WeightPerChannelFloat,
        "weight_bit_width": bits,
        "bias_quant": Int32Bias,
        **weight_options,
    }
    return Layers(
        input=partial(
            qnn.QuantIdentity, act_quant=Uint8ActPerTensorFloat, return_quant_tensor=True
        ),
        conv=partial(qnn.QuantConv2d, return_quant_tensor=True, **weights),
        relu=partial(qnn.QuantReLU, bit_width=bits, return_quant_tensor=True),
        classifier=partial(
            qnn.QuantLinear, bias=True, output_quant=Int8ActPerTensorFloat, **weights
        ),
    )


class DigitNet(nn.Module):
    """Three convolutions and a classifier for images of shape [batch, 1, 8, 8]."""

    def __init__(self, layers: Layers = FLOAT) -> None:
        super().__init__()
        self.input = layers.input()
        self.conv1 = layers.conv(1, 16, 3, padding=1)
        self.relu1 = layers.relu()
        self.conv2 = layers.conv(16, 32, 3, padding=1)
        self.relu2 = layers.relu()
        self.conv3 = layers.conv(32, 64, 3)
        self.relu3 = layers.relu()
        self.classifier = layers.classifier(256, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu1(self.conv1(self.input(images)))
        x = F.max_pool2d(self.relu2(self.conv2(x)), 2)
        x = self.relu3(self.conv3(x))
        return self.classifier(torch.flatten(x, 1))


# Data, training, quantization.


@dataclass(frozen=True)
class Digits:
    """Images of shape [n, 1, 8, 8] in [0, 1] and classes of shape [n], in two splits."""

    train_images: Tensor
    train_classes: Tensor
    test_images: Tensor
    test_classes: Tensor


def load_data() -> Digits:
    """Split the 1,797 images that come with scikit-learn: two thirds to train, one to test."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    classes = torch.tensor(digits.target)
    train, test = train_test_split(
        torch.arange(len(classes)).numpy(), test_size=1 / 3, stratify=digits.target, random_state=0
    )
    return Digits(images[train], classes[train], images[test], classes[test])


def train(model: nn.Module, data: Digits, epochs: int, learning_rate: float) -> None:
    """Train a float or a quantized model: nothing here knows which of them it is."""
    steps = epochs * len(data.train_classes.split(BATCH_SIZE))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    model.train()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.randperm(len(data.train_classes)).split(BATCH_SIZE):
            loss = F.cross_entropy(model(data.train_images[batch]), data.train_classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 5 == 0:
            loss_per_image = total / len(data.train_classes)
            print_progress(f"  epoch {epoch:2} of {epochs}, loss {loss_per_image:.4f}")
    model.eval()


def from_float(float_model: nn.Module, layers: Layers) -> nn.Module:
    """Build the quantized model with the float model's weights."""
    model = DigitNet(layers)
    # Not strict: the quantizers' own entries are not in the float model.
    model.load_state_dict(float_model.state_dict(), strict=False)
    return model.eval()


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Collect the range of each activation in float; the scales follow from it."""
    with calibration_mode(model):
        for batch in images.split(BATCH_SIZE):
            model(batch)


@torch.no_grad()
def correct_bias(model: nn.Module, images: Tensor) -> None:
    """Shift each bias by the mean error that the rounded weights bring to its output."""
    with bias_correction_mode(model):
        for batch in images.split(BATCH_SIZE):
            model(batch)


def quantize_after_training(float_model: nn.Module, bits: int, data: Digits) -> nn.Module:
    """Post-training quantization: no gradient, a few seconds, only images are needed."""
    model = from_float(float_model, quantized(bits))
    calibrate(model, data.train_images)
    correct_bias(model, data.train_images)
    return model


def quantize_by_training(float_model: nn.Module, bits: int, data: Digits) -> nn.Module:
    """Quantization-aware training from the float weights, all scales learned with them."""
    learned = quantized(bits, weight_scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
    model = from_float(float_model, learned)
    calibrate(model, data.train_images)
    train(model, data, epochs=15, learning_rate=3e-3)
    return model


# Measuring, here and in the runtimes.


def accuracy(outputs: Tensor, classes: Tensor) -> float:
    """Share of images whose largest output is that of their class, in percent."""
    return (outputs.argmax(1) == classes).double().mean().item() * 100


@torch.no_grad()
def predict(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs of the model, one row an image."""
    return model(images)


def compare(
    outputs: Tensor, other: Tensor, step: float, classes: Tensor, file: Path
) -> RuntimeResult:
    """Compare the outputs of a runtime with PyTorch's; equal is less than half a step apart."""
    steps_apart = (other - outputs).abs() / step
    return RuntimeResult(
        accuracy=accuracy(other, classes),
        classes_differing=int((other.argmax(1) != outputs.argmax(1)).sum()),
        outputs_differing=(steps_apart > 0.5).double().mean().item() * 100,
        steps_apart=steps_apart.max().item(),
        file_size=file.stat().st_size,
    )


def run_in_runtimes(model: nn.Module, name: str, data: Digits) -> dict[str, RuntimeResult]:
    """Export the model in both formats and run each file over the whole test split."""
    images = data.test_images
    outputs = predict(model, images)
    step = model.classifier.output_quant.scale().item()
    results = {}
    for runtime, file_format, export, run in (
        ("ONNX Runtime", "qcdq", export_onnx_qcdq, run_onnxruntime),
        ("qonnx", "qonnx", export_qonnx, run_qonnx),
    ):
        file = OUTPUT / f"{name.replace(' ', '_').lower()}_{file_format}.onnx"
        print_progress(f"  export to {file.name}, run in {runtime}")
        export(model, args=(images,), export_path=str(file))
        other = torch.from_numpy(run(file, images.numpy()))
        results[runtime] = compare(outputs, other, step, data.test_classes, file)
    return results


def measure(
    method: str, bits: int, make_model: Callable[[], nn.Module], data: Digits
) -> tuple[nn.Module, Result]:
    """Make one model and measure it: here, and in the runtimes where it is quantized."""
    print_progress(f"{method} {bits} bit")
    start = time.perf_counter()
    model = make_model()
    outputs = predict(model, data.test_images)
    result = Result(method, bits, accuracy(outputs, data.test_classes))
    print_progress(f"  accuracy {result.accuracy:.2f} %")
    if method != "float":
        result.runtimes = run_in_runtimes(model, result.name, data)
    result.seconds = time.perf_counter() - start
    return model, result


def failures(float_result: Result, results: list[Result]) -> list[str]:
    """List every expectation that does not hold; comparisons are such that NaN fails, too."""
    failed = []
    for result in results:
        allowed = EXPECTED.get((result.method, result.bits))
        below = float_result.accuracy - result.accuracy
        if allowed is not None and not below <= allowed:
            failed.append(f"{result.name}: {below:.2f} points below float, allowed {allowed}")
        for runtime, found in result.runtimes.items():
            if found.classes_differing:
                count = found.classes_differing
                failed.append(f"{result.name}: {runtime} predicts another class on {count} images")
            # Outputs are multiples of the step in float32: a little room for their rounding.
            if not found.steps_apart <= 1.001:
                apart = found.steps_apart
                failed.append(f"{result.name}: {runtime} is {apart:.2f} output steps apart")
    return failed


def make_float(data: Digits) -> nn.Module:
    """Train the float model that all others start from."""
    model = DigitNet()
    train(model, data, epochs=20, learning_rate=5e-3)
    return model


def main() -> int:
    torch.manual_seed(0)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = load_data()
    float_model, float_result = measure("float", 32, partial(make_float, data), data)

    results = []
    for quantize, method, bits in (
        (quantize_after_training, "PTQ", 8),
        (quantize_after_training, "PTQ", 4),
        (quantize_after_training, "PTQ", 2),  # nothing is expected of it: this needs training
        (quantize_by_training, "QAT", 4),
        (quantize_by_training, "QAT", 2),
    ):
        _, result = measure(method, bits, partial(quantize, float_model, bits, data), data)
        results.append(result)

    print_table([float_result, *results])
    picture = draw_accuracy(float_result, results, OUTPUT / "accuracy.png")
    print(f"\nFiles and picture: {picture.parent}")

    failed = failures(float_result, results)
    for failure in failed:
        print(f"NOT AS EXPECTED: {failure}", file=sys.stderr)
    if not failed:
        print("All expectations hold: accuracy of every model, agreement of both runtimes.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
