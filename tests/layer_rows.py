"""Every public layer, as its users build it: the rows of the batteries of layers.

A row says how to build the layer, which float layer it stands for, and what both take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import brevitas.nn as qnn
from brevitas.inject.enum import ScalingImplType
from brevitas.nn.equalized_layer import EqualizedModule, RotatedModule
from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer
from brevitas.nn.target import flexml
from brevitas.quant import (
    Int8AccumulatorAwareWeightQuant,
    Int8AccumulatorAwareZeroCenterWeightQuant,
    Int8ActPerTensorFloat,
    Int8BiasPerTensorFloatInternalScaling,
    Int8WeightNormL2PerChannelFixedPoint,
    Int8WeightPerChannelFloatDecoupled,
    Int8WeightPerTensorFloat,
    Int32Bias,
    RoundTo8bit,
    ShiftedUint8ActPerTensorFloat,
    ShiftRoundSaturateTo8bit,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    TruncTo8bit,
)
from brevitas.quant.base import IntQuant
from brevitas.quant.solver import ClampQuantSolver
from brevitas.quant_tensor import plain
from recurrent import FLOAT_LSTM, FLOAT_RNN

Call = Callable[[Any, Any], Any]


class Kind(Enum):
    """What a layer is given."""

    #: Real numbers.
    REAL = "real"
    #: Places in a table.
    PLACES = "places"
    #: Integers of 12 bits, such as the sums of a layer, with their scale.
    INTEGERS = "integers"


def on_one(layer: Any, x: Any) -> Any:
    """Call a layer of one input."""
    return layer(x)


@dataclass(frozen=True, eq=False)
class Row:
    """A quantized layer, its float twin, and an input for both."""

    layer: type[nn.Module]
    #: Builds the float layer from the same arguments and options.
    twin: Callable[..., nn.Module]
    arguments: tuple[Any, ...]
    shape: tuple[int, ...]
    #: Keywords by which every quantizer of the layer holds learned values.
    keywords: dict[str, Any] = field(default_factory=dict)
    #: Keywords that leave the layer in floating point; None where only `disable_quant` does.
    plain: dict[str, Any] | None = field(default_factory=dict)
    #: Keywords by which the layer returns quantized tensors; None where it never does.
    returns: dict[str, Any] | None = None
    kind: Kind = Kind.REAL
    call: Call = on_one
    #: Whether it takes `device` and `dtype`.
    takes_factory: bool = True
    #: Whether names, start values, and the order of sums are those of the twin.
    is_exact: bool = True
    #: Keywords that the float layer takes, too.
    options: dict[str, Any] = field(default_factory=dict)
    #: Builds the layer where it is given modules, which each layer needs of its own.
    builder: Callable[..., nn.Module] | None = None

    @property
    def has_weight(self) -> bool:
        return issubclass(self.layer, (QuantWeightBiasInputOutputLayer, qnn.QuantEmbedding))

    @property
    def computes(self) -> bool:
        """Whether a quantized weight meets an input of real numbers."""
        return self.has_weight and self.kind is Kind.REAL


LearnedWeight = Int8WeightPerTensorFloat.let(scaling_impl_type=ScalingImplType.PARAMETER_FROM_STATS)
QUANTIZED: dict[str, Any] = {
    "weight_quant": LearnedWeight,
    "bias_quant": Int8BiasPerTensorFloatInternalScaling,
    "input_quant": Int8ActPerTensorFloat,
    "output_quant": ShiftedUint8ActPerTensorFloat,
}
WEIGHT_PLAIN = {"weight_quant": None}
ACT_PLAIN = {"act_quant": None}
BOTH_PLAIN = {"input_quant": None, "output_quant": None}
RETURNS = {"return_quant_tensor": True}
# What a layer returns where nothing quantizes its output: its accumulator.
SUMS = {**RETURNS, "output_quant": None, "bias_quant": None, "input_quant": Int8ActPerTensorFloat}
ROWS: dict[str, Row] = {}


# Weights -----------------------------------------------------------------------------------------


def _weighted(layer: str, arguments: tuple[Any, ...], shape: tuple[int, ...], **weight: Any) -> Row:
    classes = getattr(qnn, "Quant" + layer), getattr(nn, layer)
    return Row(*classes, arguments, shape, {**QUANTIZED, **weight}, WEIGHT_PLAIN, SUMS)


ROWS["linear"] = _weighted("Linear", (4, 6), (3, 4))
for _dims in (1, 2, 3):
    for _kind in ("Conv", "ConvTranspose"):
        _name, _shape = f"{_kind}{_dims}d", (2, 4, *[5] * _dims)
        ROWS[_name.lower()] = _weighted(_name, (4, 6, 3), _shape)
for _name, _kind, _quantizer in (
    ("binary", "Linear", SignedBinaryWeightPerTensorConst),
    ("decoupled", "Linear", Int8WeightPerChannelFloatDecoupled),
    ("weight_norm", "Conv2d", Int8WeightNormL2PerChannelFixedPoint),
    ("accumulator_aware", "Linear", Int8AccumulatorAwareWeightQuant),
    ("zero_center", "ConvTranspose2d", Int8AccumulatorAwareZeroCenterWeightQuant),
):
    _sizes: Any = ((4, 6), (3, 4)) if _kind == "Linear" else ((4, 6, 3), (2, 4, 5, 5))
    ROWS[f"{_kind.lower()}_{_name}"] = _weighted(_kind, *_sizes, weight_quant=_quantizer)
ROWS["embedding"] = Row(
    qnn.QuantEmbedding,
    nn.Embedding,
    (6, 4),
    (3, 4),
    {"weight_quant": LearnedWeight},
    WEIGHT_PLAIN,
    RETURNS,
    Kind.PLACES,
)
ROWS["scale_bias"] = Row(
    qnn.QuantScaleBias, qnn.ScaleBias, (4, True), (3, 4, 5, 5), QUANTIZED, WEIGHT_PLAIN, SUMS
)


class FloatScaleBias(nn.Module):
    """``ScaleBias`` in plain PyTorch."""

    def __init__(self, num_features: int, bias: bool, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features, **factory))
        self.bias = nn.Parameter(torch.zeros(num_features, **factory)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.weight[:, None, None]
        return y if self.bias is None else y + self.bias[:, None, None]


ROWS["float_scale_bias"] = Row(qnn.ScaleBias, FloatScaleBias, (4, True), (3, 4, 5, 5))


def _batch_norm(build: type[nn.Module]) -> Callable[..., nn.Module]:
    """A batch normalization in evaluation, that has seen data."""

    def normalization(features: int, **factory: Any) -> nn.Module:
        generator = torch.Generator().manual_seed(5)
        layer = build(features, **factory).eval()
        for name, tensor in layer.state_dict().items():
            if name != "num_batches_tracked":
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        return layer

    return normalization


for _dims in (1, 2):
    ROWS[f"batch_norm{_dims}d"] = Row(
        getattr(qnn, f"BatchNorm{_dims}dToQuantScaleBias"),
        _batch_norm(getattr(nn, f"BatchNorm{_dims}d")),
        (4,),
        (3, 4, *[5] * _dims),
        QUANTIZED,
        WEIGHT_PLAIN,
        SUMS,
        is_exact=False,
    )


class FloatHadamard(nn.Module):
    """``HadamardClassifier`` in plain PyTorch."""

    def __init__(self, inputs: int, outputs: int, **factory: Any) -> None:
        super().__init__()
        rows = torch.ones(1, 1, **factory)
        while len(rows) < max(inputs, outputs):
            rows = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], **factory), rows)
        self.register_buffer("rows", rows[:outputs, :inputs], persistent=False)
        self.scale = nn.Parameter(torch.tensor(outputs**-0.5, **factory))

    def forward(self, x: Tensor) -> Tensor:
        return -self.scale * F.linear(x / (x.norm() + 1e-8), self.rows)


ROWS["hadamard"] = Row(
    qnn.HadamardClassifier, FloatHadamard, (5, 3), (4, 5), {}, {}, RETURNS, is_exact=False
)


# Activations -------------------------------------------------------------------------------------

for _name, _float in (
    ("ReLU", nn.ReLU),
    ("Sigmoid", nn.Sigmoid),
    ("Tanh", nn.Tanh),
    ("HardSwish", nn.Hardswish),
    ("Identity", nn.Identity),
):
    _layer = getattr(qnn, "Quant" + _name)
    ROWS[_name.lower()] = Row(_layer, _float, (), (3, 4), {}, ACT_PLAIN, RETURNS)
ROWS["hardtanh"] = Row(
    qnn.QuantHardTanh,
    nn.Hardtanh,
    (),
    (3, 4),
    {"min_val": -1.0, "max_val": 1.0},
    ACT_PLAIN,
    RETURNS,
)
ROWS["identity_binary"] = Row(
    qnn.QuantIdentity,
    nn.Identity,
    (),
    (3, 4),
    {"act_quant": SignedBinaryActPerTensorConst},
    ACT_PLAIN,
    RETURNS,
)
ROWS["leaky_relu"] = Row(
    flexml.FlexMLQuantLeakyReLU, nn.LeakyReLU, (0.125,), (3, 4), {}, None, {}, takes_factory=False
)


# Two operands ------------------------------------------------------------------------------------


class Add(nn.Module):
    """The sum of two tensors."""

    def forward(self, x: Any, y: Any) -> Any:
        return x + y


class Cat(nn.Module):
    """Tensors one after the other."""

    def forward(self, tensors: Any, dim: int = 1) -> Any:
        return torch.cat(tensors, dim)


def on_halves(layer: Any, x: Any) -> Any:
    return layer(x, plain(x) / 2)


def on_list(layer: Any, x: Any) -> Any:
    return layer([x, plain(x) / 2])


OPERANDS_RETURN = {**RETURNS, "output_quant": None}
ROWS["add"] = Row(
    qnn.QuantEltwiseAdd, Add, (), (3, 4), {}, BOTH_PLAIN, OPERANDS_RETURN, call=on_halves
)
ROWS["cat"] = Row(qnn.QuantCat, Cat, (), (3, 4), {}, BOTH_PLAIN, OPERANDS_RETURN, call=on_list)


# Integers ----------------------------------------------------------------------------------------


class LearnedClamp(IntQuant, ClampQuantSolver):
    """Clamp to a number of bits that is learned."""

    bit_width = 8
    bit_width_impl_type = "parameter"
    bit_width_to_remove = 4


TRUNCATIONS = {
    "TruncTo8bit": TruncTo8bit,
    "RoundTo8bit": RoundTo8bit,
    "ShiftRoundSaturateTo8bit": ShiftRoundSaturateTo8bit,
}
STAYS_PLAIN = {"return_quant_tensor": False}
IMAGE = (2, 3, 4, 4)


def _of_integers(
    layer: Any,
    twin: Any,
    arguments: tuple[Any, ...] = (),
    keywords: dict[str, Any] | None = None,
    plain: dict[str, Any] | None = None,
    shape: tuple[int, ...] = IMAGE,
) -> Row:
    left = {**STAYS_PLAIN, **(plain or {})}
    options: dict[str, Any] = {"kind": Kind.INTEGERS, "takes_factory": keywords is not None}
    return Row(layer, twin, arguments, shape, keywords or {}, left, {}, **options)


# The older names of the pools are the same classes.
for _layer, _float, _arguments in (
    (qnn.TruncQuantAccumulator, nn.Identity, ()),
    (qnn.TruncAvgPool2d, nn.AvgPool2d, (2,)),
    (qnn.TruncAdaptiveAvgPool2d, nn.AdaptiveAvgPool2d, (1,)),
):
    for _name, _quantizer in TRUNCATIONS.items():
        _keywords = {"trunc_quant": _quantizer}
        ROWS[f"{_layer.__name__}-{_name}"] = _of_integers(
            _layer, _float, _arguments, _keywords, {"trunc_quant": None}
        )
ROWS["clamp"] = _of_integers(
    qnn.ClampQuantAccumulator,
    nn.Identity,
    (),
    {"clamp_quant": LearnedClamp},
    {"clamp_quant": None},
)
ROWS["upsample"] = _of_integers(qnn.QuantUpsample, nn.Upsample, (None, 2))
ROWS["upsample_nearest"] = _of_integers(
    qnn.QuantUpsamplingNearest2d, nn.UpsamplingNearest2d, (None, 2)
)
ROWS["upsample_bilinear"] = _of_integers(
    qnn.QuantUpsamplingBilinear2d, nn.UpsamplingBilinear2d, (None, 2)
)
ROWS["max_pool1d"] = _of_integers(qnn.QuantMaxPool1d, nn.MaxPool1d, (2,), shape=(2, 3, 4))
ROWS["max_pool2d"] = _of_integers(qnn.QuantMaxPool2d, nn.MaxPool2d, (2,))
ROWS["dropout"] = _of_integers(qnn.QuantDropout, nn.Dropout, (0.5,))
ROWS["reciprocal_pool"] = _of_integers(flexml.FlexMLQuantAvgPool2d, nn.AvgPool2d, (2,))


# Attention ---------------------------------------------------------------------------------------


class FloatProduct(nn.Module):
    """``torch.nn.functional.scaled_dot_product_attention``."""

    def forward(self, *tensors: Tensor, **options: Any) -> Tensor:
        return F.scaled_dot_product_attention(*tensors, **options)


def on_itself(layer: Any, x: Any) -> Any:
    return layer(x, x, x)


def on_its_past(layer: Any, x: Any) -> Any:
    return layer(x, x, x, is_causal=True)


PRODUCT_PLAIN = dict.fromkeys(
    ("q_scaled_quant", "k_transposed_quant", "attn_output_weights_quant", "v_quant")
)
PROJECTION_PLAIN = dict.fromkeys(
    f"{side}_proj_{tensor}_quant"
    for side in ("in", "out")
    for tensor in ("input", "weight", "bias")
)
for _packed in (True, False):
    ROWS["attention_packed" if _packed else "attention_separate"] = Row(
        qnn.QuantMultiheadAttention,
        nn.MultiheadAttention,
        (8, 2),
        (5, 3, 8),
        {
            "packed_in_proj": _packed,
            "in_proj_weight_quant": LearnedWeight,
            "in_proj_bias_quant": Int8BiasPerTensorFloatInternalScaling,
            "softmax_input_quant": Int8ActPerTensorFloat,
            "out_proj_bias_quant": Int32Bias,
            "out_proj_output_quant": ShiftedUint8ActPerTensorFloat,
        },
        {**PRODUCT_PLAIN, **PROJECTION_PLAIN, "packed_in_proj": _packed},
        RETURNS,
        call=on_itself,
        is_exact=False,
    )
ROWS["attention_product"] = Row(
    qnn.QuantScaledDotProductAttention,
    FloatProduct,
    (),
    (2, 3, 5, 4),
    {"sdpa_output_quant": Int8ActPerTensorFloat},
    PRODUCT_PLAIN,
    {"sdpa_output_return_quant_tensor": True},
    call=on_its_past,
)
ROWS["float_attention_product"] = Row(
    qnn.ScaledDotProductAttention,
    FloatProduct,
    (),
    (2, 3, 5, 4),
    call=on_its_past,
    takes_factory=False,
)


# Recurrent ---------------------------------------------------------------------------------------

SEQUENCE = (2, 2, 4)
ROWS["rnn"] = Row(qnn.QuantRNN, nn.RNN, (4, 3), SEQUENCE, {}, FLOAT_RNN, RETURNS, is_exact=False)
ROWS["lstm"] = Row(
    qnn.QuantLSTM, nn.LSTM, (4, 3), SEQUENCE, {}, FLOAT_LSTM, RETURNS, is_exact=False
)
# Of two layers, which share their quantizers.
ROWS["lstm_shared"] = Row(
    qnn.QuantLSTM,
    nn.LSTM,
    (4, 3),
    SEQUENCE,
    {
        "shared_intra_layer_weight_quant": True,
        "shared_intra_layer_gate_acc_quant": True,
    },
    FLOAT_LSTM,
    RETURNS,
    is_exact=False,
    options={"num_layers": 2, "batch_first": True},
)
# Of gates and weights that a float layer cannot share.
ROWS["lstm_tied"] = Row(
    qnn.QuantLSTM,
    nn.LSTM,
    (4, 3),
    SEQUENCE,
    {"coupled_input_forget_gates": True, "shared_input_hidden_weights": True},
    FLOAT_LSTM,
    RETURNS,
    is_exact=False,
    options={"bidirectional": True},
)


# Wrapped ----------------------------------------------------------------------------------------


class FloatWrapped(nn.Module):
    """A linear layer behind a change of its input."""

    def __init__(self, change: Callable[[Tensor], Tensor], inputs: int, outputs: int) -> None:
        super().__init__()
        self.change = change
        self.layer = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.change(x))


class Scaled(nn.Module):
    """Features times fixed numbers."""

    def forward(self, x: Any) -> Any:
        value = plain(x)
        return value * torch.tensor([0.5, 1.0, 2.0, 4.0]).to(value)


def _equalized(inputs: int, outputs: int, **keywords: Any) -> nn.Module:
    return EqualizedModule(Scaled(), qnn.QuantLinear(inputs, outputs, **keywords))


def _float_equalized(inputs: int, outputs: int) -> nn.Module:
    return FloatWrapped(Scaled(), inputs, outputs)


def _rotated(inputs: int, outputs: int, **keywords: Any) -> nn.Module:
    return RotatedModule(qnn.QuantLinear(inputs, outputs, **keywords))


def _float_rotated(inputs: int, outputs: int) -> nn.Module:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    rotation = torch.kron(signs, signs) / 2
    return FloatWrapped(lambda x: x @ rotation.to(x), inputs, outputs)


for _class, _builder, _twin in (
    (EqualizedModule, _equalized, _float_equalized),
    (RotatedModule, _rotated, _float_rotated),
):
    ROWS[_class.__name__.removesuffix("Module").lower()] = Row(
        _class,
        _twin,
        (4, 6),
        (3, 4),
        QUANTIZED,
        WEIGHT_PLAIN,
        SUMS,
        takes_factory=False,
        is_exact=False,
        builder=_builder,
    )
