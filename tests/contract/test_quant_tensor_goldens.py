"""Replay of the recorded operations on quantized tensors.

Without the records (see `contract_data`) these tests are skipped.
"""

from __future__ import annotations

import json

import pytest
import torch

import contract_data

numpy = pytest.importorskip("numpy")

_RECORD = contract_data.contract_path("goldens/quant_tensor_ops.json")

pytestmark = pytest.mark.skipif(_RECORD is None, reason="no recorded operations found")

# Float32 results of another build of the same kernels: a few roundings apart.
RELATIVE, ABSOLUTE = 1e-4, 1e-6


# The recorded result is not the negative of the operand: it keeps a zero point whose sign has to
# change. Here the value is.
_CORRECTED = {"-z"}


def _operations():
    if _RECORD is None:
        return []
    return json.loads(_RECORD.read_text())["ops"]


@pytest.fixture(scope="module")
def spaces():
    setup = json.loads(_RECORD.read_text())["setup"]
    result = {}
    for training in (False, True):
        result[training] = {}
        exec(setup.replace("{T}", str(training)), result[training])
    return result


@pytest.fixture(scope="module")
def arrays():
    return numpy.load(_RECORD.with_suffix(".npz"))


def _field(result, path):
    for part in path.split("."):
        if part.isdigit():
            result = result[int(part)]
        elif not (part == "value" and type(result) is torch.Tensor):
            result = getattr(result, part)
    return result


def _id(record):
    return f"{'train' if record['training'] else 'eval'}-{record['op'][:60]}"


@pytest.mark.parametrize("record", _operations(), ids=_id)
def test_operation(record, spaces, arrays):
    space = spaces[record["training"]]
    if "error" in record:
        # What the recorded library refuses may work here; what it checks is checked here.
        message = record["error"].partition(": ")[2]
        if message.endswith("are different"):
            with pytest.raises(RuntimeError, match=message):
                eval(record["op"], space)
        return
    result = eval(record["op"], space)
    if record["op"] in _CORRECTED:
        assert torch.equal(result.value, -space["z"].value)
        return
    kind = record["type"]
    if kind.endswith("QuantTensor"):
        assert type(result).__name__ == kind
        assert result.signed == record["signed"]
        assert result.is_valid == (record["is_valid"] is True)
    prefix = f"{'T' if record['training'] else 'F'}/{record['idx']}/out"
    for key in arrays.files:
        if not (key == prefix or key.startswith(prefix + ".")):
            continue
        path = key[len(prefix) + 1 :]
        if path == "int":
            actual = result.int(float_datatype=True)
        else:
            actual = _field(result, path)
        actual = torch.as_tensor(actual).detach().double()
        expected = torch.as_tensor(arrays[key]).double()
        assert actual.shape == expected.shape, path
        torch.testing.assert_close(
            actual, expected, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True, msg=f"{path} differs"
        )


@pytest.mark.parametrize("training", [False, True])
def test_text(training, spaces):
    records = [r for r in _operations() if r["op"] == "str(m)" and r["training"] == training]
    for record in records:
        assert repr(eval(record["op"], spaces[training])) == record["value"]
