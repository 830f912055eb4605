"""Recorded outputs, fields and gradients of seeded layers over three training steps and one evaluation.

The whole record is replayed where it is at hand (see `contract_data`); a part of it belongs to the
repository. Quantized values are compared like all others: a value one step off is a difference of a
whole scale, far above the tolerance.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import contract_data
from contract import facts

numpy = pytest.importorskip("numpy")

# Float32 results of another build of the same kernels: a few roundings apart.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
PHASES = ("train0", "train1", "train2", "eval")

_FOLDER = contract_data.contract_path("goldens")
_INDEX = json.loads((_FOLDER / "index.json").read_text()) if _FOLDER else {"cases": {}}
PENDING = facts.pending("cases")
CASES = {
    name: case for name, case in _INDEX["cases"].items() if name not in PENDING and "file" in case
}

# Parameters whose recorded name is another route to the weight of a layer.
RENAMED = {
    "0.weight_quant.tensor_quant.scaling_impl.parameter_list_stats"
    ".extra_tracked_params_list.0.parameter": "1.weight"
}


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    return facts.run_prelude(_INDEX["prelude"])


def _summation_error(output: torch.Tensor) -> float:
    """Bound of the rounding error of a float32 gradient that is a sum over all output elements.

    `n * eps * max|term|`: the loss is `sum(y**2)`, so each term is `2 * y` times a factor of at
    most 1 for the real value of the integer limit (a clamped element), or the limit itself,
    about `max|y|`, where the logarithm of that value or the bit width is learned.
    """
    largest = float(output.detach().abs().max()) if output.numel() else 0.0
    return output.numel() * torch.finfo(torch.float32).eps * 2 * largest * max(1.0, largest)


class Replay:
    """Compares what a layer gives with the recorded arrays of one case."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        self.arrays = numpy.load(_FOLDER / case["file"])

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.arrays.files if key.startswith(prefix)]

    def compare(self, key: str, value: Any, absolute: float = ABSOLUTE) -> None:
        expected = torch.as_tensor(self.arrays[key]).double()
        actual = torch.as_tensor(value).detach().double()
        if key.endswith(".zero_point") and not actual.any():
            actual = actual.expand_as(expected)  # one zero may stand for all channels
        assert actual.shape == expected.shape, key
        torch.testing.assert_close(
            actual,
            expected,
            rtol=RELATIVE,
            atol=absolute,
            equal_nan=True,
            msg=lambda text: f"{key}: {text}",
        )

    def output(self, phase: str, output: Any) -> torch.Tensor:
        kind = self.case["phases"][phase]["type"]
        if kind in ("Tensor", "tuple"):
            self.compare(f"{phase}/out.value", output)
            return output
        assert type(output).__name__ == kind
        for key in self.keys(f"{phase}/out."):
            field = key[len(f"{phase}/out.") :]
            if field == "int":
                self.compare(key, output.int(float_datatype=True))
            else:
                self.compare(key, getattr(output, field))
        return output.value

    def gradients(self, phase: str, layer: torch.nn.Module, output: torch.Tensor) -> None:
        layer.zero_grad(set_to_none=True)
        (output**2).sum().backward()
        parameters = dict(layer.named_parameters())
        for key in self.keys(f"{phase}/grad/"):
            name = key[len(f"{phase}/grad/") :]
            parameter = parameters[RENAMED.get(name, name)]
            is_sum = "_quant." in name and parameter.numel() < output.numel()
            absolute = _summation_error(output) if is_sum else 0.0
            self.compare(key, parameter.grad, max(ABSOLUTE, absolute))


@pytest.mark.parametrize("name", CASES)
def test_layer(name, space):
    case = CASES[name]
    replay = Replay(case)
    torch.manual_seed(case["seed"])
    layer = eval(case["build"], space).train()
    state = layer.state_dict()
    for key in replay.keys("init_state/"):
        replay.compare(key, state[key[len("init_state/") :]])
    for phase in PHASES:
        layer.train(phase != "eval")
        x = eval(case["input"], space)
        inputs = list(x) if isinstance(x, (tuple, list)) else [x]
        for place, tensor in enumerate(inputs):
            replay.compare(f"{phase}/input{place}", tensor)
        leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        x = type(x)(leaves) if isinstance(x, (tuple, list)) else leaves[0]
        record = case["phases"][phase]
        if "error" in record:
            continue  # what the recorded library refuses may work here
        output = replay.output(phase, eval(case["call"], {**space, "layer": layer, "x": x}))
        if "loss" in record:
            replay.gradients(phase, layer, output)
            for place, leaf in enumerate(leaves):
                key = f"{phase}/grad_input{place}"
                if key in replay.arrays.files:
                    replay.compare(key, leaf.grad)


@pytest.mark.skipif(not CASES, reason="no recorded layers found")
def test_the_replay_notices_a_difference(space):
    replay = Replay(CASES["linear_default"])
    recorded = torch.as_tensor(replay.arrays["eval/out.value"])
    with pytest.raises(AssertionError, match="eval/out.value"):
        replay.compare("eval/out.value", recorded * (1 + 3 * RELATIVE))
