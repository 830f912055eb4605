"""An overview of quantized activations: one scale per tensor, or one per channel."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from brevitas.nn import QuantConv2d, QuantReLU
from seeds.facts import assert_prints

OUT_CHANNELS = 3

# The tree that cell 22 prints, without closing brackets and helper modules, which differ from one
# release to the next.
PER_TENSOR_TREE = """
QuantReLU(
  (input_quant): ActQuantProxyFromInjector(
  (act_quant): ActQuantProxyFromInjector(
    (fused_activation_quant_proxy): FusedActivationQuantProxy(
      (activation_impl): ReLU()
      (tensor_quant): RescalingIntQuant(
        (int_quant): IntQuant(
          (float_to_int_impl): RoundSte()
          (tensor_clamp_impl): TensorClamp()
          (delay_wrapper): DelayWrapper(
            (delay_impl): _NoDelay()
          (input_view_impl): Identity()
        (scaling_impl): ParameterFromRuntimeStatsScaling(
          (stats_input_view_shape_impl): OverTensorView()
          (stats): _Stats(
            (stats_impl): AbsPercentile()
        (int_scaling_impl): IntScaling()
        (zero_point_impl): ZeroZeroPoint(
          (zero_point): StatelessBuffer()
        (msb_clamp_bit_width_impl): BitWidthConst(
          (bit_width): StatelessBuffer()
"""

# Cell 23 differs in how the statistics look at the tensor.
PER_CHANNEL_TREE = PER_TENSOR_TREE.replace(
    "OverTensorView()",
    """OverOutputChannelView(
            (permute_impl): PermuteDims()""",
)


def modules_printed(tree: str) -> dict[str, str]:
    """Map the path of each module in a printed tree to the name of its class."""
    found = {}
    path: list[str] = []
    for indent, name, class_name in re.findall(r"^( +)\((\w+)\): (\w+)\(", tree, re.MULTILINE):
        path = [*path[: len(indent) // 2 - 1], name]
        found[".".join(path)] = class_name
    return found


def assert_tree_holds(layer: nn.Module, tree: str) -> None:
    """Every printed module stands at its place: in the print of the layer and in the layer."""
    expected = modules_printed(tree)
    assert len(expected) == tree.count("):")
    found = modules_printed(repr(layer))
    assert {path: found.get(path) for path in expected} == expected
    for path, class_name in expected.items():
        assert type(layer.get_submodule(path)).__name__ == class_name


@pytest.fixture
def inp3() -> Tensor:
    """The input of cell 21, whose first channel is three times as wide as the other two.

    It is drawn after what cells 14 and 15 draw: a convolution and two inputs.
    """
    torch.manual_seed(0)
    QuantConv2d(in_channels=2, out_channels=3, kernel_size=(3, 3))
    torch.randn(3, 3), torch.randn(3, 3)
    inp3 = torch.rand(1, OUT_CHANNELS, 256, 256)  # (B, C, H, W)
    inp3[:, 0, :, :] *= 3
    return inp3


@pytest.fixture
def per_chan_quant_relu() -> QuantReLU:
    """The layer of cell 23."""
    return QuantReLU(
        return_quant_tensor=True,
        scaling_stats_permute_dims=(1, 0, 2, 3),
        scaling_per_output_channel=True,
        per_channel_broadcastable_shape=(1, OUT_CHANNELS, 1, 1),
    )


def test_s2_20_one_scale_covers_the_widest_channel(inp3: Tensor) -> None:
    per_tensor_quant_relu = QuantReLU(return_quant_tensor=True)
    out_tensor = per_tensor_quant_relu(inp3)
    full_range = out_tensor.scale * ((2**8) - 1)

    assert_prints(full_range, "S2-20", "scale*255")
    assert full_range.grad_fn is not None


def test_s2_21_the_tree_of_a_quant_relu() -> None:
    assert_tree_holds(QuantReLU(return_quant_tensor=True), PER_TENSOR_TREE)


def test_s2_22_the_tree_of_a_quant_relu_per_channel(per_chan_quant_relu: QuantReLU) -> None:
    assert_tree_holds(per_chan_quant_relu, PER_CHANNEL_TREE)


def test_s2_23_each_channel_has_the_scale_of_its_own_range(
    inp3: Tensor, per_chan_quant_relu: QuantReLU
) -> None:
    out_tensor = per_chan_quant_relu(inp3)
    full_range = out_tensor.scale * ((2**8) - 1)

    assert out_tensor.scale.shape == (1, OUT_CHANNELS, 1, 1)
    # 65536 uniform values per channel: the 99.999th percentile is the largest, which lies below
    # the end of the range by more than 1e-3 of it with probability (1 - 1e-3) ** 65536 < 1e-28.
    assert full_range.flatten().tolist() == pytest.approx([3.0, 1.0, 1.0], rel=1e-3)
    assert torch.equal(out_tensor.int().amax((0, 2, 3)), torch.full((3,), 255, dtype=torch.uint8))
    # The narrow channels gain: the largest error is half a step, and their step is a third.
    per_tensor = QuantReLU(return_quant_tensor=True)(inp3)
    errors = [(out.value - inp3).abs()[:, 1:].max() for out in (per_tensor, out_tensor)]
    assert (errors[0] / errors[1]).item() == pytest.approx(3.0, rel=0.01)
