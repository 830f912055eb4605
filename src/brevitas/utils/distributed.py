"""Sharded training (FSDP2) of models that hold learned scalars. Layer: utils (L0)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

__all__ = ["clip_grad_norm_", "parameter_groups", "shard"]

Sharded = TypeVar("Sharded", nn.Module, list[nn.Module])


def shard(
    module: Sharded,
    *,
    mesh: DeviceMesh | None = None,
    ignored_params: set[nn.Parameter] | None = None,
    **fully_shard_arguments: Any,
) -> Sharded:
    """Call PyTorch's `fully_shard` on a module, keeping a copy of its scalars on every rank.

    `fully_shard` refuses 0-d parameters, and loses what a module writes into its own parameter
    during `forward` (a scale that starts from statistics). Such parameters stay plain tensors of
    their shape: rank 0's values are sent to all ranks once, and at the end of every backward pass
    their gradients become the mean over the ranks, in one collective:
    `grad = (grad_0 + ... + grad_{n-1}) / n`. The mean is linear and leaves a mean as it is, so
    several backward passes may accumulate before a step, with or without
    `set_requires_gradient_sync(False)`.

    Use it in place of `fully_shard`, blocks first and the whole model last. A class names the
    parameters that it writes in its attribute `written_in_forward`. As for `fully_shard`, all
    ranks use the same parameters in a backward pass. The gradients kept whole are means over the
    ranks also where `set_gradient_divide_factor` asks for something else of the sharded ones.

    Parameters replaced by `load_state_dict(assign=True)` are followed at once, those replaced in
    another way (`to_empty`) at the next forward that is not compiled. A quantizer shared by
    layers reads all their weights, so the layers belong into one call; outside of a forward, call
    `unshard()` before reading a quantized weight.

    PyTorch's optimizers (fused, or foreach, their default on GPUs) and its gradient clipping take
    no mixture of sharded and plain tensors: `parameter_groups` and `clip_grad_norm_` of this
    module keep the two apart.

    Args:
        module: The module, or a list of modules that communicate together; changed in place.
        mesh: Data-parallel mesh, one- or two-dimensional; all ranks by default.
        ignored_params: Parameters that are neither sharded nor reduced here.
        **fully_shard_arguments: Passed on to `fully_shard`.

    Returns:
        `module`, as `fully_shard` returns it.

    Raises:
        ValueError: `dp_mesh_dims` is given, or `fully_shard` refuses an argument.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = nn.Linear(2, 3)
        >>> model.scale = nn.Parameter(torch.tensor(1.0))
        >>> shard(model, mesh=init_device_mesh("cpu", (1,))).scale.shape
        torch.Size([])
        >>> dist.destroy_process_group()

    Reference: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel",
    2023.
    """
    if fully_shard_arguments.get("dp_mesh_dims") is not None:
        raise ValueError(
            f"dp_mesh_dims={fully_shard_arguments['dp_mesh_dims']!r}: expected None; "
            "pass the data-parallel part of the mesh as mesh."
        )
    ignored = set(ignored_params or ())
    modules: list[nn.Module] = module if isinstance(module, list) else [module]
    mesh = _all_ranks() if mesh is None else mesh
    replicas = _Replicas(modules, mesh, ignored)
    kept = set(replicas.held())
    fully_shard(module, mesh=mesh, ignored_params=ignored | kept, **fully_shard_arguments)
    replicas.follow()
    groups = tuple(mesh.get_all_groups())
    owners: set[Any] = {owner for owner, _ in replicas._owners}
    for part in owners:
        part.statistics_groups = groups  # where they collect any
    for root in modules:
        root.register_forward_pre_hook(replicas.before_forward)
        root.register_load_state_dict_post_hook(replicas.after_load)
    return module


def parameter_groups(module: nn.Module) -> list[dict[str, list[nn.Parameter]]]:
    """Return the parameters as optimizer groups: the sharded ones, and those kept whole.

    Args:
        module: A model after `shard`, or any other.

    Returns:
        One group for each kind that occurs, to which options such as `weight_decay` may be added.

    Example:
        >>> groups = parameter_groups(nn.Linear(2, 3))
        >>> [len(group["params"]) for group in groups]
        [2]
        >>> optimizer = torch.optim.AdamW(groups, lr=1e-3)
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            # After a forward without backward, `fully_shard` still shows the gathered parameters.
            part.reshard()
    return [{"params": parameters} for parameters in _by_kind(module.parameters())]


def clip_grad_norm_(
    parameters: Iterable[nn.Parameter], max_norm: float, norm_type: float = 2.0
) -> Tensor:
    """Scale the gradients so that their common norm is at most `max_norm`.

    `grad *= min(1, max_norm / (norm + 1e-6))`, as `torch.nn.utils.clip_grad_norm_`, for sharded
    and plain parameters together. All ranks call it.

    Args:
        parameters: Parameters; those without gradient are left out.
        max_norm: Largest norm afterwards.
        norm_type: Order of the norm, `inf` for the maximum.

    Returns:
        The norm before the scaling, a 0-d tensor.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> layer(torch.tensor([4.0])).backward()
        >>> clip_grad_norm_(layer.parameters(), 1.0), layer.weight.grad
        (tensor(4.), tensor([[1.0000]]))
    """
    with_gradient = [parameter for parameter in parameters if parameter.grad is not None]
    kinds = _by_kind(with_gradient)
    norms = [
        get_total_norm([p.grad for p in kind if p.grad is not None], norm_type) for kind in kinds
    ]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    total = get_total_norm(whole, norm_type)
    for kind in kinds:
        clip_grads_with_norm_(kind, max_norm, total)
    return total


