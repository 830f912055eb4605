"""One export in progress: its options, and which node of the graph stems from which proxy.

Layer: export (L8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from brevitas.export.common.spec import ExportError

__all__ = ["EXPORT_DOMAIN", "SITE_ATTRIBUTE", "ExportSession", "Site", "emit", "writes_nodes"]

# While a graph is traced and simplified our nodes sit in a domain that no optimizer knows, so
# that none folds, merges or drops them. They move to their real domain afterwards.
EXPORT_DOMAIN = "brevitas.export"
SITE_ATTRIBUTE = "site"

_LARGEST_SHARED_NUMEL = 4096


@dataclass(frozen=True)
class Site:
    """One node that a proxy put into the graph: whose it is, and what its inputs mean."""

    proxy: str
    domain: str
    input_names: tuple[str, ...]


@dataclass
class ExportSession:
    """Options of one export and the sites written so far.

    Args:
        opset: version of the standard operators that the file will use.
        weight_quantize_node: whether float weights stay in the file, followed by a node that
            quantizes them, in place of integer weights.
        writes_nodes: whether a trace gets nodes of the target's operators, in place of the
            arithmetic that they stand for.

    Attributes:
        sites: nodes written by the trace under way.
        calls: how often each proxy was called in the pass under way.
        pinned: version of a domain that a node needs, and the proxy of that node.

    Example:
        >>> import torch
        >>> session = ExportSession(opset=18)
        >>> first = session.shared(torch.tensor(0.5))
        >>> session.shared(torch.tensor(0.5)) is first
        True
    """

    opset: int
    weight_quantize_node: bool = False
    writes_nodes: bool = True
    sites: list[Site] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    pinned: dict[str, tuple[int, str]] = field(default_factory=dict)
    _pool: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def restart(self) -> None:
        """Forget what an earlier pass over the model wrote."""
        self.sites.clear()
        self.calls.clear()
        self.pinned.clear()

    def count_call(self, name: str) -> int:
        """Return how often the proxy of this name was called before, and count this call."""
        index = self.calls.get(name, 0)
        self.calls[name] = index + 1
        return index

    def pin(self, domain: str, version: int, proxy: str) -> None:
        """Hold a domain at the version in which the operator of a proxy means what it should.

        Raises:
            ExportError: where the operator of another proxy needs another version.
        """
        other, owner = self.pinned.setdefault(domain, (version, proxy))
        if other != version:
            raise ExportError(
                f"version {version} of {domain} is needed here, version {other} in {owner}, and a "
                f"file has one; give both truncations the same keeps_scale. Layer: {proxy}"
            )

    def shared(self, tensor: Tensor) -> Tensor:
        """Return one tensor for all equal small ones.

        Scales that are equal by value become equal by identity, which is how the addition of two
        QuantTensors proves, without reading a value, that their scales agree.
        """
        if tensor.numel() > _LARGEST_SHARED_NUMEL:
            return tensor
        values = tuple(tensor.detach().reshape(-1).tolist())
        key = (tensor.dtype, tensor.device, tuple(tensor.shape), values)
        return self._pool.setdefault(key, tensor)


def writes_nodes(session: ExportSession | None) -> bool:
    """Whether a handler is to write a node now, or to compute its value.

    Args:
        session: the export under way, or None for an exporter that is not ours.
    """
    return torch.compiler.is_exporting() and (session is None or session.writes_nodes)


def emit(
    operator: str,
    inputs: Mapping[str, Tensor],
    attributes: Mapping[str, int | float | str],
    like: Tensor,
    dtype: torch.dtype,
    *,
    domain: str = "",
    version: int | None = None,
    proxy: str,
    session: ExportSession | None,
) -> Tensor:
    """Put one node into the graph under trace.

    Args:
        operator: name of the operator.
        inputs: tensors the node reads, by what they mean; an empty name marks an activation.
        attributes: attributes of the node.
        like: tensor whose shape the output has.
        dtype: element type of the output.
        domain: domain of the operator in the file.
        version: version of that domain, None for the standard one.
        proxy: dotted name of the proxy that the node represents.
        session: the export under way, or None for an exporter that is not ours: the node then
            gets its final form at once.

    Returns:
        The output of the node, shaped as ``like``.
    """
    marked: dict[str, Any] = dict(attributes)
    target = f"{domain}::{operator}" if domain else operator
    if session is not None:
        marked[SITE_ATTRIBUTE] = len(session.sites)
        session.sites.append(Site(proxy, domain, tuple(inputs)))
        target, version = f"{EXPORT_DOMAIN}::{operator}", 1
    tensors: Sequence[Tensor] = tuple(inputs.values())
    return torch.onnx.ops.symbolic(
        target, tensors, marked, dtype=dtype, shape=like.shape, version=version
    )
