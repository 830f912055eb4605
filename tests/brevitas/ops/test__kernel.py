"""Kernels of a program: compiled once, one at a time, and missing where that fails."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch

from brevitas.ops import _kernel
from brevitas.ops._kernel import KernelCache, compiler_works, gradients_of
from brevitas.ops.region import can_run_region
from programs import run_program


def test_a_kernel_is_compiled_once_for_all_sizes():
    cache = KernelCache(lambda x, scale: (x * scale,))
    scale = torch.tensor(2.0)
    kernels = {cache.forward("flat", (True,), [torch.ones(n), scale]) for n in (2, 3, 10**5)}
    assert len(kernels) == cache.kernels_compiled == 1
    x = torch.randn(7)
    assert torch.equal(kernels.pop()(x, scale)[0], 2 * x)


def test_the_backward_kernel_knows_which_outputs_depend_on_what_needs_a_gradient():
    cache = KernelCache(lambda x, scale: (x * scale, scale.abs()))
    x, scale = torch.randn(7), torch.tensor(2.0)
    kernel, depends = cache.backward("flat", (True,), [x, scale], (True, False))
    assert depends == (True, False)
    (gradient,) = kernel(x, scale, torch.ones(7), torch.zeros(()))
    assert torch.equal(gradient, torch.full((7,), 2.0))


def test_gradients_of_what_nothing_depends_on_are_zero():
    x, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    outputs = [(3 * x).sum(), torch.ones(())]
    found = gradients_of(outputs, [x, unused], [torch.ones(())] * 2, create_graph=False)
    assert found[0].tolist() == [3.0, 3.0] and found[1].tolist() == [0.0, 0.0]


def test_threads_compile_one_after_the_other():
    caches = [KernelCache(lambda x, p=p: (x * p,)) for p in (2, 3, 4)]
    x, results = torch.randn(3), {}

    def call(index):
        kernel = caches[index].forward("flat", (), [x])
        results[index] = kernel(x)[0]

    threads = [threading.Thread(target=call, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[index], x * (index + 2)) for index in range(3))


@pytest.mark.parametrize(
    ("message", "told", "works"),
    [
        ("InvalidCxxCompiler: none found", r"none found.*package g\+\+", False),
        ("no such kernel", "quantizers of its kind run without compilation. no such kernel", True),
        ("", "RuntimeError", True),
    ],
)
def test_a_failure_is_told_once_and_the_work_left_to_the_caller(monkeypatch, message, told, works):
    def fail(*arguments):
        raise RuntimeError(message)

    monkeypatch.setattr(_kernel, "standalone_compile", fail)
    monkeypatch.setattr(_kernel._Compiler, "works", True)
    cache, x = KernelCache(lambda x: (2 * x,)), torch.ones(3)
    with pytest.warns(RuntimeWarning, match=told) as seen:
        assert cache.forward("flat", (), [x]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.forward("flat", (), [x]) is None
    assert len(seen) == 1 and cache.kernels_compiled == 0
    assert compiler_works() is can_run_region(x) is works


WITHOUT_COMPILER = """
import sys
import warnings

import torch

import brevitas.nn as qnn

assert "torch._dynamo" not in sys.modules
layer, x = qnn.QuantLinear(4, 3), torch.randn(2, 4)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    outputs = [layer(x) for _ in range(3)]
    qnn.QuantIdentity()(x)
print([str(w.message) for w in seen if w.category is RuntimeWarning])
weight = layer.weight
scale = weight.abs().max() / 127
print(all(torch.equal(y, x @ ((weight / scale).round() * scale).T + layer.bias) for y in outputs))
"""


@pytest.mark.long
def test_a_machine_without_a_compiler(tmp_path):
    printed = run_program(
        WITHOUT_COMPILER,
        BREVITAS_JIT="1",
        CXX="/nonexistent",
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path),
    )
    told, equal = printed.splitlines()
    assert told.count("package g++") == 1 and equal == "True"
