"""Average bit widths of a model as losses, by which learned bit widths shrink. Layer: loss (L8)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from brevitas.nn import QuantConv2d, QuantLinear
from brevitas.proxy._bits import FLOAT_PARTS, INT_PARTS, has_learned_bits, total_bits
from brevitas.proxy.parameter_quant import WeightQuantProxyFromInjectorBase
from brevitas.proxy.quant_proxy import QuantProxyFromInjector
from brevitas.proxy.runtime_quant import (
    AccQuantProxyFromInjectorBase,
    ActQuantProxyFromInjectorBase,
)
from brevitas.quant_tensor import IntQuantTensor

__all__ = [
    "MEGA",
    "ActivationBitWidthWeightedBySize",
    "ActivationFloatBitWidthWeightedBySize",
    "BitWidthWeighted",
    "QuantLayerOutputBitWidthWeightedByOps",
    "WeightBitWidthWeightedBySize",
    "WeightFloatBitWidthWeightedBySize",
]

#: Unit in which operations are counted, ten million of them.
MEGA = 10e6

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class BitWidthWeighted(ABC):
    """The weighted average of bit widths, ``sum(bits * weight) / sum(weight)``.

    Hooks collect one term each time a quantizer or layer runs, in training and in evaluation,
    until ``zero_accumulated_values`` is called: once per step, after the backward pass.

    Args:
        model: the model whose bit widths are averaged.
        dtype: dtype of the sums; float32, or float64 for a model in it, by default.
    """

    #: What a model needs for the loss to have a term, for messages.
    expected = "quantizers with bit_width_impl_type=BitWidthImplType.PARAMETER"

    def __init__(self, model: nn.Module, dtype: torch.dtype | None = None) -> None:
        self.model = model
        first = next(model.parameters(), torch.empty(0))
        self.dtype = dtype or torch.promote_types(first.dtype, torch.float32)
        self.weighted_bit_width_list: list[Tensor] = []
        self.tot_num_elements: float = 0
        self.list_of_hooks: list[Any] = []
        self.register_hooks()

    @abstractmethod
    def register_hooks(self) -> None:
        """Set the hooks that call ``add``."""

    def add(self, bit_width: Tensor, weight: float) -> None:
        """Take one bit width (0-d) with its weight into the average."""
        self.weighted_bit_width_list.append(bit_width.to(self.dtype) * weight)
        self.tot_num_elements += weight

    def zero_accumulated_values(self) -> None:
        """Start anew with an empty average."""
        self.weighted_bit_width_list = []
        self.tot_num_elements = 0

    def retrieve(self, as_average: bool = True) -> Tensor:
        """Return the loss, 0-d, with a gradient for learned bit widths.

        Args:
            as_average: divide by the sum of the weights.

        Raises:
            RuntimeError: where nothing was collected.
        """
        if not self.tot_num_elements:
            raise RuntimeError(
                f"{type(self).__name__}: {len(self.list_of_hooks)} hooks have seen no bit width; "
                f"expected {self.expected}, and a forward pass since the loss was made or zeroed."
            )
        total = torch.stack(self.weighted_bit_width_list).sum()
        return total / self.tot_num_elements if as_average else total

    def log(self) -> Tensor:
        """Return the average outside of autograd."""
        return self.retrieve(as_average=True).detach().clone()

    def remove_hooks(self) -> None:
        """Stop collecting; the model is as it was before the loss was made."""
        for hook in self.list_of_hooks:
            hook.remove()
        self.list_of_hooks = []

    def hook_learned(
        self,
        kind: type[QuantProxyFromInjector],
        parts: tuple[str, ...],
        size: Callable[[torch.Size], int],
    ) -> None:
        """Hook the proxies of a kind whose bits are learned, weighted by the size of their tensor.

        Args:
            kind: class of the proxies.
            parts: names of the parts that give the bits.
            size: shape of the quantized tensor -> weight.
        """

        def hook(proxy: Any, arguments: tuple[Any, ...], output: Any) -> None:
            if has_learned_bits(proxy, parts):
                self.add(total_bits(proxy, parts), size(arguments[0].shape))

        for module in self.model.modules():
            if isinstance(module, kind):
                self.list_of_hooks.append(module.register_forward_hook(hook))


def _size_of_sample(shape: torch.Size) -> int:
    """Elements of one sample: the first dimension counts samples."""
    return prod(shape[1:])


class WeightBitWidthWeightedBySize(BitWidthWeighted):
    """Average of the learned bit widths of weights, by their number of elements.

    Args:
        model: the model.

    Example:
        >>> layer = QuantLinear(2, 3, weight_bit_width_impl_type="parameter", weight_bit_width=4)
        >>> loss = WeightBitWidthWeightedBySize(layer)
        >>> _ = layer(torch.ones(1, 2))
        >>> loss.retrieve().item(), loss.retrieve(as_average=False).item()
        (4.0, 24.0)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def register_hooks(self) -> None:
        """Hook the proxies of weights."""
        self.hook_learned(WeightQuantProxyFromInjectorBase, INT_PARTS, prod)


