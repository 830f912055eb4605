"""Every predefined quantizer, built as a layer builds it: the rows of the batteries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.core.bit_width import BitWidthParameter
from brevitas.core.quant import (
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
    PrescaledRestrictIntQuant,
    RescalingIntQuant,
)
from brevitas.core.quant.float import FloatQuant
from brevitas.inject.enum import BitWidthImplType, ScalingImplType
from brevitas.quant import (
    fixed_point,
    float_quant_fnuz,
    float_quant_ocp,
    mx_quant_ocp,
    scaled_int,
    shifted_scaled_int,
    ternary,
)
from brevitas.quant import float as float_quant
from brevitas.quant.base import (
    AccumulatorAwareWeightQuant,
    WeightNormPerChannelFloatDecoupled,
    WeightPerChannelFloatDecoupled,
    WeightPerTensorFloatDecoupledL2Param,
)
from brevitas.quant.mx_quant_ocp import MXActMixin
from brevitas.quant.solver import ActQuantSolver, BiasQuantSolver, WeightQuantSolver

FUSED = (
    RescalingIntQuant,
    PrescaledRestrictIntQuant,
    DecoupledRescalingIntQuant,
    DecoupledRescalingIntQuantWithInput,
)
DECOUPLED = (
    WeightPerChannelFloatDecoupled,
    WeightPerTensorFloatDecoupledL2Param,
    WeightNormPerChannelFloatDecoupled,
)
#: What a quantizer returns, in this order; the last two where integers have a grid of their own.
FIELDS = ("value", "scale", "zero_point", "bit_width", "pre_scale", "pre_zero_point")
BIAS_SCALE = torch.tensor([0.011, 0.02, 0.5, 0.3])
# What quantizers leave to whoever uses them.
EXTRA: dict[str, dict[str, Any]] = {
    "IntBias": {"bit_width": 8},
    # Groups that do not divide the data, whose last one is filled up.
    "ShiftedUint8WeightGroupQuantFloat": {"group_size": 16},
    "MXInt8Act": {"group_dim": -1, "group_size": 8},
    "MXFloat8e4m3Act": {"group_dim": -1, "group_size": 8},
}
# The same for minifloats of any format, and the shape of a scale per channel.
FORMAT = {"exponent_bit_width": 3, "mantissa_bit_width": 2, "bit_width": 6}
PER_CHANNEL = {"per_channel_broadcastable_shape": (1, 3, 1, 1)}
# How far a search goes is for its own tests.
FEW_ITERATIONS = {"hqo_iters_scale": 20, "hqo_iters_zp": 20}
Change = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Row:
    """One quantizer, and the phase in which it is checked."""

    module: str
    name: str
    quantizer: Any
    phase: str

    @property
    def is_bias(self) -> bool:
        return issubclass(self.quantizer, BiasQuantSolver)

    @property
    def is_act(self) -> bool:
        return issubclass(self.quantizer, ActQuantSolver)

    @property
    def is_decoupled(self) -> bool:
        return issubclass(self.quantizer, DECOUPLED)

    @property
    def is_normalized(self) -> bool:
        """Whether a weight is given a learned norm."""
        return issubclass(self.quantizer, WeightNormPerChannelFloatDecoupled)

    @property
    def is_accumulator_aware(self) -> bool:
        return issubclass(self.quantizer, AccumulatorAwareWeightQuant)

    @property
    def is_const(self) -> bool:
        """Whether the scale is declared as a constant."""
        declared = self.quantizer.let(scaling_impl_type=None) if self.is_bias else self.quantizer
        return declared.scaling_impl_type is ScalingImplType.CONST

    @property
    def is_dynamic(self) -> bool:
        """Whether an activation has a scale of its own for each input."""
        return self.is_act and issubclass(self.quantizer, MXActMixin)

    @property
    def has_real_zero_point(self) -> bool:
        """Whether the zero point is declared to be no integer."""
        declared = self.quantizer
        return "quantize_zero_point" in declared and not declared.quantize_zero_point

    @property
    def bits(self) -> int:
        """The declared number of bits."""
        return self.quantizer.let(**self.extra).bit_width

    @property
    def extra(self) -> dict[str, Any]:
        """What a quantizer needs to be told."""
        told = dict(EXTRA.get(self.name, {}))
        if self.name.startswith(("FpOCP", "FpFNUZ")):
            told |= FORMAT
        if self.name.endswith("HQO"):
            told |= FEW_ITERATIONS
        return told | (PER_CHANNEL if "PerChannelFloat2d" in self.name else {})

    def __str__(self) -> str:
        return f"{self.name}-{self.phase}" if self.phase else self.name

    def data(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        shape = (4,) if self.is_bias else (4, 40)
        if self.is_act:
            shape = (2, 3, 5, 4) if "2d" in self.name else (2, 3, 20)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 2

    def build(self, dtype: torch.dtype = torch.float32, **declared: Any) -> nn.Module:
        """The tensor quantizer, as a layer builds it, at the beginning of the row's phase."""
        declared = {**self.extra, **declared}
        if self.phase == "learned":
            declared = {"collect_stats_steps": 1, **declared}
        learned = declared.get("bit_width_impl_type") is BitWidthImplType.PARAMETER
        if self.is_decoupled and learned:  # its parts are declared, not chosen by enums
            declared["bit_width_impl"] = BitWidthParameter
        torch.manual_seed(0)
        quantizer = self.quantizer.let(**declared)
        if self.is_act:
            proxy = qnn.QuantIdentity(act_quant=quantizer.let(min_val=-1.5, max_val=2.5)).act_quant
            tensor_quant = proxy.fused_activation_quant_proxy.tensor_quant.to(dtype)
        else:
            role = "bias_quant" if self.is_bias else "weight_quant"
            layer = qnn.QuantLinear(40, 4, True, **{"weight_quant": None, role: quantizer})
            tensor_quant = getattr(layer.to(dtype), role).tensor_quant
        if self.phase == "learned":
            run(tensor_quant, self.data(dtype, seed=1))
        return tensor_quant


