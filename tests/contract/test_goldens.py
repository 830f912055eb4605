"""Recorded outputs, fields and gradients of seeded layers: three training steps, one evaluation.

The records of what is built belong to the repository (`data/layer_records*.npz`: all arrays of all
cases one after the other, and their names and shapes); those of later parts are replayed, too,
where the whole record is at hand (see `contract_data`). Quantized values are compared like all
others: a value one step off is a difference of a whole scale, far above the tolerance.
"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

import contract_data
from brevitas.nn import QuantMultiheadAttention
from contract import facts

numpy = pytest.importorskip("numpy")

# Float32 results of another build of the same kernels: a few roundings apart.
RELATIVE, ABSOLUTE = 1e-4, 1e-6
PHASES = ("train0", "train1", "train2", "eval")

Arrays = dict[str, Any]


def _records_of_the_repository() -> tuple[dict[str, Any], dict[str, Arrays]]:
    index: dict[str, Any] = {"cases": {}}
    arrays: dict[str, Arrays] = {}
    for path in sorted(facts.DATA.glob("layer_records*.npz")):
        with numpy.load(path) as stored:
            part, values = json.loads(stored["index"].tobytes()), stored["values"]
        start = 0
        for name, case in part["cases"].items():
            arrays[name] = {}
            for key, shape in case.pop("arrays"):
                stop = start + math.prod(shape)
                arrays[name][key] = values[start:stop].reshape(shape)
                start = stop
        index["cases"] |= part["cases"]
        index["prelude"] = index.get("prelude") or part["prelude"]
    return index, arrays


def _records_at_hand() -> tuple[dict[str, Any], dict[str, Arrays]]:
    folder = contract_data.contract_path("goldens")
    if folder is None:
        return {"cases": {}}, {}
    index, arrays = json.loads((folder / "index.json").read_text()), {}
    for name, case in index["cases"].items():
        if "file" in case and name not in PENDING and name not in ARRAYS:
            with numpy.load(folder / case["file"]) as stored:
                arrays[name] = {key: stored[key] for key in stored.files}
    return index, arrays


PENDING = facts.pending("cases")
INDEX, ARRAYS = _records_of_the_repository()
_INDEX_AT_HAND, _ARRAYS_AT_HAND = _records_at_hand()
CASES = {**_INDEX_AT_HAND["cases"], **INDEX["cases"]}
ARRAYS |= _ARRAYS_AT_HAND

# The recorded transposed convolution does not see that its bias is on the scale of its output, and
# folds it into the zero point. Here it is added to the integers, as in all other layers; the
# difference between integers and zero point is the same.
FOLDED_BIAS = {"convt2d_pc_in8"}


@pytest.fixture(scope="module")
def space() -> dict[str, Any]:
    return facts.run_prelude(INDEX["prelude"])


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

    def __init__(self, name: str) -> None:
        self.name, self.case = name, CASES[name]
        self.arrays = ARRAYS[name]

    def keys(self, prefix: str) -> list[str]:
        return [key for key in self.arrays if key.startswith(prefix)]

    def compare(self, key: str, value: Any, absolute: float = ABSOLUTE) -> None:
        expected = torch.as_tensor(self.arrays[key]).double()
        actual = torch.as_tensor(value).detach().double()
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
        if self.name in FOLDED_BIAS:
            integers = output.int(float_datatype=True) - output.zero_point
            recorded = self.arrays[f"{phase}/out.int"] - self.arrays[f"{phase}/out.zero_point"]
            # The recorded zero point is a quotient of float32 numbers: half a step is enough.
            assert float((integers.detach() - torch.as_tensor(recorded)).abs().max()) < 0.5
            self.compare(f"{phase}/out.value", output.value)
            self.compare(f"{phase}/out.scale", output.scale)
            return output.value
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
        parameters, renamed = dict(layer.named_parameters()), facts.renamed_parameters(layer)
        for key in self.keys(f"{phase}/grad/"):
            name = key[len(f"{phase}/grad/") :]
            parameter = parameters[renamed.get(name, name)]
            is_sum = "_quant." in name and parameter.numel() < output.numel()
            absolute = _summation_error(output) if is_sum else 0.0
            if isinstance(layer, QuantMultiheadAttention):
                # Each is a sum over the outputs, with terms as large as the largest of them; here
                # recorded values differ by 1.4e-6 from those in float64, ours by 1.3e-6.
                largest = float(numpy.abs(self.arrays[key]).max())
                absolute = output.numel() * torch.finfo(torch.float32).eps * largest
            self.compare(key, parameter.grad, max(ABSOLUTE, absolute))


@pytest.mark.parametrize("name", ARRAYS)
def test_layer(name, space):
    case, replay = CASES[name], Replay(name)
    torch.manual_seed(case["seed"])
    layer = eval(case["build"], space).train()
    state = layer.state_dict()
    for key in replay.keys("init_state/"):
        replay.compare(key, state[key[len("init_state/") :]])
    for phase in PHASES:
        layer.train(phase != "eval")
        x = eval(case["input"], space)
        inputs = list(x) if isinstance(x, (tuple, list)) else [x]
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
                if key in replay.arrays:
                    replay.compare(key, leaf.grad)
    if any("error" in record for record in case["phases"].values()):
        return  # nor is there a state to compare after calls that were not made here
    state = layer.state_dict()
    # The recorded library writes the quantized values into a binary weight that it reads.
    overwritten = {"linear_w_binary": {"final_state/weight"}}.get(name, set())
    for key in set(replay.keys("final_state/")) - overwritten:
        replay.compare(key, state[key[len("final_state/") :]])


def test_the_replay_notices_a_difference():
    replay = Replay("linear_default")
    recorded = torch.as_tensor(replay.arrays["eval/out.value"])
    with pytest.raises(AssertionError, match="eval/out.value"):
        replay.compare("eval/out.value", recorded * (1 + 3 * RELATIVE))
