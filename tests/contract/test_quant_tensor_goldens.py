"""Replay of the recorded operations on quantized tensors.

`data/quant_tensor_operations.npz` holds the operations, and all arrays one after the other, equal
ones once.
"""

from __future__ import annotations

import json
import math

import pytest
import torch

from contract import facts

numpy = pytest.importorskip("numpy")

# Float32 results of another build of the same kernels: a few roundings apart.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


# Recorded results that are wrong, and the right ones. The negative keeps a zero point whose sign
# has to change; a sum of products with different scales claims a scale that does not broadcast.
_CORRECTED = {
    "-z": lambda space: -space["z"].value,
    "F.conv2d(pc, k)": lambda space: torch.conv2d(space["pc"].value, space["k"].value),
}


def _load():
    with numpy.load(facts.DATA / "quant_tensor_operations.npz") as stored:
        return json.loads(stored["index"].tobytes()), stored["values"]


_INDEX, _VALUES = _load()
_OPERATIONS = _INDEX["operations"]


@pytest.fixture(scope="module")
def spaces():
    setup = _INDEX["setup"]
    result = {}
    for training in (False, True):
        result[training] = {}
        exec(setup.replace("{T}", str(training)), result[training])
    return result


def _field(result, path):
    for part in path.split("."):
        if part.isdigit():
            result = result[int(part)]
        elif not (part == "value" and type(result) is torch.Tensor):
            result = getattr(result, part)
    return result


def _id(record):
    return f"{'train' if record['training'] else 'eval'}-{record['op'][:60]}"


@pytest.mark.parametrize("record", _OPERATIONS, ids=_id)
def test_operation(record, spaces):
    space = spaces[record["training"]]
    if "error" in record:
        # What the recorded library refuses may work here; what it checks is checked here.
        if record["error"]:
            with pytest.raises(RuntimeError, match=record["error"]):
                eval(record["op"], space)
        return
    result = eval(record["op"], space)
    if record["op"] in _CORRECTED:
        value = result if type(result) is torch.Tensor else result.value
        assert torch.equal(value, _CORRECTED[record["op"]](space))
        return
    kind = record["type"]
    if kind.endswith("QuantTensor"):
        assert type(result).__name__ == kind
        assert result.signed == record["signed"]
        assert result.is_valid == (record["is_valid"] is True)
    for path, (start, shape) in record.get("arrays", {}).items():
        if path == "int":
            actual = result.int(float_datatype=True)
        else:
            actual = _field(result, path)
        actual = torch.as_tensor(actual).detach().double()
        expected = torch.tensor(_VALUES[start : start + math.prod(shape)]).reshape(shape).double()
        assert actual.shape == expected.shape, path
        torch.testing.assert_close(
            actual, expected, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True, msg=f"{path} differs"
        )


@pytest.mark.parametrize("training", [False, True])
def test_text(training, spaces):
    records = [r for r in _OPERATIONS if r["op"] == "str(m)" and r["training"] == training]
    for record in records:
        assert repr(eval(record["op"], spaces[training])) == record["value"]
