"""Fixtures: the device to run on, and the way to the contract's data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import contract_data

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Run the test once on each kind of device that this machine has."""
    return torch.device(request.param)


@pytest.fixture
def empty_memory_is_nan() -> Iterator[None]:
    """Let PyTorch fill memory that nobody wrote to with NaN."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def contract_path() -> Callable[[str], Path]:
    """Give the function that finds a contract file, and skips the test where there is none."""

    def find_or_skip(name: str) -> Path:
        path = contract_data.contract_path(name)
        if path is None:
            pytest.skip(f"contract file {name!r} not found; set BREVITAS_CONTRACT_DIR")
        return path

    return find_or_skip
