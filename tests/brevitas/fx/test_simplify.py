"""Only questions are dropped, and only lone in-place operators become out of place."""

from __future__ import annotations

import operator

import torch
from torch.fx import Graph

from brevitas.fx._simplify import (
    FRESH,
    StorageUses,
    drop_unused_queries,
    mark_fresh,
    prefer_out_of_place,
)


def test_chains_of_questions_are_dropped_and_effects_kept() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    mean = graph.call_method("mean", (x,))
    graph.call_function(operator.gt, (mean, 0))
    kept = [
        graph.call_method("add_", (x, 1)),
        graph.call_function(operator.setitem, (x, 0, 1)),
        graph.call_function(torch.rand, (2,)),
        graph.call_function(operator.iadd, (x, 1)),
        graph.call_function(torch.mean, (x,), {"out": x}),
    ]
    unknown = graph.call_method("mean", (kept[2],))
    output = graph.output(x)
    drop_unused_queries(graph, {x, mean})
    assert list(graph.nodes) == [x, *kept, unknown, output]


def test_uses_of_storage() -> None:
    layer = torch.nn.Linear(2, 2)
    uses = StorageUses(layer)
    tensor = torch.ones(4)
    uses.add({"a": [tensor]})
    assert uses.is_sole(tensor) and uses.is_sole(layer.weight)
    uses.add((tensor[1:], layer.weight.t()))
    assert not uses.is_sole(tensor) and not uses.is_sole(layer.weight)
    assert not uses.is_sole(torch.ones(1)) and not uses.is_sole(torch.eye(2).to_sparse())


def test_inplace_stays_where_another_node_reads_the_operand() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    nodes = []
    for shared in (False, True):
        left = graph.call_function(torch.relu, (x,))
        node = graph.call_function(operator.iadd, (left, x))
        node.meta[FRESH] = True
        nodes.append(node)
        graph.output((node, left) if shared else node)
    prefer_out_of_place(graph)
    assert [node.target for node in nodes] == [operator.add, operator.iadd]


def test_operands_of_their_own_are_found_without_values() -> None:
    root = torch.nn.ModuleDict({"layer": torch.nn.Linear(2, 2), "dropout": torch.nn.Dropout()})
    graph = Graph()
    x = graph.placeholder("x")
    operands = {
        x: False,
        graph.call_module("layer", (x,)): True,
        graph.call_module("dropout", (x,)): False,  # gives back what it gets, in evaluation
        graph.call_function(torch.add, (x, 1)): True,
        graph.call_function(torch.add, (x, 1), {"out": x}): False,
        graph.call_method("view", (x, -1)): False,
    }
    nodes = [graph.call_function(operator.iadd, (operand, 1)) for operand in operands]
    after_own, after_shared = (
        graph.call_function(operator.imul, (node, 2)) for node in (nodes[1], nodes[3])
    )
    graph.output(graph.call_method("view", (nodes[3].args[0], -1)))  # another reader
    mark_fresh(graph, root)
    assert [FRESH in node.meta for node in nodes] == list(operands.values())
    assert FRESH in after_own.meta
    assert FRESH not in after_shared.meta
