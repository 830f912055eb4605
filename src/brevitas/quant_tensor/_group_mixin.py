"""What tensors with a scale for each group of elements know about their groups.

Layer: quant_tensor (L2).

Groups run along one dimension d of the tensor. Stored, dimension d is two: `[.., groups,
group_size, ..]`, the last group filled up with zeros; a scale has size 1 along the second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from brevitas.utils.groups import expand_over_groups, grouped_shape, merge_groups, split_groups
from brevitas.utils.quant_utils import groupwise_dequant_expand


class GroupMixin:
    """Value, scale and zero point in the shape of the tensor, of a record that stores groups."""

    __slots__ = ()

    value_: Tensor
    scale_: Tensor
    zero_point_: Tensor
    group_size: int
    group_dim: int
    dequant_shape: Sequence[int]
    # As in QuantTensor.
    _constants: ClassVar[tuple[str, ...]]
    _derive: Callable[..., Any]

    def expand(self, expand_metadata: Any = True, *sizes: int) -> Any:
        """Value, scale and zero point in the shape of the tensor.

        Args:
            expand_metadata: Expand scale and zero point; else they are given as they are stored.
                A size, or several: expand the value as `torch.Tensor.expand` does.
            *sizes: Further sizes.

        Returns:
            Three tensors; one plain tensor if sizes are given.
        """
        if not isinstance(expand_metadata, bool):
            return self.value.expand(expand_metadata, *sizes)
        return groupwise_dequant_expand(
            self.value_,
            self.scale_,
            self.zero_point_,
            self.group_dim,
            self.dequant_shape,
            expand_metadata,
        )

    def _expanded(self, field: Tensor) -> Tensor:
        """A field in the shape of the tensor; one number stays one."""
        shape = self.dequant_shape
        dim = self.group_dim % len(shape)
        # Metadata alone have no values that would know their shape in groups.
        grouped = grouped_shape(shape, self.group_size, dim)
        return expand_over_groups(field, grouped, dim, shape[dim])

    @property
    def shape(self) -> torch.Size:
        """Shape of `value`."""
        return torch.Size(self.dequant_shape)

    @property
    def value(self) -> Any:
        """Real values in the shape of the tensor, without what fills up the last group."""
        if self.value_ is None:
            return None
        dim = self.group_dim % len(self.dequant_shape)
        return merge_groups(self.value_, dim, self.dequant_shape[dim])

    @property
    def scale(self) -> Tensor:
        """Real value of one step, in the shape of the tensor; 0-d if one serves all."""
        return self._expanded(self.scale_)

    @property
    def zero_point(self) -> Tensor:
        """What stands for zero, in the shape of the tensor; 0-d if one serves all."""
        return self._expanded(self.zero_point_)

    def set(self, **kwargs: Any) -> Any:
        """Copy with some fields replaced.

        Args:
            **kwargs: Fields by name; `value` in the shape of the tensor is put into groups.

        Returns:
            New tensor of the same class.
        """
        if "value" in kwargs:
            value = kwargs.pop("value")
            if isinstance(value, Tensor):
                value = self.from_expanded(value, self.group_size, self.group_dim)
            kwargs["value_"] = value
        return super().set(**kwargs)  # pyright: ignore[reportAttributeAccessIssue]

    def _around(self, value: Tensor, **fields: Any) -> Any:
        """`_derive` from a value in the shape of the tensor."""
        return self._derive(self.from_expanded(value, self.group_size, self.group_dim), **fields)

    def _fits(self, value: Tensor) -> bool:
        return value.shape == self.shape

    def _context(self) -> tuple[Any, ...]:
        """Constants; of the shape only the size along the groups, which the values do not tell."""
        dim = self.group_dim % len(self.dequant_shape)
        shape = tuple([n if d == dim else None for d, n in enumerate(self.dequant_shape)])
        constants = self._constants
        return tuple([shape if n == "dequant_shape" else getattr(self, n) for n in constants])

    @classmethod
    def _from_context(cls, made: dict[str, Any]) -> dict[str, Any]:
        """Fields by name; where there are values, the shape is theirs.

        A transform may have taken leading dimensions off the values: groups then run along the
        same dimension counted from the end.
        """
        value, known, dim = made["value_"], made["dequant_shape"], made["group_dim"]
        from_end = dim % len(known) - len(known)
        if isinstance(value, Tensor) and value.dim() - 1 + from_end >= 0:
            rank = value.dim() - 1
            place, shape = rank + from_end, value.shape
            full = (*shape[:place], known[from_end], *shape[place + 2 :])
            made["dequant_shape"] = torch.Size(full)
            made["group_dim"] = dim if rank == len(known) else from_end
        return made

    @staticmethod
    def from_expanded(
        value: Tensor, group_size: int, group_dim: int, compress: bool = False
    ) -> Tensor:
        """Values in groups, or what belongs to a whole group.

        Args:
            value: Values `[.., size, ..]`.
            group_size: Elements of a group.
            group_dim: Dimension along which the groups run.
            compress: Keep the first element of each group, of a scale for instance.

        Returns:
            `[.., groups, group_size, ..]`, filled up with zeros; `[.., groups, 1, ..]` if
            compressed.

        Example:
            >>> GroupMixin.from_expanded(torch.arange(6.0).reshape(2, 3), 2, 1).shape
            torch.Size([2, 2, 2])
        """
        dim = group_dim % value.dim()
        groups = split_groups(value, group_size, dim)
        return groups.narrow(dim + 1, 0, 1) if compress else groups


def shape_without_groups(value: Tensor, group_dim: int) -> torch.Size:
    """Shape of a tensor whose groups are full.

    Args:
        value: Values in groups, `[.., groups, group_size, ..]`.
        group_dim: Dimension along which the groups run, of the tensor without groups.

    Example:
        >>> shape_without_groups(torch.ones(2, 3, 4), -1)
        torch.Size([2, 12])
    """
    dim = group_dim % (value.dim() - 1)
    return value.flatten(dim, dim + 1).shape


def as_group_constants(
    kind: str, value: Any, group_size: Any, group_dim: Any, dequant_shape: Any
) -> tuple[int, int, torch.Size | None]:
    """Group size, dimension and shape as constants of a graph.

    Args:
        kind: Class that is built, for the message.
        value: Values in groups.
        group_size: Elements of a group.
        group_dim: Dimension along which the groups run, of the tensor without groups.
        dequant_shape: Shape of the tensor without groups; None if no group was filled up.

    Raises:
        ValueError: They do not describe the value.
    """
    size, dim = int(group_size), int(group_dim)
    if not isinstance(value, Tensor):  # metadata alone
        return size, dim, None if dequant_shape is None else torch.Size(dequant_shape)
    rank = value.dim() - 1
    if rank < 1 or not -rank <= dim < rank:
        raise ValueError(
            f"{kind}(group_dim={dim}, value of shape {tuple(value.shape)}): expected a dimension "
            f"of the tensor without groups, from {-rank} to {rank - 1}."
        )
    if value.shape[dim % rank + 1] != size:
        raise ValueError(
            f"{kind}(group_size={size}, value of shape {tuple(value.shape)}): expected values in "
            f"groups, of that size in dimension {dim % rank + 1}; see `from_expanded`."
        )
    full = shape_without_groups(value, dim)
    shape = full if dequant_shape is None else torch.Size(dequant_shape)
    same = [own == other for own, other in zip(shape, full, strict=False)]
    fits = len(shape) == rank and full[dim] - size < shape[dim] <= full[dim]
    if not fits or not all(same[: dim % rank] + same[dim % rank + 1 :]):
        raise ValueError(
            f"{kind}(dequant_shape={tuple(shape)}): expected the shape {tuple(full)} of the "
            f"groups without what fills up the last one, in dimension {dim % rank}."
        )
    return size, dim, shape
