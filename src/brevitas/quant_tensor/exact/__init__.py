"""Integer-exact arithmetic: what integer hardware computes with affine integer tensors.

Layer: quant_tensor (L2).

The default rules of an IntQuantTensor compute on real values: they stay differentiable, and exact
as far as floating point is. For valid tensors with integer zero points, that is the answer of
integer hardware, too. It is another one where an operand lies between two integers (a fractional
zero point, a value that was not quantized), since the default rounds once, at the end, whereas
hardware has rounded every operand before; where a result is put into a register of fewer bits;
and where it is shifted or rescaled. The functions here, and the operators inside
`integer_arithmetic`, compute on the integers.

Example:
    >>> from brevitas.quant_tensor import IntQuantTensor, exact
    >>> x = IntQuantTensor(torch.tensor([1., 2.]), 0.2, 3., 6, signed=False, training=False)
    >>> torch.equal((x + x).int(), exact.add(x, x).int())
    True
    >>> x = x.set(zero_point=2.5)  # 7.5 and 12.5
    >>> (x + x).int().tolist(), exact.add(x, x).int().tolist()
    ([15, 25], [16, 24])
"""

from __future__ import annotations

from brevitas.quant_tensor.exact.mode import integer_arithmetic
from brevitas.quant_tensor.exact.rules import (
    add,
    as_integers,
    cat,
    left_shift,
    matmul,
    mul,
    neg,
    rescale,
    right_shift,
    sub,
)

__all__ = [
    "add",
    "as_integers",
    "cat",
    "integer_arithmetic",
    "left_shift",
    "matmul",
    "mul",
    "neg",
    "rescale",
    "right_shift",
    "sub",
]
