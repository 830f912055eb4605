"""Tests of what every quantized tensor does."""

from __future__ import annotations

import doctest

import pytest
import torch

from brevitas.quant_tensor import IntQuantTensor, QuantTensor, _unpack_quant_tensor
from brevitas.quant_tensor import base_quant_tensor as module
from quant_tensors import make


def test_doctests():
    names = {"torch": torch, "QuantTensor": QuantTensor}
    assert doctest.testmod(module, extraglobs=names).failed == 0


def test_calling_the_base_builds_affine_integers():
    x = QuantTensor(
        torch.ones(2), scale=0.5, zero_point=0, bit_width=8, signed=True, training=False
    )
    assert type(x) is IntQuantTensor
    assert isinstance(x, QuantTensor) and isinstance(x, tuple)


def test_fields_iterate_and_values_index():
    x, _ = make((4, 3))
    assert len(x) == 6
    assert all(isinstance(field, torch.Tensor) for field in x)
    assert torch.equal(x[1].value, x.value[1])
    assert x._fields == ("value", "scale", "zero_point", "bit_width", "signed_t", "training_t")
    assert list(x._asdict()) == list(x._fields)


def test_set_and_replace_take_fields_and_flags():
    x, _ = make((4,))
    assert x.set(signed=False).signed is False
    assert x._replace(training_t=torch.tensor(True)).training is True
    assert x.set(scale=2.0).scale.item() == 2.0
    assert x.scale.item() != 2.0
    with pytest.raises(ValueError, match="unexpected field names: .'scal'.*Accepted: value, scale"):
        x.set(scal=1.0)


def test_nothing_changes_after_construction():
    x, _ = make((4,))
    before = x.value.clone()
    for change in (
        lambda: x.add_(1),
        lambda: torch.relu_(x),
        lambda: setattr(x, "signed", False),
        lambda: setattr(x, "value", before),
    ):
        with pytest.raises((TypeError, AttributeError), match="immutable"):
            change()
    torch.nn.LeakyReLU(inplace=True)(x)
    torch.nn.ReLU(inplace=True)(x)
    assert torch.equal(x.value, before)


def test_a_plain_tensor_takes_values_in_place():
    x, _ = make((4,))
    y = torch.zeros(4)
    y.add_(x)
    assert torch.equal(y, x.value)


@pytest.mark.parametrize("cast", ["half", "bfloat16", "double"])
def test_casts_are_for_the_value_only(cast):
    x, integers = make((50,))
    y = getattr(x, cast)()
    assert y.dtype == getattr(x.value, cast)().dtype
    assert y.scale.dtype == y.bit_width.dtype == torch.float32
    # bfloat16 holds 8 significant bits, the integers have at most 8.
    assert torch.equal(y.int().double(), integers)


def test_moving_takes_all_fields():
    x, _ = make((4,))
    y = x.to("meta")
    assert {field.device.type for field in (y.value, y.scale, y.zero_point, y.bit_width)} == {
        "meta"
    }
    assert "meta" in str(y) and "meta" in repr(y)


def test_detach_reaches_all_fields():
    scale = torch.tensor(0.5, requires_grad=True)
    x = IntQuantTensor(torch.ones(2) * scale, scale * 1, 0.0, 8, True, False)
    assert x.requires_grad and not x.detach().value.requires_grad
    assert not x.detach().scale.requires_grad
    assert not x.detach_().scale.requires_grad


def test_equality_is_elementwise_and_hash_by_identity():
    x, _ = make((4,))
    assert (x == x.value).tolist() == [True] * 4
    assert {x: 1}[x] == 1 and hash(x) != hash(x.set(value=x.value))


def test_unpack_looks_into_containers():
    x, _ = make((4,))
    nested = _unpack_quant_tensor({"a": [x, 1], "b": (x, None)})
    assert nested["a"][0] is x.value and nested["b"][0] is x.value
    assert nested["a"][1] == 1 and nested["b"][1] is None


def test_check_input_type():
    IntQuantTensor.check_input_type(make((1,))[0])
    with pytest.raises(RuntimeError, match="Tensor is not a IntQuantTensor"):
        IntQuantTensor.check_input_type(torch.ones(1))
