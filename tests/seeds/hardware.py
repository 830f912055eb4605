"""The two functions that the hardware tutorial writes by hand, as its cells 17 and 26 have them.

Their repetitions are the tutorial's: what is tested is that code like this runs as it stands.
"""

from __future__ import annotations

import torch

from brevitas.function.ops_ste import round_ste
from brevitas.quant_tensor.int_quant_tensor import IntQuantTensor


# fmt: off
def quant_tensor(raw_in, quant_type = False):
    if (raw_in.training):
        manual_round_int_tensor = round_ste(raw_in._pre_round_int_value)
        if (raw_in.signed):
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**(raw_in.bit_width-1)) - 1),
                torch.full_like(manual_round_int_tensor, ((2**(raw_in.bit_width-1)) - 1)),
                torch.where(
                    manual_round_int_tensor <= (-1.0*(2**(raw_in.bit_width-1))),
                    torch.full_like(manual_round_int_tensor, (-1.0*(2**(raw_in.bit_width-1)))),
                    manual_round_int_tensor))
        else:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**raw_in.bit_width) - 1),
                torch.full_like(manual_round_int_tensor, ((2**raw_in.bit_width) - 1)),
                manual_round_int_tensor)
    else:
        manual_round_int_tensor = torch.round(raw_in._pre_round_int_value)
        if (raw_in.signed):
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**(raw_in.bit_width-1)) - 1),
                torch.full_like(manual_round_int_tensor, ((2**(raw_in.bit_width-1)) - 1)),
                torch.where(
                    manual_round_int_tensor <= (-1.0*(2**(raw_in.bit_width-1))),
                    torch.full_like(manual_round_int_tensor, (-1.0*(2**(raw_in.bit_width-1)))),
                    manual_round_int_tensor))
        else:
            limited_round_int_tensor = torch.where(
                manual_round_int_tensor >= ((2**raw_in.bit_width) - 1),
                torch.full_like(manual_round_int_tensor, ((2**raw_in.bit_width) - 1)),
                manual_round_int_tensor)

    if (quant_type):
        return IntQuantTensor(value = limited_round_int_tensor,
                              scale=1.0,
                              zero_point=0.0,
                              bit_width=raw_in.bit_width,
                              signed=raw_in.signed,
                              training=raw_in.training)
    else:
        return limited_round_int_tensor


def quant_add(tensor_in_0, tensor_in_1, quant_type = False):
    unround_tensor_in_0 = quant_tensor(tensor_in_0)
    unround_tensor_in_1 = quant_tensor(tensor_in_1)

    new_bit_width = max(tensor_in_0.bit_width, tensor_in_1.bit_width) + 1
    new_signed = tensor_in_0.signed | tensor_in_1.signed
    new_training = tensor_in_0.training | tensor_in_1.training

    int_tensor_sum = unround_tensor_in_0+unround_tensor_in_1

    if (new_signed):
        limited_int_tensor_sum = torch.where(
            int_tensor_sum >= ((2**(new_bit_width-1)) - 1),
            torch.full_like(int_tensor_sum, ((2**(new_bit_width-1)) - 1)),
            torch.where(
                int_tensor_sum <= (-1.0*(2**(new_bit_width-1))),
                torch.full_like(int_tensor_sum, (-1.0*(2**(new_bit_width-1)))),
                int_tensor_sum))
    else:
        limited_int_tensor_sum = torch.where(
            int_tensor_sum >= ((2**new_bit_width) - 1),
            torch.full_like(int_tensor_sum, ((2**new_bit_width) - 1)),
            int_tensor_sum)

    if (quant_type):

        return IntQuantTensor(value = limited_int_tensor_sum,
                              scale=1.0,
                              zero_point=0.0,
                              bit_width=new_bit_width,
                              signed=new_signed,
                              training=new_training)
    else:
        return limited_int_tensor_sum
# fmt: on
