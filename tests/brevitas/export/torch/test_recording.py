"""What TorchScript records of a traced model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from brevitas.export.torch.recording import Recording, Runner, sliced
from brevitas.export.torch.tracing import trace_open

# 2026-11: PyTorch deprecates TorchScript.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)


class Applied(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def scripted(function: Callable[..., Tensor], x: Tensor) -> tuple[nn.Module, torch.nn.Module]:
    model = Applied(function)
    traced = trace_open(model, (x,))
    runner = Runner(Recording(traced.graph), traced.limits)
    return model, torch.jit.trace(runner.eval(), (x,), check_trace=False)


def written(m: nn.Module, x: Tensor) -> Tensor:
    x = x * 2
    x[:, 0] = 1
    x[:, 1].zero_()
    return x.add_(m.table)


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "view": lambda m, x: x.view(x.shape[0], -1),
    "expand": lambda m, x: m.table.expand(x.shape[0], x.shape[1], 6),
    "positions": lambda m, x: x + torch.arange(x.shape[1], device=x.device)[:, None],
    "zeros": lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 1, x.shape[2])], 1),
    "half": lambda m, x: x[:, : x.shape[1] // 2],
    "mean": lambda m, x: x.sum(1) / (x.shape[1] * 2),
    "written": written,
    "constant": lambda m, x: m.table,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sizes_of_other_inputs_are_followed(name: str) -> None:
    model, file = scripted(FUNCTIONS[name], torch.randn(2, 4, 6))
    for sizes in ((2, 4, 6), (5, 7, 6), (1, 8, 6)):
        x = torch.randn(sizes)
        torch.testing.assert_close(file(x), model(x))


def test_other_operators_get_numbers_and_the_file_says_so() -> None:
    model, file = scripted(lambda m, x: torch.roll(x, x.shape[1] // 2, 1), torch.randn(2, 4, 6))
    x = torch.randn(3, 4, 9)
    torch.testing.assert_close(file(x), model(x))
    with pytest.raises(Exception, match=r"input 0 of sizes \[any, 4, "):
        file(torch.randn(2, 6, 6))


def test_a_slice_counts_dimensions_from_the_end_too() -> None:
    x = torch.arange(12).reshape(3, 4)
    assert torch.equal(sliced(x, -1, 1, 3), x[:, 1:3])
    assert torch.equal(sliced(x, 0, -2), x[-2:])
