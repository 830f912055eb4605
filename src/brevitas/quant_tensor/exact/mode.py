"""A mode in which the operators and functions of PyTorch compute on integers.

Layer: quant_tensor (L2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from brevitas.quant_tensor import _int_arithmetic as default
from brevitas.quant_tensor import _shared_arithmetic as shared
from brevitas.quant_tensor._tensor_interface import QuantTensorMode, tensor_functions
from brevitas.quant_tensor.base_quant_tensor import QuantTensor
from brevitas.quant_tensor.exact import rules
from brevitas.quant_tensor.exact._settings import Options, Settings
from brevitas.quant_tensor.int_torch_handler import INT_QUANT_TENSOR_FN_HANDLER

__all__ = ["integer_arithmetic"]

Rule = Callable[..., Any]


def _refuse(operation: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None and not (name == "alpha" and value == 1):
            raise ValueError(
                f"{operation}({name}={value!r}) on integers: expected no {name}. Compute in "
                f"separate steps, or use `.value` for real numbers."
            )


def _of_pair(rule: Rule) -> Rule:
    """A rule of two operands with the arguments of its torch function."""

    def call(options: Options, input: Any, other: Any, *, alpha: Any = 1, out: Any = None) -> Any:
        _refuse(rule.__name__, alpha=alpha, out=out)
        return rule(input, other, **options)

    return call


def _reflected(rule: Rule) -> Rule:
    def call(options: Options, input: Any, other: Any) -> Any:
        return rule(other, input, **options)

    return call


def _of_one(rule: Rule) -> Rule:
    def call(options: Options, input: Any, *, out: Any = None) -> Any:
        _refuse(rule.__name__, out=out)
        return rule(input, **options)

    return call


def _cat(options: Options, tensors: Any, dim: int = 0, *, out: Any = None) -> Any:
    _refuse("cat", out=out)
    return rules.cat(tensors, dim, **options)


_COUNTERPARTS: dict[Any, Rule] = {
    default.add: _of_pair(rules.add),
    default.subtract: _of_pair(rules.sub),
    default.reverse_subtract: _reflected(rules.sub),
    default.multiply: _of_pair(rules.mul),
    default.matrix_multiply: _of_pair(rules.matmul),
    default.reverse_matrix_multiply: _reflected(rules.matmul),
    shared.negate: _of_one(rules.neg),
    shared.concatenate: _cat,
}
_SHIFTS = ((rules.left_shift, "left", "__lshift__"), (rules.right_shift, "right", "__rshift__"))

# torch function -> its rule in integer arithmetic, for the functions that have a default rule...
_RULES: dict[Any, Rule] = {
    function: _COUNTERPARTS[rule]
    for function, rule in INT_QUANT_TENSOR_FN_HANDLER.items()
    if rule in _COUNTERPARTS
}
# ... and for shifts, which torch has for integers only.
for _rule, _side, _name in _SHIFTS:
    for _function in tensor_functions(f"bitwise_{_side}_shift", _name):
        _RULES[_function] = _of_pair(_rule)


class integer_arithmetic(QuantTensorMode):
    """Context in which IntQuantTensor arithmetic is that of integer hardware.

    Inside, `a + b`, `a - b`, `-a`, `a * b`, `a @ b`, `a << n`, `a >> n`, `torch.cat` and the
    functions of torch of the same meaning are those of `brevitas.quant_tensor.exact`. Operands
    must be affine integer tensors. Everything else keeps its default rule: layers, pools, views,
    quotients. The mode holds for the thread that entered it, nests (the innermost counts) and is
    left with the block; the functions of the module take their own keywords, not the mode's.

    Args:
        rounding: One of ROUND (half to even), CEIL, FLOOR, ROUND_TO_ZERO, DPU: for operands
            between two integers, right shifts and rescaling. Operands that are valid are never
            rounded to another integer.
        overflow: What becomes of integers that the register cannot hold: "saturate", "wrap"
            (two's complement) or "error".
        bit_width: Bits of the register, 1 to 52; None for the fewest that hold every result of
            operands of these formats, so that nothing overflows.
        signed: Whether the register is signed; None: if an operand is, and for differences.
        as_integers: Give the integers themselves: value `q`, scale 1, zero point 0.

    Raises:
        ValueError: A keyword is none of the accepted.

    Example:
        >>> from brevitas.quant_tensor import IntQuantTensor
        >>> x = IntQuantTensor(torch.tensor([100.]), 1., 0., 8, signed=True, training=False)
        >>> with integer_arithmetic(bit_width=8, overflow="wrap"):
        ...     y = x + x
        >>> y.int(), (x + x).int()
        (tensor([-56], dtype=torch.int8), tensor([200], dtype=torch.int16))
    """

    def __init__(
        self,
        rounding: str = "ROUND",
        overflow: str = "saturate",
        bit_width: int | None = None,
        signed: bool | None = None,
        as_integers: bool = False,
    ) -> None:
        super().__init__()
        self._options: Options = {
            "rounding": rounding,
            "overflow": overflow,
            "bit_width": bit_width,
            "signed": signed,
            "as_integers": as_integers,
        }
        Settings(**self._options)

    def find_rule(self, function: Callable[..., Any]) -> Rule | None:
        """The exact rule of a torch function, None where the default rule holds."""
        rule = _RULES.get(function)
        return None if rule is None else partial(rule, self._options)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        rule = self.find_rule(func)
        if rule is None or not any(issubclass(kind, QuantTensor) for kind in types):
            rule = func
        return rule(*args, **(kwargs or {}))
