"""The two shapes of a quantized layer: with a weight, or an activation. Layer: nn (L6)."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor, nn

from brevitas.nn.mixin.act import (
    ActQuantType,
    QuantInputMixin,
    QuantNonLinearActMixin,
    QuantOutputMixin,
)
from brevitas.nn.mixin.base import KeywordReport, QuantLayerMixin
from brevitas.nn.mixin.parameter import (
    BiasQuantType,
    QuantBiasMixin,
    QuantWeightMixin,
    WeightQuantType,
)
from brevitas.nn.utils import merge_bn
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.quant_tensor import IntQuantTensor, QuantTensor, plain
from brevitas.quant_tensor._accumulator import TERMS, with_lowest_integer, with_sign_bit
from brevitas.quant_tensor.int_torch_handler import (
    FN_ACC_BITWIDTH_MAPPING,
    quant_output_scale_impl,
    sums_one_scale,
)

__all__ = [
    "ActQuantType",
    "BiasQuantType",
    "QuantInputOutputLayer",
    "QuantNonLinearActLayer",
    "QuantWeightBiasInputOutputLayer",
    "WeightQuantType",
]


class QuantNonLinearActLayer(QuantNonLinearActMixin, QuantInputMixin, QuantLayerMixin, nn.Module):
    """Quantize the input, apply an activation function, quantize its output.

    Args:
        act_impl: class of the activation function; None for the identity.
        passthrough_act: True where the function keeps quantized values on their grid.
        input_quant: quantizer of the input, or None.
        act_quant: quantizer of the output, or None.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: keywords of the quantizers; those of the input start with ``input_``.
    """

    def __init__(
        self,
        act_impl: type[nn.Module] | None,
        passthrough_act: bool,
        input_quant: ActQuantType | None,
        act_quant: ActQuantType | None,
        return_quant_tensor: bool,
        **kwargs: Any,
    ) -> None:
        nn.Module.__init__(self)
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_input_quant(input_quant, report)
        self.attach_act_quant(act_quant, act_impl, passthrough_act, report)
        report.warn_unused()

    @property
    def channelwise_separable(self) -> bool:
        """True: an activation works element by element."""
        return True

    def forward(self, input: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Return the quantized activation, of the shape of ``input``."""
        return self.pack_output(self.act_quant(self.input_quant(self.unpack_input(input))))


class QuantInputOutputLayer(QuantOutputMixin, QuantInputMixin, QuantLayerMixin):
    """Attaches the quantizers of input and output.

    Args:
        input_quant: quantizer of the input, or None.
        output_quant: quantizer of the output, or None.
        tie_input_output_quant: use the input's quantizer for the output as well.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: keywords of the quantizers, by prefix: ``input_``, ``output_``.
    """

    def __init__(
        self,
        input_quant: ActQuantType | None,
        output_quant: ActQuantType | None,
        tie_input_output_quant: bool,
        return_quant_tensor: bool,
        **kwargs: Any,
    ) -> None:
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        self.attach_input_output_quant(input_quant, output_quant, tie_input_output_quant, report)
        report.warn_unused()

    def attach_input_output_quant(
        self,
        input_quant: ActQuantType | None,
        output_quant: ActQuantType | None,
        tie_input_output_quant: bool,
        report: KeywordReport,
        **extra: Any,
    ) -> None:
        """Build or share the quantizers of input and output."""
        self.attach_input_quant(input_quant, report, **extra)
        output_quant = self.input_quant if tie_input_output_quant else output_quant
        self.attach_output_quant(output_quant, report, **extra)


