"""The fields of each kind of quantized tensor, in the order of the contract."""

from __future__ import annotations

import pytest

from brevitas.quant_tensor import (
    FloatQuantTensorBase,
    GroupwiseFloatQuantTensorBase,
    GroupwisIntQuantTensorBase,
    IntQuantTensorBase,
)
from quant_tensors import KINDS

FLOAT = "exponent_bit_width mantissa_bit_width exponent_bias saturating_t inf_values nan_values"
FIELDS = {
    IntQuantTensorBase: "value scale zero_point bit_width signed_t training_t",
    FloatQuantTensorBase: f"value scale zero_point {FLOAT} signed_t training_t",
    GroupwisIntQuantTensorBase: "value_ scale_ zero_point_ group_size group_dim bit_width "
    "signed_t training_t dequant_shape",
    GroupwiseFloatQuantTensorBase: f"value_ scale_ zero_point_ group_size group_dim {FLOAT} "
    "signed_t training_t dequant_shape",
}


@pytest.mark.parametrize("base", FIELDS)
def test_fields(base):
    assert list(base._fields) == FIELDS[base].split()
    kinds = [kind for kind in KINDS if issubclass(kind, base)]
    assert len(kinds) == 1 and tuple(kinds[0]._fields) == base._fields


def test_the_shape_is_optional():
    for base in (GroupwisIntQuantTensorBase, GroupwiseFloatQuantTensorBase):
        assert base._field_defaults == {"dequant_shape": None}
