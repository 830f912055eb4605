"""The public straight-through functions: look-up at call time, tracing, pinned attributes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import brevitas
from brevitas.function import ops_ste
from brevitas.ops import autograd_ste_ops

# torch 2.13 raises it inside of dynamo, for every autograd function (found 2026-11-22).
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")

BOUNDS = (torch.tensor(-1.0), torch.tensor(1.0))
ARGUMENTS: dict[str, tuple] = {
    "round_ste": (),
    "ceil_ste": (),
    "floor_ste": (),
    "round_to_zero_ste": (),
    "dpu_round_ste": (),
    "binary_sign_ste": (),
    "ternary_sign_ste": (),
    "abs_binary_sign_grad": (),
    "scalar_clamp_ste": (-1.0, 1.0),
    "scalar_clamp_min_ste": (-1.0,),
    "scalar_signed_clamp_min_ste": (0.5,),
    "tensor_clamp_ste": BOUNDS,
    "tensor_clamp_ste_": BOUNDS,
}


def _impl_name(name: str) -> str:
    base = name.rstrip("_")
    return base + "_impl" + name[len(base) :]


@pytest.mark.parametrize("name", ARGUMENTS)
def test_implementation_is_looked_up_at_call_time(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(autograd_ste_ops, _impl_name(name), lambda *args: calls.append(args))
    x = torch.zeros(2)
    getattr(ops_ste, name)(x, *ARGUMENTS[name])
    assert len(calls) == 1 and calls[0][0] is x and calls[0][1:] == ARGUMENTS[name]


def test_all_is_complete() -> None:
    assert set(ops_ste.__all__) == set(ARGUMENTS)


def test_pinned_attributes() -> None:
    assert ops_ste.fn_prefix is brevitas
    assert callable(ops_ste.script_flag)


@pytest.mark.parametrize(
    "module",
    ["brevitas.ops.autograd_ste_ops", "brevitas.function", "brevitas.function.ops_ste"],
)
def test_every_import_order_works(module: str) -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import {module}"
    subprocess.run([sys.executable, "-c", code], check=True)


def _chain(x: torch.Tensor) -> torch.Tensor:
    for name, arguments in ARGUMENTS.items():
        x = getattr(ops_ste, name)(x * 1.25, *arguments)
    return x


def test_compiled_as_one_graph() -> None:
    eager, compiled = (torch.randn(8).requires_grad_() for _ in range(2))
    compiled.data.copy_(eager.data)
    y = _chain(eager)
    z = torch.compile(_chain, fullgraph=True, backend="aot_eager")(compiled)
    y.sum().backward()
    z.sum().backward()
    assert torch.equal(y, z)
    assert torch.equal(eager.grad, compiled.grad)


@pytest.mark.parametrize("strict", [True, False])
def test_exported(strict: bool) -> None:
    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _chain(x)

    x = torch.randn(8)
    program = torch.export.export(Chain(), (x.clone(),), strict=strict)
    assert torch.equal(program.module()(x), _chain(x))