class QuantWeightBiasInputOutputLayer(QuantBiasMixin, QuantWeightMixin, QuantInputOutputLayer):
    """A layer with quantizers for weight, bias, input and output, above its float layer.

    The float layer (``torch.nn.Linear``, ...) is the next base of each concrete class and is
    initialised first, so that the same seed gives the same weights.

    Args:
        weight_quant: quantizer of the weight: a class, another layer's proxy to share, or None.
        bias_quant: quantizer of the bias, or None.
        input_quant: quantizer of the input, or None.
        output_quant: quantizer of the output, or None.
        return_quant_tensor: return the output with scale, zero point and bit width.
        **kwargs: keywords of the quantizers, by prefix: ``weight_``, ``bias_``, ``input_``,
            ``output_``; and ``cache_inference_bias``, ``tie_input_output_quant``.
    """

    #: The functional form of the layer, by which its accumulator's rules are looked up.
    #: None in a layer of a user's own, which then has one accumulator scale per weight scale.
    accumulator_function: Callable[..., Tensor] | None = None
    # Of the float layer, which is the other base of each concrete class.
    in_channels: int
    groups: int
    stride: tuple[int, ...]

    def __init__(
        self,
        weight_quant: WeightQuantType | None,
        bias_quant: BiasQuantType | None,
        input_quant: ActQuantType | None,
        output_quant: ActQuantType | None,
        return_quant_tensor: bool,
        device: Any = None,
        dtype: Any = None,
        cache_inference_bias: bool = False,
        tie_input_output_quant: bool = False,
        **kwargs: Any,
    ) -> None:
        QuantLayerMixin.__init__(self, return_quant_tensor)
        report = KeywordReport(self, kwargs)
        factory = {"device": device, "dtype": dtype}
        self.attach_input_output_quant(
            input_quant, output_quant, tie_input_output_quant, report, **factory
        )
        self.attach_weight_quant(weight_quant, report)
        self.attach_bias_quant(bias_quant, report, cache_inference_bias)
        report.warn_unused()

    def inner_forward_impl(
        self, x: Tensor, quant_weight: Tensor, quant_bias: Tensor | None
    ) -> Tensor:
        """The float operation of the layer, on quantized operands."""
        raise NotImplementedError(f"{type(self).__name__} does not define its operation.")

    @property
    def channelwise_separable(self) -> bool:
        """True for a depthwise convolution."""
        return self.groups == self.in_channels

    @property
    def per_elem_ops(self) -> int:
        """Multiplications and additions for one output element."""
        if self.output_channel_dim == 0:
            return 2 * self.weight[0].numel()
        per_input = self.weight[0, 0].numel()
        return 2 * per_input * self.weight.shape[0] // self.groups // prod(self.stride)

    def max_acc_bit_width(self, input_bit_width: Tensor, quant_weight_bit_width: Tensor) -> Tensor:
        """Bits that hold every possible accumulator value of the layer."""
        function = type(self).accumulator_function
        if function is None:
            raise NotImplementedError(
                f"{type(self).__name__}: max_acc_bit_width needs the class attribute "
                "accumulator_function (e.g. torch.nn.functional.linear), or an override."
            )
        weight_zero_point = self.weight_quant.zero_point()
        if weight_zero_point is not None:  # sums are of weights without it
            quant_weight_bit_width = quant_weight_bit_width + weight_zero_point.any()
        bit_widths = (input_bit_width, quant_weight_bit_width)
        shape, geometry = self.weight.shape, self._geometry()
        accumulator = FN_ACC_BITWIDTH_MAPPING[function](*bit_widths, shape, **geometry)
        # What is quantized outside of the layer may be signed.
        signed = (self.input_quant.is_signed is not False, self.weight_quant.is_signed is not False)
        if signed == (True, False) and self.input_quant.is_narrow_range is not True:
            terms = TERMS[function](shape, **geometry)
            accumulator = with_lowest_integer(accumulator, *bit_widths, terms)
        if self.input_quant.is_signed is not True:
            accumulator = self._with_lowest_weight(accumulator, *bit_widths)
        return with_sign_bit(accumulator, *zip(bit_widths, signed, strict=True))

    def _geometry(self) -> dict[str, Any]:
        """What a convolution has, and a linear layer does not."""
        return {name: getattr(self, name, 1) for name in ("stride", "dilation", "groups")}

    def _with_lowest_weight(self, bit_width: Tensor, inputs: Tensor, weights: Tensor) -> Tensor:
        """Bits of a sum of products with unsigned inputs, where weights are in full range."""
        function, proxy = type(self).accumulator_function, self.weight_quant
        if function is None or not isinstance(proxy, QuantProxyFromInjector):
            return bit_width
        if proxy.is_signed is False or proxy.is_narrow_range is not False:
            return bit_width
        terms = TERMS[function](self.weight.shape, **self._geometry())
        return with_lowest_integer(bit_width, weights, inputs, terms)

    def _holding_lowest_weight(
        self, output: IntQuantTensor, inp: Any, weight: Any, bias: Any
    ) -> IntQuantTensor:
        # A quantized bias has added one bit to those of the sum.
        sums = output.bit_width - 1 if isinstance(bias, IntQuantTensor) else output.bit_width
        bits = self._with_lowest_weight(sums, inp.bit_width, weight.bit_width)
        return output if bits is sums else output.set(bit_width=output.bit_width + (bits - sums))

    def quant_output_scale_impl(
        self, inp: Any, quant_input_scale: Tensor, quant_weight_scale: Tensor
    ) -> Tensor:
        """Scale of the accumulator: ``input scale * weight scale``, broadcastable to the output."""
        function = type(self).accumulator_function
        if function is None:
            return quant_input_scale * quant_weight_scale.reshape(-1)
        repeats = self.groups if self.output_channel_dim == 1 else 1
        if repeats > 1 and quant_weight_scale.numel() > 1:
            quant_weight_scale = quant_weight_scale.flatten().repeat(repeats)
        return quant_output_scale_impl(function, plain(inp), quant_input_scale, quant_weight_scale)

    def has_accumulator_scale(self, inp: IntQuantTensor) -> bool:
        """True where all products that an output sums have one input scale."""
        function = type(self).accumulator_function
        if function is None:
            return True
        # A linear layer has neither.
        groups, out_channels = getattr(self, "groups", 1), getattr(self, "out_channels", None)
        return sums_one_scale(function, inp.value, inp.scale, groups, out_channels)

    def merge_bn_in(self, bn: nn.Module) -> None:
        """Fold a batch normalization that follows the layer into its weight and bias."""
        merge_bn(self, bn, output_channel_dim=self.output_channel_dim)

    def forward_impl(self, inp: Tensor | QuantTensor) -> Tensor | QuantTensor:
        """Quantize the operands, compute, quantize the output."""
        quant_input = self.input_quant(self.unpack_input(inp))
        quant_weight = self.quant_weight(quant_input)
        bias, output_quant = self.bias, self.output_quant
        if bias is not None and self.bias_quant.is_quant_enabled:
            bias = self.bias_quant(bias, quant_input, quant_weight)
        keeps_metadata = self.return_quant_tensor and not output_quant.is_quant_enabled
        if keeps_metadata and _both_integer(quant_input, quant_weight):
            output: Any = self.inner_forward_impl(quant_input, quant_weight, bias)
            if isinstance(output, IntQuantTensor) and not quant_input.signed:
                output = self._holding_lowest_weight(output, quant_input, quant_weight, bias)
            return self.pack_output(output)
        operands = (plain(operand) for operand in (quant_input, quant_weight, bias))
        return self.pack_output(output_quant(self.inner_forward_impl(*operands)))


def _both_integer(quant_input: Any, quant_weight: Any) -> bool:
    return isinstance(quant_input, IntQuantTensor) and isinstance(quant_weight, IntQuantTensor)
