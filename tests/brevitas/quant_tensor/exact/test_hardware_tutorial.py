"""The tutorial document's cells 17, 20, 26 and 28 as written, and the same in one call each.

It writes `quant_tensor` and `quant_add` by hand to get the sum of integer hardware, and leaves
`quant_transform` open.
"""

from __future__ import annotations

import pytest
import torch

from brevitas.function.ops_ste import round_ste
from brevitas.quant_tensor import exact
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor

PRINTED = (
    "IntQuantTensor(value=tensor([22., 30., 42., 50.]), scale=1.0, zero_point=0.0, "
    "bit_width=9.0, signed_t=False, training_t=False)"
)


def quant_tensor(raw_in, quant_type=False):
    if raw_in.training:
        manual_round_int_tensor = round_ste(raw_in._pre_round_int_value)
        if raw_in.signed:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2 ** (raw_in.bit_width - 1)) - 1),
                torch.full_like(manual_round_int_tensor, ((2 ** (raw_in.bit_width - 1)) - 1)),
                torch.where(
                    manual_round_int_tensor <= (-1.0 * (2 ** (raw_in.bit_width - 1))),
                    torch.full_like(
                        manual_round_int_tensor, (-1.0 * (2 ** (raw_in.bit_width - 1)))
                    ),
                    manual_round_int_tensor,
                ),
            )
        else:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**raw_in.bit_width) - 1),
                torch.full_like(manual_round_int_tensor, ((2**raw_in.bit_width) - 1)),
                manual_round_int_tensor,
            )
    else:
        manual_round_int_tensor = torch.round(raw_in._pre_round_int_value)
        if raw_in.signed:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2 ** (raw_in.bit_width - 1)) - 1),
                torch.full_like(manual_round_int_tensor, ((2 ** (raw_in.bit_width - 1)) - 1)),
                torch.where(
                    manual_round_int_tensor <= (-1.0 * (2 ** (raw_in.bit_width - 1))),
                    torch.full_like(
                        manual_round_int_tensor, (-1.0 * (2 ** (raw_in.bit_width - 1)))
                    ),
                    manual_round_int_tensor,
                ),
            )
        else:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**raw_in.bit_width) - 1),
                torch.full_like(manual_round_int_tensor, ((2**raw_in.bit_width) - 1)),
                manual_round_int_tensor,
            )

    if quant_type:
        return IntQuantTensor(
            value=limited_round_int_tensor,
            scale=1.0,
            zero_point=0.0,
            bit_width=raw_in.bit_width,
            signed=raw_in.signed,
            training=raw_in.training,
        )
    else:
        return limited_round_int_tensor


def quant_add(tensor_in_0, tensor_in_1, quant_type=False):
    unround_tensor_in_0 = quant_tensor(tensor_in_0)
    unround_tensor_in_1 = quant_tensor(tensor_in_1)

    new_bit_width = max(tensor_in_0.bit_width, tensor_in_1.bit_width) + 1
    new_signed = tensor_in_0.signed | tensor_in_1.signed
    new_training = tensor_in_0.training | tensor_in_1.training

    int_tensor_sum = unround_tensor_in_0 + unround_tensor_in_1

    if new_signed:
        limited_int_tensor_sum = torch.where(
            int_tensor_sum >= ((2 ** (new_bit_width - 1)) - 1),
            torch.full_like(int_tensor_sum, ((2 ** (new_bit_width - 1)) - 1)),
            torch.where(
                int_tensor_sum <= (-1.0 * (2 ** (new_bit_width - 1))),
                torch.full_like(int_tensor_sum, (-1.0 * (2 ** (new_bit_width - 1)))),
                int_tensor_sum,
            ),
        )
    else:
        limited_int_tensor_sum = torch.where(
            int_tensor_sum >= ((2**new_bit_width) - 1),
            torch.full_like(int_tensor_sum, ((2**new_bit_width) - 1)),
            int_tensor_sum,
        )

    if quant_type:
        return IntQuantTensor(
            value=limited_int_tensor_sum,
            scale=1.0,
            zero_point=0.0,
            bit_width=new_bit_width,
            signed=new_signed,
            training=new_training,
        )
    else:
        return limited_int_tensor_sum


value_1 = torch.arange(1, 5, dtype=torch.float32)
value_2 = torch.arange(2, 6, dtype=torch.float32)

scale = 0.2
zero_point_1, zero_point_2 = 2.5, 3.5
bit_width_1, bit_width_2 = 6, 8
signed = False
training = False

int_tensor_1 = IntQuantTensor(
    value=value_1,
    scale=scale,
    zero_point=zero_point_1,
    bit_width=bit_width_1,
    signed=signed,
    training=training,
)
int_tensor_2 = IntQuantTensor(
    value=value_2,
    scale=scale,
    zero_point=zero_point_2,
    bit_width=bit_width_2,
    signed=signed,
    training=training,
)


def test_the_hand_written_sum_is_one_call(capsys):
    by_hand = quant_add(int_tensor_1, int_tensor_2, quant_type=True)
    assert str(by_hand) == PRINTED
    assert str(exact.add(int_tensor_1, int_tensor_2, as_integers=True)) == PRINTED
    with exact.integer_arithmetic(as_integers=True):
        assert str(int_tensor_1 + int_tensor_2) == PRINTED
    result = exact.add(int_tensor_1, int_tensor_2)
    assert result.int().tolist() == quant_add(int_tensor_1, int_tensor_2).tolist()


def test_the_default_sum_is_the_one_that_the_document_prints():
    result = int_tensor_1 + int_tensor_2
    assert str(result) == (
        "IntQuantTensor(value=tensor([3., 5., 7., 9.]), scale=0.20000000298023224, "
        "zero_point=6.0, bit_width=9.0, signed_t=False, training_t=False)"
    )
    assert quant_tensor(result).tolist() == [21, 31, 41, 51]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("sign", "scale", "zero_point", "signed"),
    [(1, 0.5, 1.5, False), (-1, 0.2, 2.5, True), (1, 0.1, 3.5, False), (-1, 0.1, 15.0, True)],
)
def test_the_hand_written_integers_are_one_call(sign, scale, zero_point, signed, training):
    value = sign * torch.arange(0, 32, dtype=torch.float32).reshape(2, 4, 4)
    x = IntQuantTensor(value, scale, zero_point, 4, signed, training)
    assert str(exact.as_integers(x)) == str(quant_tensor(x, quant_type=True))


def test_the_open_cell_is_rescale():
    other = int_tensor_2.set(scale=0.5)
    with pytest.raises(RuntimeError, match="Scaling factors are different"):
        int_tensor_1 + other
    transformed = exact.rescale(other, scale)
    # (q - 3.5) * 0.5 / 0.2 + 3.5 for q = 8, 10, 12, 14: 14.75, ...
    assert quant_tensor(other).tolist() == [8, 10, 12, 14]
    assert transformed.int().tolist() == [15, 20, 25, 30]
    total = exact.add(int_tensor_1, transformed)
    assert total.int().tolist() == [23, 32, 43, 52]
