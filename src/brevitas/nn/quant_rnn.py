"""Recurrent networks with quantized weights, inputs, states and gates. Layer: nn (L6)."""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from brevitas.common import QuantLayerConfigurationError
from brevitas.nn._float_recurrent import split_float_parameters
from brevitas.nn._gates import GateParams, GateWeight
from brevitas.nn._recurrent_cell import State
from brevitas.nn._recurrent_layer import LSTMLayer, RecurrentLayer, RNNLayer
from brevitas.nn._recurrent_states import Layout, joined, split_states
from brevitas.nn.mixin.act import ActQuantType
from brevitas.nn.mixin.base import KeywordReport
from brevitas.nn.mixin.parameter import BiasQuantType, WeightQuantType
from brevitas.proxy.runtime_quant import DynamicActQuantProxyFromInjector
from brevitas.quant.scaled_int import (
    Int8ActPerTensorFloat,
    Int8WeightPerTensorFloat,
    Int32Bias,
    Uint8ActPerTensorFloat,
)
from brevitas.quant_tensor import QuantTensor, plain

__all__ = [
    "GateParams",
    "GateWeight",
    "QuantLSTM",
    "QuantRNN",
    "QuantRecurrentStackBase",
    "QuantTupleLongDisabled",
    "QuantTupleLongEnabled",
    "QuantTupleShortDisabled",
    "QuantTupleShortEnabled",
]

#: Fields of the quantized outputs of all steps, with and without quantizers, by older releases.
QuantTupleShortEnabled = list[tuple[Tensor, Tensor, Tensor, Tensor]]
QuantTupleShortDisabled = list[tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]]
QuantTupleLongEnabled = list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]
QuantTupleLongDisabled = list[
    tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
]

Value: TypeAlias = Tensor | QuantTensor


