"""Handwritten digits, and the training that float and quantized networks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH_SIZE = 100


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``[n, 1, 8, 8]`` in [0, 1] and classes: those to train on, then those to test on."""
    images, classes = pytest.importorskip("sklearn.datasets").load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(classes)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:1297], order[1297:]
    return x[train], y[train], x[test], y[test]


def train(model: nn.Module, epochs: int, learning_rate: float) -> nn.Module:
    """Train with Adam on the cross entropy, with a learning rate that falls to zero."""
    x, y, _, _ = digits()
    steps = epochs * (len(x) // BATCH_SIZE)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for batch in order[: len(x) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    """Percentage of test images whose class is found."""
    _, _, x, y = digits()
    with torch.no_grad():
        return 100 * float((model(x).argmax(1) == y).float().mean())


def quantized_from(build: Callable[[], nn.Module], float_model: nn.Module) -> nn.Module:
    """A quantized network that starts from the weights of its float twin."""
    model = build()
    missing, unexpected = model.load_state_dict(float_model.state_dict(), strict=False)
    assert not unexpected and all("_quant." in key for key in missing)
    return model
