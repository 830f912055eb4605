"""Uncommon arguments of layers, each for a layer in floating point and for its twin."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from layer_rows import Kind

#: Arguments of a row, by which its variants differ, and the shape of their input.
Base = tuple[dict[str, Any], tuple[int, ...]]
Variants = list[dict[str, Any]]


class Variant(NamedTuple):
    """A row of the battery with other arguments."""

    row: str
    arguments: dict[str, Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.row}-{self.changed}"

    @property
    def changed(self) -> dict[str, Any]:
        """The arguments that differ from those that all variants of a row have."""
        base = BASES[self.row][0]
        return {name: given for name, given in self.arguments.items() if base.get(name) != given}

    def data(self, kind: Kind) -> Tensor:
        """An input, of real numbers or of places in a table of four."""
        generator = torch.Generator().manual_seed(9)
        if kind is Kind.PLACES:
            return torch.randint(0, 4, self.shape, generator=generator)
        return torch.randn(self.shape, generator=generator)


CONVOLUTION: Variants = [
    {"groups": 2},
    {"dilation": 2},
    {"stride": 2, "padding": 1},
    {"padding": "same"},
    {"padding": "valid"},
    {"padding": "same", "dilation": 2, "padding_mode": "reflect"},
    {"padding": "same", "kernel_size": 2},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "replicate"},
    {"padding": 2, "padding_mode": "circular"},
    {"bias": False, "groups": 4, "out_channels": 8},
]
TRANSPOSED: Variants = [
    {},
    {"groups": 2},
    {"dilation": 2},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"bias": False, "stride": 3},
    {"kernel_size": 2, "groups": 4, "out_channels": 8},
]
IMAGE = (2, 3, 6, 6)
RECURRENT: Base = ({"input_size": 4, "hidden_size": 3}, (3, 2, 4))
SEQUENCES: Variants = [
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True},
    {"bias": False},
]
POOLS: Variants = [{"stride": 2, "padding": 1}, {"dilation": 2}, {"stride": 3, "ceil_mode": True}]
BASES: dict[str, Base] = {
    "linear": ({"in_features": 4, "out_features": 6}, (2, 3, 5, 4)),
    "embedding": ({"num_embeddings": 4, "embedding_dim": 3}, (2, 3)),
    "scale_bias": ({"num_features": 3, "bias": False}, IMAGE),
    "max_pool1d": ({"kernel_size": 3}, (2, 3, 8)),
    "max_pool2d": ({"kernel_size": 3}, (2, 3, 8, 8)),
    "TruncAvgPool2d-RoundTo8bit": ({"kernel_size": 2}, (2, 3, 7, 7)),
    "TruncAdaptiveAvgPool2d-RoundTo8bit": ({"output_size": 2}, (2, 3, 7, 7)),
    "reciprocal_pool": ({"kernel_size": 2}, (2, 3, 7, 7)),
    "upsample": ({}, IMAGE),
    "upsample_nearest": ({}, IMAGE),
    "upsample_bilinear": ({}, IMAGE),
    "dropout": ({}, (4, 5)),
    "rnn": RECURRENT,
    "lstm": RECURRENT,
}
VARIANTS: dict[str, Variants] = {
    "linear": [{"bias": False}],
    "embedding": [
        {"padding_idx": 1},
        {"max_norm": 0.5},
        {"max_norm": 0.5, "norm_type": 1.0},
        {"scale_grad_by_freq": True},
    ],
    "scale_bias": [{}],
    "max_pool1d": POOLS,
    "max_pool2d": POOLS,
    "TruncAvgPool2d-RoundTo8bit": [
        {"stride": 1},
        {"kernel_size": (2, 3), "ceil_mode": True},
        {"divisor_override": 3},
        {"count_include_pad": False},
    ],
    "TruncAdaptiveAvgPool2d-RoundTo8bit": [{}, {"output_size": (None, 3)}],
    "reciprocal_pool": [{"stride": 1, "padding": 1}, {"ceil_mode": True}],
    "upsample": [
        {"size": (5, 7), "mode": "nearest-exact"},
        {"scale_factor": 3, "mode": "bilinear"},
        {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
        {"scale_factor": 1.5, "mode": "bicubic"},
    ],
    "upsample_nearest": [{"size": (4, 5)}],
    "upsample_bilinear": [{"size": 9}],
    "dropout": [{"p": 0.2}, {"p": 1.0}],
    "rnn": [*SEQUENCES, {"nonlinearity": "relu"}],
    "lstm": SEQUENCES,
}
for _dims in (1, 2, 3):
    _channels = {"in_channels": 4, "out_channels": 6, "kernel_size": 3}
    BASES[f"conv{_dims}d"] = (_channels, (2, 4, *[7] * _dims))
    BASES[f"convtranspose{_dims}d"] = (_channels, (2, 4, *[5] * _dims))
    VARIANTS[f"conv{_dims}d"] = CONVOLUTION
    VARIANTS[f"convtranspose{_dims}d"] = TRANSPOSED

EVERY_VARIANT = [
    Variant(row, {**BASES[row][0], **changed}, BASES[row][1])
    for row, variants in VARIANTS.items()
    for changed in variants
]