class QuantRecurrentStackBase(nn.Module):
    """Layers and directions of a quantized recurrent network.

    All of them share one quantizer of inputs, hidden states and outputs. Each direction of the
    first layer quantizes the input; the layers above read outputs, which are quantized already.

    Args:
        layer_impl: class of one direction of one layer.
        input_size: features of the input.
        hidden_size: size of the hidden state.
        num_layers: number of layers.
        bidirectional: run over the sequence in both directions.
        io_quant: quantizer of inputs, hidden states and outputs.
        shared_input_hidden_weights: let both directions share their input weights.
        dtype: dtype of parameters and quantizers.
        device: device of parameters and quantizers.
        return_quant_tensor: return outputs and states with scale, zero point and bit width.
        **kwargs: further arguments of ``layer_impl``.

    Raises:
        ValueError: for sizes that are no positive numbers.
        QuantLayerConfigurationError: for options that exclude each other.
    """

    #: Whether the cell states of all layers are returned as one tensor.
    cat_output_cell_states = True

    def __init__(
        self,
        layer_impl: type[RecurrentLayer],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        io_quant: ActQuantType | None,
        shared_input_hidden_weights: bool,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        return_quant_tensor: bool,
        batch_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        _check_sizes(self, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if shared_input_hidden_weights and not bidirectional:
            raise _excluded(self, "shared_input_hidden_weights=True", "bidirectional=True")
        if return_quant_tensor and io_quant is None:
            raise _excluded(self, "return_quant_tensor=True", "a quantizer as io_quant")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.num_directions = 2 if bidirectional else 1
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.return_quant_tensor = return_quant_tensor
        self.shared_input_hidden_weights = shared_input_hidden_weights
        options = {**kwargs, "io_quant": io_quant, "dtype": dtype, "device": device}
        self.layers = nn.ModuleList()
        for place in range(num_layers):
            size = input_size if place == 0 else hidden_size * self.num_directions
            self.layers.append(self._build_directions(layer_impl, size, options))

    def _build_directions(
        self, layer_impl: Any, input_size: int, options: dict[str, Any]
    ) -> nn.ModuleList:
        """Build one layer; its quantizers that all layers share are put into ``options``."""
        directions = nn.ModuleList()
        weights = None
        for direction in range(self.num_directions):
            layer: Any = layer_impl(
                input_size,
                self.hidden_size,
                reverse_input=direction == 1,
                input_weights=weights,
                **options,
            )
            options.update(self._shared_by_all(layer))
            if self.shared_input_hidden_weights:
                weights = layer.weights_to_share()
            directions.append(layer)
        return directions

    def _shared_by_all(self, layer: RecurrentLayer) -> dict[str, Any]:
        """Quantizers of the first layer that the others take, where they quantize at all."""
        return {
            name: proxy
            for name, proxy in layer.quantizers_to_share().items()
            if proxy.fused_activation_quant_proxy is not None
        }

    def reset_parameters(self) -> None:
        """Draw all weights and biases anew."""
        for layer in self._every_layer():
            layer.reset_parameters()

    def _every_layer(self) -> list[RecurrentLayer]:
        return [layer for directions in self.layers for layer in directions]  # type: ignore

    def forward(self, inp: Value, hx: Any = None) -> Any:
        """Run over sequences.

        Args:
            inp: ``[steps, batch, input_size]``, ``[batch, steps, input_size]`` with
                ``batch_first``, or ``[steps, input_size]``.
            hx: initial hidden states, ``[num_layers * directions, batch, hidden_size]``; zeros by
                default.

        Returns:
            The outputs, laid out as the input, with ``hidden_size * directions`` features; and the
            last hidden states, ``[num_layers * directions, batch, hidden_size]``.
        """
        output, hidden, _ = self._run(inp, hx, None)
        return output, hidden

    def _run(self, inp: Value, hx: Any, cx: Any) -> tuple[Value, Value, list[Any]]:
        """Outputs, last hidden states, and the last cell state of each layer and direction."""
        name = type(self).__name__
        layout = Layout.of(inp, self.batch_first, self.input_size, name)
        sequences = layout.to_steps(inp)
        count, batch = self.num_layers * self.num_directions, sequences.shape[1]
        hidden, cells = (
            iter(split_states(argument, given, count, batch, self.hidden_size, name))
            for argument, given in (("hx", hx), ("cx", cx))
        )
        last: list[State] = []
        is_dynamic = self._is_dynamic("output_quant")
        for place, directions in enumerate(self.layers):
            outputs = []
            for layer in directions:  # type: ignore[attr-defined]
                state = State(next(hidden), next(cells))
                output, state = layer(sequences, state, quantize_input=place == 0)
                outputs.append(output)
                last.append(state)
            sequences = outputs[0] if len(outputs) == 1 else joined(outputs, -1, is_dynamic)
        states = joined([state.hidden.unsqueeze(0) for state in last], 0, is_dynamic)
        packed = (layout.from_steps(sequences), layout.from_states(states))
        output, states = map(self._packed, packed)
        cell_states = [layout.from_states(s.cell.unsqueeze(0)) for s in last if s.cell is not None]
        return output, states, cell_states

    def _packed(self, value: Value) -> Value:
        return value if self.return_quant_tensor else plain(value)

    def _is_dynamic(self, name: str) -> bool:
        proxy = getattr(self._every_layer()[0].cell, name)
        return isinstance(proxy, DynamicActQuantProxyFromInjector)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        error_msgs: list[str] = args[-1]
        places = [(p, d) for p in range(self.num_layers) for d in range(self.num_directions)]
        for place, layer in zip(places, self._every_layer(), strict=True):
            gates = layer.gate_modules
            problem = split_float_parameters(state_dict, prefix, place, gates, self.hidden_size)
            if problem is not None:
                error_msgs.append(problem)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        """Sizes and options, as ``torch.nn.LSTM`` prints them."""
        shown = f"{self.input_size}, {self.hidden_size}"
        for option, default in (
            ("num_layers", 1),
            ("batch_first", False),
            ("bidirectional", False),
        ):
            if getattr(self, option) != default:
                shown += f", {option}={getattr(self, option)}"
        return shown


def _check_sizes(layer: nn.Module, **sizes: Any) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(
                f"{name}={size!r}: expected an int >= 1. Layer: {type(layer).__name__}"
            )


def _excluded(layer: nn.Module, option: str, needs: str) -> QuantLayerConfigurationError:
    return QuantLayerConfigurationError(f"{option} needs {needs}. Layer: {type(layer).__name__}")


class QuantRNN(QuantRecurrentStackBase):
    """``torch.nn.RNN`` with quantizers: ``h = q(f(q(W_x q(x) + b + W_h h)))``.

    ``load_state_dict`` takes the checkpoint of a ``torch.nn.RNN`` as well.

    Args:
        input_size: features of the input.
        hidden_size: size of the hidden state.
        num_layers: number of layers.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: learn an additive bias.
        batch_first: sequences are ``[batch, steps, features]``.
        bidirectional: run over the sequence in both directions.
        weight_quant: quantizer of the weights of each layer and direction.
        bias_quant: quantizer of the biases.
        io_quant: quantizer of inputs, hidden states and outputs.
        gate_acc_quant: quantizer of the sum of the products with input and hidden state.
        shared_input_hidden_weights: let both directions share their input weights.
        return_quant_tensor: return outputs and states with scale, zero point and bit width.
        dtype: dtype of parameters and quantizers.
        device: device of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix: ``weight_``, ``bias_``, ``io_``,
            ``gate_acc_``.

    Raises:
        ValueError: for sizes or a nonlinearity that do not exist.
        QuantLayerConfigurationError: for options that exclude each other.

    Example:
        >>> layer = QuantRNN(4, 3, weight_bit_width=4)
        >>> output, hidden = layer(torch.randn(5, 2, 4))
        >>> output.shape, hidden.shape
        (torch.Size([5, 2, 3]), torch.Size([1, 2, 3]))

    Reference: Elman, "Finding Structure in Time", 1990.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool | None = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        bias_quant: BiasQuantType | None = Int32Bias,
        io_quant: ActQuantType | None = Int8ActPerTensorFloat,
        gate_acc_quant: ActQuantType | None = Int8ActPerTensorFloat,
        shared_input_hidden_weights: bool = False,
        return_quant_tensor: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"nonlinearity={nonlinearity!r}: expected 'tanh' or 'relu'. Layer: QuantRNN"
            )
        report = KeywordReport(self, kwargs)
        super().__init__(
            RNNLayer,
            input_size,
            hidden_size,
            num_layers,
            bidirectional,
            io_quant,
            shared_input_hidden_weights,
            dtype,
            device,
            return_quant_tensor,
            batch_first,
            nonlinearity=nonlinearity,
            bias=bias,
            weight_quant=weight_quant,
            bias_quant=bias_quant,
            gate_acc_quant=gate_acc_quant,
            report=report,
        )
        report.warn_unused()


class QuantLSTM(QuantRecurrentStackBase):
    """``torch.nn.LSTM`` with quantizers, of weights, inputs, sums, gates and both states.

    With each sum ``s = q(W_x q(x) + b + W_h h)`` of its gate::

        i, f, o = q(sigmoid(s_i)), q(sigmoid(s_f)), q(sigmoid(s_o))
        g = q(tanh(s_g))
        c = q(q(f * c) + q(i * g))
        h = q(o * q(tanh(c)))

    ``load_state_dict`` takes the checkpoint of a ``torch.nn.LSTM`` as well.

    Args:
        input_size: features of the input.
        hidden_size: size of hidden state and cell state.
        num_layers: number of layers.
        bias: learn an additive bias.
        batch_first: sequences are ``[batch, steps, features]``.
        bidirectional: run over the sequence in both directions.
        weight_quant: quantizer of the weights of each gate.
        bias_quant: quantizer of the biases.
        io_quant: quantizer of inputs, hidden states and outputs.
        gate_acc_quant: quantizer of the sum of both products of a gate.
        sigmoid_quant: quantizer of sigmoids.
        tanh_quant: quantizer of hyperbolic tangents.
        cell_state_quant: quantizer of the cell state and of both terms that it sums.
        coupled_input_forget_gates: use ``q(1) - i`` as forget gate, with the quantizer of ``i``.
        cat_output_cell_states: return the cell states of all layers as one tensor, not a list.
        shared_input_hidden_weights: let both directions share their input weights; the input gate
            of one shares with the forget gate of the other.
        shared_intra_layer_weight_quant: let the gates of a layer share a quantizer of weights.
        shared_intra_layer_gate_acc_quant: let the gates of a layer share a quantizer of sums.
        shared_cell_state_quant: let all layers share a quantizer of cell states.
        return_quant_tensor: return outputs and states with scale, zero point and bit width.
        device: device of parameters and quantizers.
        dtype: dtype of parameters and quantizers.
        **kwargs: declarations of the quantizers by prefix: ``weight_``, ``bias_``, ``io_``,
            ``gate_acc_``, ``sigmoid_``, ``tanh_``, ``cell_state_``.

    Raises:
        ValueError: for sizes that do not exist.
        QuantLayerConfigurationError: for options that exclude each other.

    Example:
        >>> layer = QuantLSTM(4, 3, num_layers=2, weight_bit_width=4)
        >>> output, (hidden, cell) = layer(torch.randn(5, 2, 4))
        >>> output.shape, cell.shape
        (torch.Size([5, 2, 3]), torch.Size([2, 2, 3]))

    Reference: Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Greff et al., "LSTM: A
    Search Space Odyssey", 2015 (coupled gates).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | None = True,
        batch_first: bool = False,
        bidirectional: bool = False,
        weight_quant: WeightQuantType | None = Int8WeightPerTensorFloat,
        bias_quant: BiasQuantType | None = Int32Bias,
        io_quant: ActQuantType | None = Int8ActPerTensorFloat,
        gate_acc_quant: ActQuantType | None = Int8ActPerTensorFloat,
        sigmoid_quant: ActQuantType | None = Uint8ActPerTensorFloat,
        tanh_quant: ActQuantType | None = Int8ActPerTensorFloat,
        cell_state_quant: ActQuantType | None = Int8ActPerTensorFloat,
        coupled_input_forget_gates: bool = False,
        cat_output_cell_states: bool = True,
        shared_input_hidden_weights: bool = False,
        shared_intra_layer_weight_quant: bool = False,
        shared_intra_layer_gate_acc_quant: bool = False,
        shared_cell_state_quant: bool = True,
        return_quant_tensor: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        if return_quant_tensor and cell_state_quant is None:
            raise _excluded(self, "return_quant_tensor=True", "a quantizer as cell_state_quant")
        if cat_output_cell_states and cell_state_quant is not None and not shared_cell_state_quant:
            raise _excluded(self, "cat_output_cell_states=True", "shared_cell_state_quant=True")
        report = KeywordReport(self, kwargs)
        super().__init__(
            LSTMLayer,
            input_size,
            hidden_size,
            num_layers,
            bidirectional,
            io_quant,
            shared_input_hidden_weights,
            dtype,
            device,
            return_quant_tensor,
            batch_first,
            bias=bias,
            weight_quant=weight_quant,
            bias_quant=bias_quant,
            gate_acc_quant=gate_acc_quant,
            sigmoid_quant=sigmoid_quant,
            tanh_quant=tanh_quant,
            cell_state_quant=cell_state_quant,
            coupled_input_forget_gates=coupled_input_forget_gates,
            shared_intra_layer_weight_quant=shared_intra_layer_weight_quant,
            shared_intra_layer_gate_acc_quant=shared_intra_layer_gate_acc_quant,
            shared_cell_state_quant=shared_cell_state_quant,
            report=report,
        )
        self.cat_output_cell_states = cat_output_cell_states
        report.warn_unused()

    def forward(self, inp: Value, hx: Any = None, cx: Any = None) -> Any:
        """Run over sequences.

        Args:
            inp: ``[steps, batch, input_size]``, ``[batch, steps, input_size]`` with
                ``batch_first``, or ``[steps, input_size]``.
            hx: initial hidden states, ``[num_layers * directions, batch, hidden_size]``; or a
                tuple of these and the cell states. Zeros by default.
            cx: initial cell states, of the same shape or a list with one for each; zeros by
                default.

        Returns:
            The outputs, laid out as the input, with ``hidden_size * directions`` features; and the
            last hidden and cell states, each ``[num_layers * directions, batch, hidden_size]``.
        """
        if isinstance(hx, tuple) and not isinstance(hx, QuantTensor):
            if cx is not None or len(hx) != 2:
                raise ValueError(
                    f"hx is a tuple of {len(hx)} and cx is {type(cx).__name__}: expected a tuple "
                    "of hidden and cell states alone, or both as arguments. Layer: QuantLSTM"
                )
            hx, cx = hx
        output, hidden, cells = self._run(inp, hx, cx)
        if not self.cat_output_cell_states:
            return output, (hidden, [self._packed(cell) for cell in cells])
        is_dynamic = self._is_dynamic("cell_state_quant")
        return output, (hidden, self._packed(joined(cells, 0, is_dynamic)))
