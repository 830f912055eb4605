"""What tests and doctests share: one thread a process, and the same random numbers every time."""

from __future__ import annotations

import pytest
import torch

pytest_plugins = ["seeds.report"]


def pytest_configure() -> None:
    """Use one thread in each test process: several of them run at once."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Give every test the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _torch_in_doctests(doctest_namespace: dict[str, object]) -> None:
    """Let the examples in docstrings use `torch` without importing it each time."""
    doctest_namespace["torch"] = torch