def _encode(value: Any) -> Any:
    """Spell a declared value as the contract does."""
    if isinstance(value, nn.Module):
        return repr(value)
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, type):
        return f"class:{value.__module__}.{value.__qualname__}"
    return list(value) if isinstance(value, tuple) else value


def assert_declares(quantizer: Any, contract: dict[str, dict[str, Any]]) -> None:
    """Check values and parts of a declaration against those that the contract lists."""
    values = {name: _encode(getattr(quantizer, name)) for name in contract["values"]}
    assert values == contract["values"]
    # A part is a class, looked up without building it.
    declared = {name: quantizer.__declarations__[name].part for name in contract["parts"]}
    names = {name: path.rpartition(".")[2] for name, path in contract["parts"].items()}
    assert {name: part.__name__ for name, part in declared.items()} == names


def as_given(value: Tensor, x: Tensor) -> Tensor:
    """Bring a quantized value, which may be in groups, into the shape of what was quantized."""
    if value.dim() == x.dim():
        return value
    return value.flatten(-2)[..., : x.shape[-1]]


def bias_scale(dtype: torch.dtype) -> Tensor:
    return BIAS_SCALE.to(torch.promote_types(dtype, torch.float32), copy=True)


def run(tensor_quant: nn.Module, x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, ...]:
    """Quantize; a bias without a scale of its own is given one."""
    if isinstance(tensor_quant, PrescaledRestrictIntQuant):
        return tensor_quant(x, bias_scale(x.dtype) if scale is None else scale)
    if isinstance(tensor_quant, DecoupledRescalingIntQuantWithInput):
        return tensor_quant(x, torch.tensor(8.0), True)
    return tensor_quant(x)


