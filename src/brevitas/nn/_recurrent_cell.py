"""One step of a recurrent layer: its quantizers, and what is computed with them. Layer: nn (L6)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from brevitas.nn._recurrent_gradients import LSTMGradients, supports_gradients
from brevitas.nn._recurrent_in_place import InPlaceLSTM, InPlaceRNN
from brevitas.nn._step_quantizers import (
    Apart,
    BareQuantizer,
    Linearized,
    SideBySide,
    StepQuantizer,
    prepared,
)
from brevitas.nn.mixin.act import ActQuantType
from brevitas.nn.mixin.base import KeywordReport, QuantProxyMixin
from brevitas.ops.linearized import GridGradients
from brevitas.proxy.runtime_quant import ActQuantProxyFromInjectorBase
from brevitas.quant.none import NoneActQuant
from brevitas.quant_tensor import QuantTensor, plain

__all__ = ["Cell", "LSTMCell", "LSTMStep", "RNNCell", "PureStep", "RNNStep", "State", "Step"]


class State(NamedTuple):
    """What one step hands to the next one."""

    #: ``[batch, hidden_size]``; with its scale where the quantizer has to be called.
    hidden: Tensor | QuantTensor
    #: ``[batch, hidden_size]``; None in a layer without a cell state.
    cell: Tensor | QuantTensor | None = None


class Step(ABC):
    """The computation of one step with quantizers that were prepared for the sequence."""

    #: Quantizer of the hidden state, which is the output of the layer.
    output: StepQuantizer
    #: Quantizer of the cell state, where there is one.
    cell_state: StepQuantizer | None = None
    #: What else tells one step from another.
    options: Hashable
    #: Attributes that are quantizers, by which a step is made a pure function.
    operations: Sequence[str]
    #: Those of them that quantize several tensors side by side.
    joint: Sequence[str] = ()
    #: Writes a step into buffers; made of a step of single operations and of gates.
    in_place: Any

    def pure(self) -> PureStep | None:
        """The step as a function of tensors; None where a quantizer has to be called."""
        found = [(name, getattr(self, name).operation) for name in self.operations]
        if any(operation is None for _, operation in found):
            return None
        return PureStep(self, dict(found))

    @abstractmethod
    def __call__(self, gates: Tensor, state: State) -> State:
        """Return the next state.

        Args:
            gates: products of input and hidden state with the weights, ``[batch, gates, size]``;
                one by one where the quantizers are ``Apart``.
            state: state after the step before.
        """


class PureStep:
    """A step as a function of the gates, the states and the tensors of its quantizers.

    Args:
        step: a step whose quantizers all are single operations.
        operations: these, by the attribute of the step.
    """

    def __init__(self, step: Step, operations: Mapping[str, Any]) -> None:
        # A copy that holds no quantizer: what is compiled of it outlives the layer.
        self.step = _with_operations(step, operations)
        self.operations = operations

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors of the quantizers."""
        return [tensor for operation in self.operations.values() for tensor in operation.tensors()]

    @property
    def kind(self) -> Hashable:
        """Tells apart the functions that differ in more than their tensors."""
        operations = tuple(operation.kind() for operation in self.operations.values())
        return type(self.step), self.step.options, operations

    def __call__(
        self, parameters: Sequence[Tensor], gates: Any, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Return the next states, on other tensors in the place of those of the quantizers.

        Args:
            parameters: as many tensors as ``parameters`` has.
            gates: ``[..., gates, size]``; of a step that is ``apart`` one by one.
            states: hidden state first.
        """
        tensors = iter(parameters)
        found = {name: op.with_tensors(tensors) for name, op in self.operations.items()}
        return _tensors(_with_operations(self.step, found)(gates, State(*states)))

    def linearized(self, asked: GridGradients) -> Any:
        """The step with the derivatives of its quantizers found in the forward pass.

        Args:
            asked: whether a backward pass finds the gradients of the quantizers' tensors.
        """
        found = {name: Linearized(op, asked) for name, op in self.operations.items()}
        return PureStep(self.step, found)

    def apart(self) -> PureStep:
        """The step as a function that takes the gates one by one, as a compiler likes them."""
        joint = self.step.joint
        found = {n: Apart(op) if n in joint else op for n, op in self.operations.items()}
        return PureStep(self.step, found)

    def writing(self, like: Tensor) -> Any:
        """Return a function that writes the next states into buffers, on the tensors at hand.

        Args:
            like: gates of one step, ``[batch, gates, size]``.

        Returns:
            None where the values would take other shapes or dtypes.
        """
        with torch.no_grad():
            found = self.step.in_place(self.step, like)
        return found if found.usable else None

    def gradients(self, like: Tensor) -> Any:
        """Return what makes the backward pass, see ``ops.recurrence``; None for autograd.

        Args:
            like: gates of one step, ``[batch, gates, size]``.
        """
        operations = self.operations
        if not isinstance(self.step, LSTMStep) or not supports_gradients(operations, like):
            return None
        return lambda _, *arguments: LSTMGradients(operations, *arguments)


def _with_operations(step: Step, operations: Mapping[str, Any]) -> Step:
    changed = copy.copy(step)
    for name, operation in operations.items():
        setattr(changed, name, operation)
    return changed


def _tensors(state: State) -> tuple[Any, ...]:
    return (state.hidden,) if state.cell is None else (state.hidden, state.cell)


def _split_last(gates: Any) -> tuple[Any, Tensor]:
    """All tensors side by side but the last one, and that."""
    if not isinstance(gates, Tensor):
        return gates[:-1], gates[-1]
    first, last = gates.split((gates.shape[-2] - 1, 1), dim=-2)
    return first, last.squeeze(-2)


def _each(tensors: Any) -> Sequence[Tensor]:
    """Tensors side by side, one by one."""
    return tensors.unbind(-2) if isinstance(tensors, Tensor) else tensors


def _described(quantizer: Any, x: Tensor) -> Tensor | QuantTensor:
    """Quantize a state; on a fixed grid the scale need not be told at every step."""
    return quantizer(x) if quantizer.is_fixed else quantizer.quant_tensor(x)


class Cell(QuantProxyMixin, nn.Module, ABC):
    """Holds the quantizers of a step; a step is prepared from it for each sequence."""

    output_quant: Any

    def attach_act(
        self,
        name: str,
        quant: ActQuantType | None,
        prefix: str,
        report: KeywordReport,
        act_impl: type[nn.Module] | None = None,
        **factory: Any,
    ) -> None:
        """Attach a quantizer with its activation function as the submodule ``<name>_quant``."""
        extra = factory if act_impl is None else {**factory, "act_impl": act_impl}
        extra = {**extra, "passthrough_act": act_impl is None}
        base = ActQuantProxyFromInjectorBase
        self.attach_quantizer(quant, NoneActQuant, f"{name}_", prefix, report, base, **extra)

    @abstractmethod
    def prepare(self) -> Step:
        """Return the step with the quantizers as they are now."""


class RNNStep(Step):
    """``h = q(f(q(gate)))`` with a nonlinearity ``f``."""

    operations = ("gate", "output")
    in_place = InPlaceRNN

    def __init__(self, cell: RNNCell) -> None:
        quantizers = prepared({"gate": cell.gate_acc_quant, "output": cell.output_quant})
        self.gate, self.output = quantizers["gate"], quantizers["output"]
        self.options = self.function = cell.nonlinearity

    def __call__(self, gates: Tensor, state: State) -> State:
        """Return the next state."""
        (gate,) = _each(gates)
        activated = self.function(self.gate(gate))
        return State(_described(self.output, activated))


class RNNCell(Cell):
    """Quantizers of an Elman cell.

    Args:
        nonlinearity: ``"tanh"`` or ``"relu"``.
        io_quant: quantizer of the hidden state.
        gate_acc_quant: quantizer of the sum of both products.
        report: the layer's keywords.
        **factory: device and dtype of the quantizers.
    """

    def __init__(
        self,
        nonlinearity: str,
        io_quant: ActQuantType | None,
        gate_acc_quant: ActQuantType | None,
        report: KeywordReport,
        **factory: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.nonlinearity = torch.tanh if nonlinearity == "tanh" else torch.relu
        self.attach_act("gate_acc", gate_acc_quant, "gate_acc_", report, **factory)
        self.attach_act("output", io_quant, "io_", report, **factory)

    def prepare(self) -> RNNStep:
        """Return the step with the quantizers as they are now."""
        return RNNStep(self)


class LSTMStep(Step):
    """``c = q(q(f * c) + q(i * g))`` and ``h = q(o * q(tanh(c)))``.

    ``i``, ``f`` and ``o`` are quantized sigmoids, ``g`` a quantized hyperbolic tangent, of
    quantized sums. Gates lie side by side as (i, f, o, g). A coupled ``f`` is ``q(1) - i`` with the
    quantizer of ``i``, so that it is on the grid of ``i``, too.
    """

    operations = ("gates", "sigmoids", "cell_tanh", "terms", "cell_state", "hidden_tanh", "output")
    joint = ("gates", "sigmoids", "terms")
    in_place = InPlaceLSTM

    def __init__(self, cell: LSTMCell) -> None:
        self.options = self.is_coupled = cell.coupled_input_forget_gates
        quantizers = prepared({name: getattr(cell, f"{name}_quant") for name in cell.names})
        sigmoids, gates = cell.sigmoid_gates, cell.gates
        calls = [gates.index(name) for name in cell.called_gates]
        self.gates = SideBySide([quantizers[f"{name}_acc"] for name in gates], calls)
        self.sigmoids = SideBySide([quantizers[f"{name}_sigmoid"] for name in sigmoids])
        if self.is_coupled:
            self.operations = (*LSTMStep.operations, "one")
            self.one = BareQuantizer(quantizers["input_sigmoid"])
        self.cell_tanh = quantizers["cell_tanh"]
        self.cell_state = quantizers["cell_state"]
        self.terms = SideBySide([self.cell_state] * 2)
        self.hidden_tanh = quantizers["hidden_state_tanh"]
        self.output = quantizers["output"]

    def __call__(self, gates: Tensor, state: State) -> State:
        """Return the next state."""
        first, last = _split_last(self.gates(gates))
        sigmoids = _each(self.sigmoids(first))
        new = self.cell_tanh(last)
        enter, leave = sigmoids[0], sigmoids[-1]
        forget = self.one(torch.ones_like(enter)) - enter if self.is_coupled else sigmoids[1]
        terms: Any = (forget * plain(state.cell), enter * new)
        if not isinstance(self.terms, Apart):
            terms = torch.stack(terms, dim=-2)
        kept, added = _each(self.terms(terms))
        cell_state = _described(self._cell_state, kept + added)
        hidden = leave * self.hidden_tanh(plain(cell_state))
        return State(_described(self.output, hidden), cell_state)

    @property
    def _cell_state(self) -> StepQuantizer:
        assert self.cell_state is not None
        return self.cell_state


class LSTMCell(Cell):
    """Quantizers of an LSTM cell.

    Args:
        coupled_input_forget_gates: use ``1 - input gate`` as forget gate.
        io_quant: quantizer of the hidden state.
        cell_state_quant: quantizer of the cell state and of both terms that it sums.
        gate_acc_quant: quantizer of the sum of both products, of each gate.
        sigmoid_quant: quantizer of each gate after its sigmoid.
        tanh_quant: quantizer of both hyperbolic tangents.
        shared_gate_acc_quant: let all gates share one quantizer of their sums.
        report: the layer's keywords.
        **factory: device and dtype of the quantizers.
    """

    def __init__(
        self,
        coupled_input_forget_gates: bool,
        io_quant: ActQuantType | None,
        cell_state_quant: ActQuantType | None,
        gate_acc_quant: ActQuantType | None,
        sigmoid_quant: ActQuantType | None,
        tanh_quant: ActQuantType | None,
        shared_gate_acc_quant: bool,
        report: KeywordReport,
        **factory: Any,
    ) -> None:
        nn.Module.__init__(self)
        self.coupled_input_forget_gates = coupled_input_forget_gates
        forget = () if coupled_input_forget_gates else ("forget",)
        self.sigmoid_gates = ("input", *forget, "output")
        #: Gates as they lie side by side, and as their quantizers are called.
        self.gates = (*self.sigmoid_gates, "cell")
        self.called_gates = ("input", *forget, "cell", "output")
        self.attach_act("output", io_quant, "io_", report, **factory)
        self.attach_act("cell_state", cell_state_quant, "cell_state_", report, **factory)
        for name in ("input", "forget", "cell", "output"):
            shares = name != "input" and (shared_gate_acc_quant or name not in self.gates)
            self._attach_gate(f"{name}_acc", gate_acc_quant, "gate_acc_", shares, report, **factory)
        for name in ("input", "forget", "output"):
            shares, function = name not in self.gates, {"act_impl": nn.Sigmoid, **factory}
            self._attach_gate(
                f"{name}_sigmoid", sigmoid_quant, "sigmoid_", shares, report, **function
            )
        for name in ("cell", "hidden_state"):
            self.attach_act(f"{name}_tanh", tanh_quant, "tanh_", report, nn.Tanh, **factory)

    def _attach_gate(
        self,
        name: str,
        quant: Any,
        prefix: str,
        shares: bool,
        report: KeywordReport,
        **options: Any,
    ) -> None:
        """Attach the quantizer of a gate, which may be that of the input gate under its own name.

        Checkpoints hold a shared quantizer under the name of each gate.
        """
        if shares:
            kind = name.partition("_")[2]
            quant = getattr(self, f"input_{kind}_quant")
            report = KeywordReport(self, {})
        self.attach_act(name, quant, prefix, report, **options)

    @property
    def names(self) -> Sequence[str]:
        """Names of the quantizers that a step uses."""
        accumulators = [f"{name}_acc" for name in self.gates]
        sigmoids = [f"{name}_sigmoid" for name in self.sigmoid_gates]
        tanhs = ("cell_tanh", "hidden_state_tanh")
        return (*accumulators, *sigmoids, *tanhs, "cell_state", "output")

    def prepare(self) -> LSTMStep:
        """Return the step with the quantizers as they are now."""
        return LSTMStep(self)
