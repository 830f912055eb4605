"""Gradient descent among matrices with orthonormal rows: rotations stay rotations.

Layer: optim (L0). Method: Li, Li, Todorovic, "Efficient Riemannian Optimization on the Stiefel
Manifold via the Cayley Transform", ICLR 2020, https://arxiv.org/abs/2002.01113
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from brevitas.optim._direction import direction
from brevitas.utils.torch_utils import widened

__all__ = [
    "CaileySGD",
    "cayley_loop",
    "epsilon",
    "matrix_norm_one",
    "norm",
    "qr_retraction",
    "unit",
]

#: Keeps quotients by a norm finite.
epsilon = 1e-8

# Steps after which rounding errors are taken out: each step adds a few of them.
_RETRACTION_PERIOD = 100


def norm(v: Tensor, dim: int = 1) -> Tensor:
    """Euclidean norms along a dimension, which stays with size 1.

    Args:
        v: matrix.
        dim: dimension along which the squares are summed.

    Example:
        >>> norm(torch.tensor([[3.0, 4.0]]))
        tensor([[5.]])
    """
    return torch.linalg.vector_norm(v, dim=dim, keepdim=True)


def unit(v: Tensor, dim: int = 1, eps: float = epsilon) -> tuple[Tensor, Tensor]:
    """Scale rows (or columns) to norm one.

    Args:
        v: matrix.
        dim: dimension along which the norm is taken.
        eps: added to the norms.

    Returns:
        The scaled matrix, and the norms before.

    Example:
        >>> unit(torch.tensor([[0.0, 4.0]]))
        (tensor([[0., 1.]]), tensor([[4.]]))
    """
    norms = norm(v, dim)
    return v / (norms + eps), norms


def matrix_norm_one(W: Tensor) -> Tensor:
    """Largest sum of magnitudes in a column, ``max_j sum_i |W_ij|``.

    Example:
        >>> matrix_norm_one(torch.tensor([[1.0, -2.0], [3.0, 1.0]]))
        tensor(4.)
    """
    return torch.linalg.matrix_norm(W, ord=1)


def qr_retraction(tan_vec: Tensor) -> Tensor:
    """Give the matrix with orthonormal rows that spans the same as the first rows of another.

    ``tan_vec.T = Q R`` with a positive diagonal of ``R``; a matrix that is orthonormal already
    stays itself.

    Args:
        tan_vec: ``[rows, columns]`` with rows <= columns.

    Returns:
        ``Q.T``, ``[rows, columns]``.

    Example:
        >>> qr_retraction(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    q, r = torch.linalg.qr(tan_vec.t())
    # The sign of an exact zero would erase a row.
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return (q * signs).t()


def cayley_loop(X: Tensor, W: Tensor, tan_vec: Tensor, t: float | Tensor, iters: int = 5) -> Tensor:
    """Move along a skew-symmetric direction by the Cayley transform, found by iteration.

    ``Y = X + t / 2 * W (X + Y)``, whose fixed point ``(I - t/2 W)**-1 (I + t/2 W) X`` has columns
    as orthonormal as those of ``X``. Each iteration makes the error ``t / 2 * |W|`` times smaller.

    Args:
        X: start, columns orthonormal, ``[n, p]``.
        W: skew-symmetric matrix, ``[n, n]``.
        tan_vec: direction of the first guess ``X + t * tan_vec``, ``[n, p]``; mostly ``W X``.
        t: length of the step, less than ``2 / |W|``.
        iters: number of iterations.

    Returns:
        ``Y.T``, rows orthonormal, ``[p, n]``.

    Example:
        >>> W = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
        >>> turned = cayley_loop(torch.eye(2), W, W, 0.5, iters=20)
        >>> bool(torch.allclose(turned @ turned.T, torch.eye(2), atol=1e-6))
        True
    """
    Y = X + t * tan_vec
    for _ in range(iters):
        Y = X + t / 2 * (W @ (X + Y))
    return Y.t()


class CaileySGD(Optimizer):
    """Stochastic gradient descent that keeps the rows of matrices orthonormal, by Cayley SGD.

    With ``X`` the transposed parameter, ``G`` its transposed gradient and ``M`` the momentum::

        M = momentum * M - G
        W = V - V.T,  V = M X.T - X (X.T M X.T) / 2
        X = cayley_loop(X, W, M, min(lr, 1 / |W|))
        M = W X    (X as it was before)

    A parameter of more than two dimensions is seen as ``[size of the first, all others]``. One
    with more rows than columns, which cannot be orthonormal, and those in groups with
    ``stiefel=False``, are trained by plain SGD.

    The first step, and one in a hundred, moves the rows onto the manifold first, by QR: a start
    that is not orthonormal is made so, and rounding errors do not add up.

    Args:
        params: parameters, or groups of them; each group may have its own options.
        lr: learning rate, the largest step.
        momentum: share of the last direction that is kept.
        dampening: as in ``torch.optim.SGD``; without effect on the manifold, as are the next two.
        weight_decay: decay of weights by their square.
        nesterov: look one step ahead.
        stiefel: keep rows orthonormal.
        iters: iterations of ``cayley_loop``.
        grad_clip: largest norm of a parameter's gradient, a longer one is scaled to it; True for
            1, None for no limit.
        dtype: name of the dtype in which steps are computed, and parameters kept between them,
            e.g. ``"float64"``; that of the parameter by default.

    Raises:
        ValueError: on an option out of range.

    Example:
        >>> rotation = torch.nn.Parameter(torch.eye(2))
        >>> optimizer = CaileySGD([rotation], lr=0.1, stiefel=True)
        >>> (rotation - torch.tensor([[0.0, -1.0], [1.0, 0.0]])).square().sum().backward()
        >>> optimizer.step()
        >>> bool(rotation[1, 0] > 0), bool(torch.allclose(rotation @ rotation.T, torch.eye(2)))
        (True, True)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.1,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        stiefel: bool = False,
        iters: int = 5,
        grad_clip: float | None = None,
        dtype: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "stiefel": stiefel,
            "iters": iters,
            "grad_clip": grad_clip,
            "dtype": dtype,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; see the class."""
        options = {**self.defaults, **param_group}
        for name in ("lr", "momentum", "weight_decay"):
            if not options[name] >= 0:
                raise ValueError(f"{name}={options[name]!r}: expected a number >= 0.")
        if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
            raise ValueError(
                f"nesterov=True with momentum={options['momentum']!r}, "
                f"dampening={options['dampening']!r}: expected a momentum, and no dampening."
            )
        if not isinstance(options["iters"], int) or options["iters"] < 1:
            raise ValueError(f"iters={options['iters']!r}: expected an int >= 1.")
        _dtype_of(options)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: computes the loss and its gradients anew; it runs with gradients enabled.

        Returns:
            What ``closure`` returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group)
        return loss

    def _step_one(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        weight = _working_copy(parameter, state, _dtype_of(group))
        gradient = parameter.grad.to(weight.dtype)  # pyright: ignore[reportOptionalMemberAccess]
        if group["grad_clip"]:
            limit = float(group["grad_clip"])
            length = torch.linalg.vector_norm(gradient) + epsilon
            gradient = gradient * torch.clamp(limit / length, max=1.0)
        rows = weight.reshape(weight.shape[0], -1) if weight.dim() > 1 else None
        if group["stiefel"] and rows is not None and rows.shape[0] <= rows.shape[1]:
            moved = _moved_on_manifold(rows, gradient.reshape(rows.shape), state, group)
            weight.copy_(moved.reshape(weight.shape))
        else:
            options = {name: group[name] for name in _SGD_OPTIONS}
            buffer = state.get("momentum_buffer")
            towards, buffer = direction(gradient, weight, buffer, **options)
            if buffer is not None:
                state["momentum_buffer"] = buffer
            weight.sub_(towards, alpha=group["lr"])
        if weight is not parameter:
            parameter.copy_(weight)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave; buffers keep the dtype in which steps are computed."""
        super().load_state_dict(state_dict)
        for group, saved_group in zip(self.param_groups, state_dict["param_groups"], strict=True):
            dtype = _dtype_of(group)
            for parameter, key in zip(group["params"], saved_group["params"], strict=True):
                saved = state_dict["state"].get(key, {})
                for name in _BUFFERS & saved.keys() if dtype else ():
                    buffer = saved[name].to(device=parameter.device, dtype=dtype, copy=True)
                    self.state[parameter][name] = buffer


_SGD_OPTIONS = ("weight_decay", "momentum", "dampening", "nesterov")
_BUFFERS = {"weight_buffer", "momentum_buffer"}


def _dtype_of(options: dict[str, Any]) -> torch.dtype | None:
    name = options["dtype"]
    if name is None:
        return None
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype={name!r}: expected the name of a float dtype, e.g. 'float64'.")
    return dtype


def _working_copy(parameter: Tensor, state: dict[str, Any], dtype: torch.dtype | None) -> Tensor:
    """What a step is computed on: the parameter, or a copy of it in another dtype."""
    if dtype is None:
        return widened(parameter)
    if "weight_buffer" not in state:
        state["weight_buffer"] = parameter.detach().to(dtype, copy=True)
    return state["weight_buffer"]


def _moved_on_manifold(
    rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
) -> Tensor:
    """Orthonormal rows after one step along the manifold that they lie on."""
    step = state.get("step", 0)
    state["step"] = step + 1
    X = (qr_retraction(rows) if step % _RETRACTION_PERIOD == 0 else rows).t()
    M = -gradient.t()
    if "momentum_buffer" in state:
        M = M + group["momentum"] * state["momentum_buffer"]
    V = M @ X.t() - X @ (X.t() @ M @ X.t()) / 2
    W = V - V.t()
    length = torch.clamp(1 / (matrix_norm_one(W) + epsilon), max=group["lr"])
    if group["momentum"] != 0:
        state["momentum_buffer"] = W @ X
    return cayley_loop(X, W, M, length, group["iters"])
