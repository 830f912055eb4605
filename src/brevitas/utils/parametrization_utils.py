"""Parametrizations that rotate or scale a weight, and that can be trained. Layer: utils (L0).

They are registered by ``torch.nn.utils.parametrize.register_parametrization``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = [
    "RotationWeightParametrization",
    "ScaleWeightParametrization",
    "extract_trainable_rotation_matrices",
]


class RotationWeightParametrization(nn.Module):
    """Rotate one axis of a weight: ``rot_func(W, rot_mat, K)`` along columns, or rows.

    Args:
        rot_mat: the rotation, ``[n, n]``; a parameter is trained with the model.
        rot_func: ``(tensor, rotation, K) -> tensor`` that rotates the last dimension.
        axis: 1 to rotate columns of ``[out, in]``, 0 to rotate rows; a weight of one dimension
            has only the last.
        K: third argument of ``rot_func``, e.g. the size of a Hadamard block.
        hidden_dim: rotate blocks of that many elements, each by ``rot_mat``; all at once where
            None.

    Raises:
        ValueError: for another axis than 0 and 1.

    Example:
        >>> turned = torch.tensor([[0.0, 1.0], [-1.0, 0.0]])
        >>> def rotate(tensor, matrix, K):
        ...     return tensor @ matrix
        >>> layer = nn.Linear(2, 3, bias=False)
        >>> expected = layer.weight @ turned
        >>> rotation = RotationWeightParametrization(nn.Parameter(turned), rotate, axis=1)
        >>> _ = nn.utils.parametrize.register_parametrization(layer, "weight", rotation)
        >>> torch.equal(layer.weight, expected)
        True
    """

    def __init__(
        self,
        rot_mat: Tensor | nn.Parameter,
        rot_func: Callable[[Tensor, Tensor, int | None], Tensor],
        axis: int,
        K: int | None = None,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        if axis not in (0, 1):
            raise ValueError(f"axis={axis!r}: expected 0 (rows) or 1 (columns).")
        # Assigning a parameter registers it; a tensor stays an attribute, outside of checkpoints.
        self.rot_mat = rot_mat
        self.rot_func = rot_func
        self.axis = axis
        self.K = K
        self.hidden_dim = hidden_dim

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the rotated weight, of the shape of ``tensor``."""
        transposes = self.axis == 0 and tensor.dim() > 1
        rows = tensor.transpose(0, 1) if transposes else tensor
        blocks = rows
        if self.hidden_dim is not None:
            blocks = rows.reshape(*rows.shape[:-1], -1, self.hidden_dim)
        matrix = self.rot_mat.to(tensor.device)
        rotated = self.rot_func(blocks, matrix, self.K).reshape(rows.shape)
        return rotated.transpose(0, 1) if transposes else rotated


class ScaleWeightParametrization(nn.Module):
    """Scale one axis of a weight, or a part of it: ``W * factor`` or ``W / factor``.

    Args:
        scaling_factor: one number for each element of the axis; a parameter is trained with the
            model.
        axis: the axis.
        start_end_idxs: part of the axis to scale, ``(start, end)``; all of it where None.
        slice_idxs: part of ``scaling_factor`` to use, ``(start, end)``; all of it where None.
        use_inverse_scaling: divide in place of multiplying.

    Raises:
        ValueError: in ``forward``, where the numbers of elements and factors differ.

    Example:
        >>> scale = ScaleWeightParametrization(torch.tensor([2.0, 4.0]), axis=1)
        >>> scale(torch.ones(1, 2))
        tensor([[2., 4.]])
    """

    def __init__(
        self,
        scaling_factor: Tensor | nn.Parameter,
        axis: int,
        start_end_idxs: tuple[int, int] | None = None,
        slice_idxs: tuple[int, int] | None = None,
        use_inverse_scaling: bool = False,
    ) -> None:
        super().__init__()
        self.scaling_factor = scaling_factor
        self.axis = axis
        self.start_end_idxs = start_end_idxs
        self.slice_idxs = slice_idxs
        self.use_inverse_scaling = use_inverse_scaling

    def forward(self, tensor: Tensor) -> Tensor:
        """Return the scaled weight, of the shape of ``tensor``."""
        axis = self.axis if tensor.dim() > 1 else 0
        size = tensor.shape[axis]
        start, end = self.start_end_idxs or (0, size)
        factor = self.scaling_factor.to(tensor.device)
        if self.slice_idxs is not None:
            factor = factor[slice(*self.slice_idxs)]
        if factor.numel() != end - start:
            raise ValueError(
                f"scaling_factor: {factor.numel()} numbers for {end - start} elements of axis "
                f"{axis} ({start} to {end}); expected as many. Set start_end_idxs, slice_idxs."
            )
        factor = factor.reshape(-1)
        if self.use_inverse_scaling:
            factor = 1.0 / factor
        around = (factor.new_ones(start), factor, factor.new_ones(size - end))
        shape = [1] * tensor.dim()
        shape[axis] = size
        return tensor * torch.cat(around).reshape(shape)


def extract_trainable_rotation_matrices(model: nn.Module) -> list[nn.Parameter]:
    """List the rotations of a model that training can change, each once.

    Args:
        model: model with parametrized weights.

    Example:
        >>> rotation = nn.Parameter(torch.eye(2))
        >>> part = RotationWeightParametrization(rotation, lambda t, m, K: t @ m, axis=1)
        >>> [matrix is rotation for matrix in extract_trainable_rotation_matrices(part)]
        [True]
    """
    matrices = {
        id(module.rot_mat): module.rot_mat
        for module in model.modules()
        if isinstance(module, RotationWeightParametrization)
        if isinstance(module.rot_mat, nn.Parameter) and module.rot_mat.requires_grad
    }
    return list(matrices.values())