class ActivationBitWidthWeightedBySize(BitWidthWeighted):
    """Average of the learned bit widths of activations, by the elements of one sample.

    Accumulators that are truncated or clamped to a learned number of bits count as activations.

    Args:
        model: the model.

    Example:
        >>> from brevitas.nn import QuantReLU
        >>> layer = QuantReLU(bit_width_impl_type="parameter", bit_width=4)
        >>> loss = ActivationBitWidthWeightedBySize(layer)
        >>> _ = layer(torch.ones(5, 3))
        >>> loss.retrieve().item(), loss.retrieve(as_average=False).item()
        (4.0, 12.0)
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def register_hooks(self) -> None:
        """Hook the proxies of activations and accumulators."""
        self.hook_learned(ActQuantProxyFromInjectorBase, INT_PARTS, _size_of_sample)
        for module in self.model.modules():
            if isinstance(module, AccQuantProxyFromInjectorBase):
                self.list_of_hooks.append(module.register_forward_hook(self._add_accumulator))

    def _add_accumulator(self, proxy: Any, arguments: tuple[Any, ...], output: Any) -> None:
        # Its bits depend on those of its input: only the output knows them.
        if isinstance(output, IntQuantTensor) and has_learned_bits(proxy, INT_PARTS):
            self.add(output.bit_width, _size_of_sample(output.shape))


class WeightFloatBitWidthWeightedBySize(BitWidthWeighted):
    """As ``WeightBitWidthWeightedBySize``, for minifloats: sign, exponent and mantissa.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def register_hooks(self) -> None:
        """Hook the proxies of weights."""
        self.hook_learned(WeightQuantProxyFromInjectorBase, FLOAT_PARTS, prod)


class ActivationFloatBitWidthWeightedBySize(BitWidthWeighted):
    """As ``ActivationBitWidthWeightedBySize``, for minifloats: sign, exponent and mantissa.

    Args:
        model: the model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)

    def register_hooks(self) -> None:
        """Hook the proxies of activations."""
        self.hook_learned(ActQuantProxyFromInjectorBase, FLOAT_PARTS, _size_of_sample)


class QuantLayerOutputBitWidthWeightedByOps(BitWidthWeighted):
    """Average of the bit widths of layers' accumulators, by the operations of one sample.

    A multiplication and an addition are two operations; they are counted in units of ``MEGA``.
    Layers that return a plain tensor are left out; the gradient reaches the learned bit widths of
    inputs and weights, on which the accumulator's depends.

    Args:
        model: the model.
        layer_types: classes of layers to include.

    Example:
        >>> from brevitas.quant import Int8ActPerTensorFloat
        >>> layer = QuantLinear(2, 3, input_quant=Int8ActPerTensorFloat, return_quant_tensor=True)
        >>> loss = QuantLayerOutputBitWidthWeightedByOps(layer)
        >>> layer(torch.ones(5, 2)).bit_width, loss.retrieve().item()
        (tensor(17.), 17.0)
        >>> round(loss.tot_num_elements * MEGA)
        12
    """

    expected = "layers of layer_types with return_quant_tensor=True and a quantized input"

    def __init__(
        self,
        model: nn.Module,
        layer_types: tuple[type[nn.Module], ...] = (QuantConv2d, QuantLinear),
    ) -> None:
        self.layer_types = layer_types
        super().__init__(model)

    def register_hooks(self) -> None:
        """Hook the layers."""
        for module in self.model.modules():
            if isinstance(module, self.layer_types):
                self.list_of_hooks.append(module.register_forward_hook(self._add_output))

    def _add_output(self, layer: Any, arguments: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, IntQuantTensor):
            operations = _operations(layer, arguments[0].shape, output.shape)
            self.add(output.bit_width, operations / MEGA)


def _operations(layer: Any, input_shape: torch.Size, output_shape: torch.Size) -> int:
    """Multiplications and additions of a linear layer or convolution for one sample."""
    weight = layer.weight
    spatial_dims = weight.dim() - 2
    if spatial_dims == 0:
        uses_of_each_weight = prod(output_shape[1:-1])
    else:
        shape = input_shape if isinstance(layer, _TRANSPOSED) else output_shape
        uses_of_each_weight = prod(shape[-spatial_dims:])
    return 2 * weight.numel() * uses_of_each_weight
