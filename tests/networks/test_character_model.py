"""A recurrent network of quantized layers learns a text as well as its float twin."""

from __future__ import annotations

import copy
from functools import cache
from pydoc_data.topics import topics
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import brevitas.nn as qnn
from networks.digits import quantized_from

# Share of the float twin's loss that the quantized network may lie above it.
ALLOWED = 0.03
STEPS, BATCH, WIDTH, HIDDEN = 24, 64, 24, 64
LENGTH = 120_000
# A few steps of statistics, so that most of the training learns the scales.
COLLECT = 10


@cache
def text() -> tuple[Tensor, Tensor, int]:
    """Python's documentation of its topics, as numbers of characters: to train and to test on."""
    written = "".join(topics[name] for name in sorted(topics))[:LENGTH].lower()
    alphabet = sorted(set(written))
    numbers = torch.tensor([alphabet.index(character) for character in written])
    return numbers[: LENGTH * 9 // 10], numbers[LENGTH * 9 // 10 :], len(alphabet)


class CharacterModel(nn.Module):
    """Embedding, recurrent layer and classifier: the next character of each.

    Inputs and hidden states of a quantized recurrent layer share a scale, and a hidden state lies
    in [-1, 1]: so do the inputs here, by a hyperbolic tangent. Without it they are clipped.
    """

    def __init__(self, embedding: Any, bound: Any, lstm: Any, classifier: Any) -> None:
        super().__init__()
        characters = text()[2]
        self.embedding, self.bound = embedding(characters, WIDTH), bound()
        self.lstm = lstm(WIDTH, HIDDEN)
        self.classifier = classifier(HIDDEN, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.lstm(self.bound(self.embedding(x)))[0])


def quantized() -> nn.Module:
    """8 bits everywhere, as by default."""

    def lstm(inputs: int, hidden: int) -> nn.Module:
        quantizers = ("io", "gate_acc", "sigmoid", "tanh", "cell_state")
        declared = {f"{name}_collect_stats_steps": COLLECT * STEPS for name in quantizers}
        return qnn.QuantLSTM(inputs, hidden, **declared)

    def bound() -> nn.Module:
        return qnn.QuantTanh(collect_stats_steps=COLLECT)

    return CharacterModel(qnn.QuantEmbedding, bound, lstm, qnn.QuantLinear)


def windows(numbers: Tensor, generator: torch.Generator) -> Tensor:
    """Random pieces of a text, ``[STEPS + 1, BATCH]``."""
    starts = torch.randint(0, len(numbers) - STEPS - 1, (BATCH,), generator=generator)
    return torch.stack([numbers[start : start + STEPS + 1] for start in starts], dim=1)


def loss_on(model: nn.Module, piece: Tensor) -> Tensor:
    return F.cross_entropy(model(piece[:-1]).flatten(0, 1), piece[1:].flatten())


def train(model: nn.Module, steps: int, learning_rate: float) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss_on(model, windows(text()[0], generator)).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def test_loss(model: nn.Module) -> float:
    generator = torch.Generator().manual_seed(2)
    losses = [float(loss_on(model, windows(text()[1], generator))) for _ in range(20)]
    return sum(losses) / len(losses)


test_loss.__test__ = False  # a figure, not a test


@pytest.fixture(scope="module")
def float_twin() -> nn.Module:
    torch.manual_seed(0)
    return train(CharacterModel(nn.Embedding, nn.Tanh, nn.LSTM, nn.Linear), 400, 0.01)


def test_loss_is_that_of_the_float_twin(float_twin: nn.Module) -> None:
    """Both go on from the same weights for the same steps."""
    model = train(quantized_from(quantized, float_twin), 60, 0.002)
    reference, found = test_loss(train(copy.deepcopy(float_twin), 60, 0.002)), test_loss(model)
    assert reference < 2.2  # a text of single characters, each by its frequency, has about 3
    assert found <= reference * (1 + ALLOWED), (found, reference)
