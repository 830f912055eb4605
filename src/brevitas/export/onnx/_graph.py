"""From the traced graph to the file's graph: real domains, readable names, nothing missing.

Layer: export (L8).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from brevitas._compat import require
from brevitas.export.common.session import EXPORT_DOMAIN, SITE_ATTRIBUTE, ExportSession, Site
from brevitas.export.common.spec import ExportError

__all__ = ["MAX_IR_VERSION", "finish"]

# Version of the container format; every onnxruntime since 1.18 reads 10. Operators from opset 23
# on were published with later versions.
MAX_IR_VERSION = 10
_OPSET_OF_IR_VERSION = 22
_NEWEST_READABLE_IR_VERSION = 13

# What the tracer notes on nodes: source lines and paths of the machine, of no use elsewhere.
_TRACER_NOTES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and all graphs inside of its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)


def _pop_site(node: Any, sites: list[Site]) -> Site:
    position = next(i for i, item in enumerate(node.attribute) if item.name == SITE_ATTRIBUTE)
    site = sites[node.attribute[position].i]
    del node.attribute[position]
    return site


def _plan_names(node: Any, site: Site, constants: set[str], renamed: dict[str, str]) -> None:
    """Name the constants that a node reads after its proxy and what they mean."""
    for tensor, meaning in zip(node.input, site.input_names, strict=True):
        if tensor not in constants or tensor in renamed:
            continue
        name = f"{site.proxy}.{meaning or 'integers'}"
        taken = constants | set(renamed.values())
        suffix = 1
        while name in taken:
            name = f"{site.proxy}.{meaning or 'integers'}_{suffix}"
            suffix += 1
        renamed[tensor] = name


def _rename(model: Any, renamed: dict[str, str]) -> None:
    for graph in _graphs(model.graph):
        for node in graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = renamed.get(name, name)
        for item in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            item.name = renamed.get(item.name, item.name)


def _move_home(model: Any, session: ExportSession, kept_names: set[str]) -> tuple[set[str], set]:
    """Give our nodes their domains and names; return the proxies and domains that were seen."""
    constants = {tensor.name for tensor in model.graph.initializer} - kept_names
    renamed: dict[str, str] = {}
    proxies: set[str] = set()
    domains: set[str] = set()
    for graph in _graphs(model.graph):
        for node in graph.node:
            for note in [item for item in node.metadata_props if item.key in _TRACER_NOTES]:
                node.metadata_props.remove(note)
            if node.domain != EXPORT_DOMAIN:
                continue
            site = _pop_site(node, session.sites)
            node.domain = site.domain
            node.name = f"{site.proxy}/{node.op_type}_{len(proxies)}_{node.output[0]}"
            proxies.add(site.proxy)
            domains.add(site.domain)
            _plan_names(node, site, constants, renamed)
    _rename(model, renamed)
    return proxies, domains


def _check_complete(session: ExportSession, present: set[str], model: Any) -> None:
    """Raise where a quantizer that ran is not in the graph."""
    missing = sorted(set(session.calls) - present)
    if missing:
        raise ExportError(
            f"{len(missing)} quantizers ran but are not in the exported graph, so that no file is "
            f"written; their results may be unused or replaced by constants in forward. "
            f"Layers: {', '.join(missing[:8])}"
        )
    if not model.graph.node:
        raise ExportError("the exported graph is empty, so that no file is written.")


def _standard_opset(model: Any) -> int:
    return next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))


def _convert(model: Any, opset: int) -> Any:
    """Rewrite the standard operators to an older or newer version."""
    onnx = require("onnx", "export")
    written = _standard_opset(model)
    if written == opset:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, opset)
        onnx.checker.check_model(converted)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"opset_version={opset}: the operators of this model exist from opset {written} on "
            f"({reason}); pass opset_version={written} or later."
        ) from error
    return converted


def _set_versions(model: Any, session: ExportSession, domains: dict[str, int]) -> None:
    onnx = require("onnx", "export")
    standard = _standard_opset(model)
    for item in [item for item in model.opset_import if item.domain == EXPORT_DOMAIN]:
        model.opset_import.remove(item)
    for domain, version in domains.items():
        if domain:
            model.opset_import.append(onnx.helper.make_opsetid(domain, version))
    limit = MAX_IR_VERSION if standard <= _OPSET_OF_IR_VERSION else _NEWEST_READABLE_IR_VERSION
    model.ir_version = min(model.ir_version, limit)


def finish(
    model: Any, session: ExportSession, versions: dict[str, int], kept_names: set[str]
) -> Any:
    """Turn a traced graph into the one of the file, and check that it is whole.

    Args:
        model: what the tracer made; may be changed in place.
        session: the export under way.
        versions: versions of the domains beside the standard one, where no node needs another.
        kept_names: names of parameters and buffers, which constants keep.

    Returns:
        The graph of the file.

    Raises:
        ExportError: where a quantizer got lost, the graph is empty, or an operator does not
            exist in the version asked for.
    """
    present, domains = _move_home(model, session, kept_names)
    versions = {**versions, **{d: version for d, (version, _) in session.pinned.items()}}
    _check_complete(session, present, model)
    _set_versions(model, session, {d: v for d, v in versions.items() if d in domains})
    return _convert(model, session.opset)