def int_part(tensor_quant: nn.Module) -> Any:
    """The part that rounds and clamps."""
    decoupled = isinstance(tensor_quant, DecoupledRescalingIntQuant)
    return tensor_quant.decoupled_int_quant if decoupled else tensor_quant.int_quant


def integer_grid(outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the grid on which the integers are found."""
    return outputs[-2:] if len(outputs) == len(FIELDS) else outputs[1:3]


def on_one_grid(
    tensor_quant: nn.Module, scale: Tensor, zero_point: Tensor, bit_width: Tensor, x: Tensor
) -> Tensor:
    """Quantize by the part that rounds and clamps, with one grid for integers and result."""
    part, grid = int_part(tensor_quant), (scale, zero_point)
    twice = isinstance(tensor_quant, DecoupledRescalingIntQuant)
    return part(*grid, *(grid if twice else ()), bit_width, x)


def gradients(
    row: Row, change: Change, dtype: torch.dtype, fields: tuple[str, ...], **declared: Any
) -> dict[str, Tensor]:
    """Outputs and gradients of one step of a quantizer, by name.

    Args:
        row: the quantizer.
        change: what is done to it first.
        dtype: of its parameters and input.
        fields: names of its outputs, of which those that are no tensors are left out.
        **declared: what is declared otherwise.
    """
    tensor_quant = row.build(dtype, **declared)
    change(tensor_quant)
    x = row.data(dtype).requires_grad_()
    scale = bias_scale(dtype).requires_grad_() if row.is_bias else None
    outputs = run(tensor_quant, x, scale)
    weight = torch.linspace(-1.0, 2.0, x.numel(), dtype=dtype).reshape(x.shape)
    (as_given(outputs[0], x) * weight).sum().backward()
    leaves = {"x": x, "given scale": scale, **dict(tensor_quant.named_parameters())}
    grads = {f"grad {name}": p.grad for name, p in leaves.items() if p is not None}
    named = {**dict(zip(fields, outputs, strict=False)), **grads}
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def called_parts(row: Row, change: Change, names: list[str]) -> list[str]:
    """Which of the named parts are called in one step of a changed quantizer."""
    tensor_quant, called, handles = row.build(), [], []
    change(tensor_quant)
    for name in names:
        part = tensor_quant.get_submodule(name)
        hook = part.register_forward_pre_hook(lambda *arguments, name=name: called.append(name))
        handles.append(hook)
    run(tensor_quant, row.data())
    for handle in handles:  # a part may be shared with other quantizers
        handle.remove()
    return called


def corner(row: Row, kind: str) -> Tensor:
    """An input that is all zero or constant, or has one number that is none."""
    x = row.data()
    if kind in ("zero", "constant"):
        return torch.full_like(x, {"zero": 0.0, "constant": 0.7}[kind])
    x.view(-1)[0] = float(kind)
    return x


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def rows(modules: tuple[Any, ...], kinds: tuple[type, ...]) -> Iterator[Row]:
    solvers = (WeightQuantSolver, ActQuantSolver, BiasQuantSolver, *DECOUPLED)
    for module in modules:
        for name in module.__all__:
            quantizer = getattr(module, name)
            if not issubclass(quantizer, solvers):
                continue
            collects = "collect_stats_steps" in quantizer and not issubclass(quantizer, MXActMixin)
            for phase in ("collecting", "learned") if collects else ("",):
                row = Row(module.__name__, name, quantizer, phase)
                if type(row.build()) in kinds:
                    yield row


INTS = (scaled_int, fixed_point, shifted_scaled_int, ternary, mx_quant_ocp)
ROWS = list(rows(INTS, FUSED))
FLOAT_ROWS = list(rows((float_quant, float_quant_ocp, float_quant_fnuz), (FloatQuant,)))
GROUP_FLOAT_ROWS = list(rows((mx_quant_ocp,), (FloatQuant,)))