def _by_kind(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    sharded: list[nn.Parameter] = []
    whole: list[nn.Parameter] = []
    for parameter in parameters:
        (sharded if isinstance(parameter, DTensor) else whole).append(parameter)
    return [kind for kind in (sharded, whole) if kind]


def _replicated_names(module: nn.Module) -> list[str]:
    # Asked of any module, PyTorch's own included: most declare nothing.
    written = getattr(type(module), "written_in_forward", ())
    return [
        name
        for name, parameter in module._parameters.items()
        if parameter is not None and (parameter.dim() == 0 or name in written)
    ]


def _owners(roots: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str]]:
    """Go through the replicated parameters outside of the parts that were sharded before."""
    seen: set[nn.Module] = set()
    waiting = list(reversed(roots))
    while waiting:
        module = waiting.pop()
        if module in seen or (isinstance(module, FSDPModule) and module not in roots):
            continue
        seen.add(module)
        for name in _replicated_names(module):
            yield module, name
        waiting.extend(reversed(list(module.children())))


def _all_ranks() -> DeviceMesh:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kind = "cpu" if accelerator is None else accelerator.type
    return init_device_mesh(kind, (dist.get_world_size(),))


class _Replicas:
    """Parameters of which every rank holds a copy, equal at the start and after each step.

    Args:
        roots: modules that are sharded together.
        mesh: the ranks.
        ignored: parameters to leave alone.
    """

    def __init__(
        self, roots: list[nn.Module], mesh: DeviceMesh, ignored: set[nn.Parameter]
    ) -> None:
        self._roots = roots
        self._mesh = mesh
        # Places, not parameters: a place stays ignored when its parameter is replaced.
        self._ignored = {
            place for place in _owners(roots) if place[0]._parameters[place[1]] in ignored
        }
        self._owners = self._find_owners()
        self._followed: dict[int, nn.Parameter] = {}
        self._last_backward = -1

    def _find_owners(self) -> list[tuple[nn.Module, str]]:
        return [place for place in _owners(self._roots) if place not in self._ignored]

    def held(self) -> Iterator[nn.Parameter]:
        """Go through the parameters as their owners hold them now, in the order of all ranks."""
        for owner, name in self._owners:
            parameter = owner._parameters.get(name)
            if parameter is not None:
                yield parameter

    def before_forward(self, module: nn.Module, inputs: Any) -> None:
        if not torch.compiler.is_compiling():
            self.follow()

    def after_load(self, module: nn.Module, incompatible_keys: Any) -> None:
        self._owners = self._find_owners()
        self.follow()

    def follow(self) -> None:
        """Equalise and hook the parameters that were not here at the last call."""
        current = {id(parameter): parameter for parameter in self.held() if not parameter.is_meta}
        if current.keys() == self._followed.keys():
            return
        new = [current[key] for key in current if key not in self._followed]
        self._followed = current
        for parameter in new:
            self._take(parameter)

    @torch.no_grad()
    def _take(self, parameter: nn.Parameter) -> None:
        # As `fully_shard` does for what it manages; it leaves ignored parameters where they are.
        if parameter.device.type != self._mesh.device_type:
            parameter.data = parameter.data.to(self._mesh.device_type)
        for group in self._mesh.get_all_groups():
            dist.broadcast(parameter.data, group=group, group_src=0)
        if not parameter.is_floating_point():
            return
        # A frozen parameter takes no hook, and may be thawed later.
        trained = parameter.requires_grad
        parameter.requires_grad_(True).register_post_accumulate_grad_hook(self._after_gradient)
        parameter.requires_grad_(trained)

    def _after_gradient(self, parameter: Tensor) -> None:
        """Average once, at the end of this backward pass."""
        running = torch._C._current_graph_task_id()
        if running != self._last_backward:
            self._last_backward = running
            Variable._execution_engine.queue_callback(self._average)

    @torch.no_grad()
    def _average(self) -> None:
        """Average all gradients; those that this rank lacks count as zero and stay absent."""
        kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
        for parameter in self._followed.values():
            if parameter.requires_grad:
                kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
        for alike in kinds.values():
            self._average_alike(alike)

    def _average_alike(self, parameters: list[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        pairs = zip(parameters, gradients, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in pairs])
        for group in self._mesh.get_all_groups():
            dist.all_reduce(flat, group=group)
        means = flat.div_(self._mesh.size()).split([p.numel() for p in parameters])
        for gradient, mean in zip(gradients, means, strict=True):
            if gradient is not None:
                gradient.copy_(mean.view_as(gradient))
