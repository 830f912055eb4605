"""One direction of one layer of a recurrent network: gates, a cell, and the loop over a sequence.

Layer: nn (L6).
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brevitas import config
from brevitas.nn._gates import GateParams, GateWeight
from brevitas.nn._quant_gates import quant_gates
from brevitas.nn._recurrent_cell import Cell, LSTMCell, PureStep, RNNCell, State, Step
from brevitas.nn._recurrent_states import joined
from brevitas.nn._step_quantizers import StepQuantizer
from brevitas.nn.mixin.base import KeywordReport, QuantProxyMixin
from brevitas.ops._recurrence_kernels import CompiledStep, compiled_step
from brevitas.ops.recurrence import Recurrence, run_recurrence
from brevitas.ops.region import can_run_region, runs_eagerly
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase
from brevitas.quant.none import NoneActQuant
from brevitas.quant_tensor import QuantTensor, plain

__all__ = ["LSTMLayer", "RNNLayer", "RecurrentLayer", "Sequences"]

Value: TypeAlias = Tensor | QuantTensor


class Sequences(NamedTuple):
    """What one direction of a layer returns."""

    #: ``[steps, batch, hidden_size]``
    output: Value
    #: State after the last step.
    last: State


class RecurrentLayer(QuantProxyMixin, nn.Module, ABC):
    """Base of one direction of one layer.

    The products of the whole sequence with the input weights are one matrix product for all gates;
    each step adds the product with the hidden state, one for all gates, too.

    Args:
        input_size: size of the input.
        hidden_size: size of the state.
        cell: quantizers of a step.
        io_quant: quantizer of the input, which is that of the hidden state.
        reverse_input: go through the sequence from its end.
    """

    #: Names of the gates as they lie side by side.
    gates: Sequence[str]
    io_quant: Any
    cell: Cell

    def __init__(
        self, input_size: int, hidden_size: int, cell: Cell, io_quant: Any, reverse_input: bool
    ) -> None:
        nn.Module.__init__(self)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.reverse_input = reverse_input
        self.cell = cell
        report = KeywordReport(self, {})
        base = ActQuantProxyFromInjectorBase
        shared = io_quant if io_quant is None else cell.output_quant
        self.attach_quantizer(shared, NoneActQuant, "io_", "io_", report, base)

    def gate(self, name: str) -> GateParams:
        """Return the parameters of one gate."""
        return getattr(self, self.module_name(name))

    @staticmethod
    def module_name(gate: str) -> str:
        """Name of the module that holds a gate."""
        return f"{gate}_gate_params"

    @property
    def gate_order(self) -> Sequence[str]:
        """Names of the gates in the order of their initialisation."""
        return self.gates

    def quantizers_to_share(self) -> dict[str, Any]:
        """Quantizers that the other layers and directions share, by keyword."""
        return {"io_quant": self.io_quant}

    @property
    def gate_modules(self) -> list[str]:
        """Names of the modules that hold the gates, in the order of the float layer."""
        return [self.module_name(name) for name in self.gate_order]

    def weights_to_share(self) -> list[GateWeight]:
        """Input weights that the other direction shares."""
        return [self.gate(name).input_weight for name in self.gate_order]

    def reset_parameters(self) -> None:
        """Draw weights and biases from ``uniform(-1 / sqrt(hidden_size), 1 / sqrt(hidden_size))``.

        Weights that share a quantizer are drawn after the first of them.
        """
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0.0
        drawn: set[Tensor] = set()
        for name in self.gate_order:
            gate = self.gate(name)
            sharing = gate.input_weight.weight_quant.tracked_module_list
            weights = [owner.weight for owner in sharing]
            for parameter in (gate.bias, gate.input_weight.weight, *weights):
                if parameter is not None and parameter not in drawn:
                    drawn.add(parameter)
                    nn.init.uniform_(parameter, -bound, bound)

    def forward(self, inp: Value, state: State, quantize_input: bool) -> Sequences:
        """Run over a sequence.

        Args:
            inp: ``[steps, batch, input_size]``.
            state: initial state, with None where it is zero.
            quantize_input: False where the input is the output of a layer below.
        """
        quant_input = self.io_quant(inp) if quantize_input else inp
        step = self.cell.prepare()
        parameters = quant_gates([self.gate(name) for name in self.gates], quant_input)
        projected = F.linear(plain(quant_input), parameters.input_weight, parameters.bias)
        hidden_weight = parameters.hidden_weight
        first = self._initial_state(step, state, projected)
        pure = step.pure() if _runs_whole(projected, hidden_weight, first) else None
        if pure is not None:
            return self._run_whole(pure, step, first, projected, hidden_weight)
        return self._run(step, first, projected, hidden_weight.t().contiguous())

    def _initial_state(self, step: Step, state: State, projected: Tensor) -> State:
        """Quantize the initial state; zeros where none is given."""
        zeros = projected.new_zeros(projected.shape[1], self.hidden_size)
        hidden = zeros if state.hidden is None else step.output.quant_tensor(plain(state.hidden))
        if step.cell_state is None:
            return State(hidden)
        given = state.cell
        return State(hidden, zeros if given is None else step.cell_state.quant_tensor(plain(given)))

    def _stacked(self, outputs: list[Value], quantizer: StepQuantizer) -> Value:
        if quantizer.is_fixed:
            return quantizer.describe(torch.stack([plain(output) for output in outputs]))
        return joined([output.unsqueeze(0) for output in outputs], 0, quantizer.is_dynamic)

    def _run_whole(
        self, pure: PureStep, step: Step, first: State, projected: Tensor, hidden_weight: Tensor
    ) -> Sequences:
        """Run all steps as one operation."""
        initial = tuple(plain(state) for state in first if state is not None)
        initial = tuple(state.contiguous() for state in initial)
        recurrence = self._recurrence(pure, projected, hidden_weight, initial)
        outputs, *others = run_recurrence(
            recurrence, projected, hidden_weight, initial, pure.parameters
        )
        hidden = step.output.describe(outputs[0 if self.reverse_input else -1])
        cell = None if step.cell_state is None else step.cell_state.describe(others[0])
        return Sequences(step.output.describe(outputs), State(hidden, cell))

    def _recurrence(
        self, pure: PureStep, projected: Tensor, weight: Tensor, initial: tuple[Tensor, ...]
    ) -> Recurrence:
        """The step in the fastest way there is to run it."""
        recurrence = Recurrence(
            pure, len(self.gates), self.reverse_input, linearized=pure.linearized
        )
        compiled = _compiled(pure, len(self.gates), projected, weight, initial)
        if compiled is not None:
            backward = None if compiled.backward is None else compiled.gradients
            return recurrence._replace(write=compiled.write, gradients=backward)
        like = projected[:1].detach().reshape(-1, len(self.gates), self.hidden_size)
        gradients = pure.gradients(like) if torch.is_grad_enabled() else None
        return recurrence._replace(write=pure.writing(like), gradients=gradients)

    def _run(self, step: Step, state: State, projected: Tensor, hidden_weight: Tensor) -> Sequences:
        size = (len(self.gates), self.hidden_size)
        outputs: list[Value] = []
        steps = projected.unbind(0)
        for inputs in reversed(steps) if self.reverse_input else steps:
            gates = torch.addmm(inputs, plain(state.hidden), hidden_weight)
            state = step(gates.unflatten(-1, size), state)
            outputs.append(state.hidden)
        if self.reverse_input:
            outputs.reverse()
        hidden = step.output.describe_state(state.hidden)
        cell = None if step.cell_state is None else step.cell_state.describe_state(state.cell)
        return Sequences(self._stacked(outputs, step.output), State(hidden, cell))


def _compiled(
    pure: PureStep, gates: int, projected: Tensor, weight: Tensor, initial: tuple[Tensor, ...]
) -> CompiledStep | None:
    """The step as compiled kernels; None where it is not to be compiled, or cannot be."""
    if not (config.JIT_ENABLED and can_run_region(projected)):
        return None
    parameters = pure.parameters
    tensors = (projected, weight, *initial, *parameters)
    has_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    needs = tuple(p.requires_grad for p in parameters) if has_gradient else None
    numbers = (gates, len(initial))
    return compiled_step(pure.kind, pure.apart(), *numbers, parameters, projected, needs)


def _runs_whole(projected: Tensor, weight: Tensor, state: State) -> bool:
    """Whether nobody looks into the loop, and all of its tensors are of one dtype."""
    tensors = (projected, weight, *(plain(part) for part in state if part is not None))
    if not all(runs_eagerly(t) and t.dtype == projected.dtype for t in tensors):
        return False
    return not torch.is_autocast_enabled(projected.device.type)


class RNNLayer(RecurrentLayer):
    """One direction of one layer of an Elman network.

    Args:
        input_size: size of the input.
        hidden_size: size of the state.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: learn an additive bias.
        weight_quant: quantizer of the weights.
        bias_quant: quantizer of the bias.
        io_quant: quantizer of input and hidden state.
        gate_acc_quant: quantizer of the sum of both products.
        reverse_input: go through the sequence from its end.
        input_weights: input weight of the other direction to share; None for one of its own.
        report: the layer's keywords.
        dtype: dtype of parameters and quantizers.
        device: device of parameters and quantizers.
    """

    gates = ("gate",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: str,
        bias: bool | None,
        weight_quant: Any,
        bias_quant: Any,
        io_quant: Any,
        gate_acc_quant: Any,
        reverse_input: bool,
        input_weights: list[GateWeight] | None,
        report: KeywordReport,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        cell = RNNCell(nonlinearity, io_quant, gate_acc_quant, report, **factory)
        super().__init__(input_size, hidden_size, cell, io_quant, reverse_input)
        self.gate_params = GateParams(
            input_size,
            hidden_size,
            bias,
            weight_quant,
            bias_quant,
            None if input_weights is None else input_weights[0],
            **factory,
            report=report,
        )
        self.reset_parameters()

    @staticmethod
    def module_name(gate: str) -> str:
        """The only gate has no name of its own."""
        return "gate_params"

    def reset_parameters(self) -> None:
        """Draw weights and bias as ``torch.nn.RNN`` does, after a number for each learned scale.

        What is drawn for the scale of the gate's quantizer is thrown away: it only keeps the
        weights that a seed gives.
        """
        gate_acc_quant: Any = self.cell.gate_acc_quant
        for parameter in gate_acc_quant.parameters():
            torch.empty_like(parameter).uniform_()
        super().reset_parameters()


class LSTMLayer(RecurrentLayer):
    """One direction of one layer of an LSTM.

    Args:
        input_size: size of the input.
        hidden_size: size of the state.
        bias: learn an additive bias.
        weight_quant: quantizer of the weights.
        bias_quant: quantizer of the biases.
        io_quant: quantizer of input and hidden state.
        gate_acc_quant: quantizer of the sum of both products of a gate.
        sigmoid_quant: quantizer of sigmoids.
        tanh_quant: quantizer of hyperbolic tangents.
        cell_state_quant: quantizer of the cell state.
        coupled_input_forget_gates: use ``1 - input gate`` as forget gate.
        shared_intra_layer_weight_quant: let all gates share one quantizer of their weights.
        shared_intra_layer_gate_acc_quant: let all gates share one quantizer of their sums.
        shared_cell_state_quant: let the other layers share the quantizer of the cell state.
        reverse_input: go through the sequence from its end.
        input_weights: input weights of the other direction to share; None for own ones.
        report: the layer's keywords.
        dtype: dtype of parameters and quantizers.
        device: device of parameters and quantizers.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool | None,
        weight_quant: Any,
        bias_quant: Any,
        io_quant: Any,
        gate_acc_quant: Any,
        sigmoid_quant: Any,
        tanh_quant: Any,
        cell_state_quant: Any,
        coupled_input_forget_gates: bool,
        shared_intra_layer_weight_quant: bool,
        shared_intra_layer_gate_acc_quant: bool,
        shared_cell_state_quant: bool,
        reverse_input: bool,
        input_weights: list[GateWeight] | None,
        report: KeywordReport,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        cell = LSTMCell(
            coupled_input_forget_gates,
            io_quant,
            cell_state_quant,
            gate_acc_quant,
            sigmoid_quant,
            tanh_quant,
            shared_intra_layer_gate_acc_quant,
            report,
            **factory,
        )
        super().__init__(input_size, hidden_size, cell, io_quant, reverse_input)
        self.gates = cell.gates
        self.shared_cell_state_quant = shared_cell_state_quant
        self._build_gates(
            weight_quant,
            shared_intra_layer_weight_quant,
            input_weights,
            bias=bias,
            bias_quant=bias_quant,
            report=report,
            **factory,
        )
        self.reset_parameters()

    def _build_gates(
        self,
        weight_quant: Any,
        shares_quantizer: bool,
        input_weights: list[GateWeight] | None,
        **options: Any,
    ) -> None:
        names = self.gate_order
        shared = [None] * len(names) if input_weights is None else self._in_pairs(input_weights)
        for name, weight in zip(names, shared, strict=True):
            sizes = (self.input_size, self.hidden_size)
            gate = GateParams(*sizes, weight_quant=weight_quant, input_weight=weight, **options)
            setattr(self, self.module_name(name), gate)
            if shares_quantizer:
                weight_quant = gate.input_weight.weight_quant

    def _in_pairs(self, weights: list[GateWeight]) -> list[GateWeight]:
        """Input weights of the other direction, by gate.

        As checkpoints have it, the input gate of one direction shares with the forget gate of the
        other one.
        """
        order = list(self.gate_order)
        if "forget" in order:
            first, second = order.index("input"), order.index("forget")
            weights = list(weights)
            weights[first], weights[second] = weights[second], weights[first]
        return weights

    @property
    def gate_order(self) -> Sequence[str]:
        """Names of the gates as ``torch.nn.LSTM`` lists them."""
        cell: Any = self.cell
        return cell.called_gates

    def quantizers_to_share(self) -> dict[str, Any]:
        """Quantizers that the other layers and directions share, by keyword."""
        shared = super().quantizers_to_share()
        if self.shared_cell_state_quant:
            shared["cell_state_quant"] = self.cell.cell_state_quant
        return shared
