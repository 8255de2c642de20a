"""Cuts a Q/DQ graph into blocks that can be compared with the float graph one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from calibration.quantized import QuantizedGraph

Pair = tuple[str, str]
"""(tensor of the Q/DQ graph, tensor of the float graph that it stands for)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A piece of the graph that is fitted at a time.

    Attributes:
        begin: Where the piece starts: tensors that determine everything behind them.
        feeds: Tensors of the Q/DQ graph that are held fixed while fitting, computed from ``begin``.
        ends: What is compared with the float graph.
        nodes: The nodes whose weights belong to it.
    """

    begin: tuple[Pair, ...]
    feeds: tuple[str, ...]
    ends: tuple[Pair, ...]
    nodes: tuple[str, ...]


def find_blocks(graph: QuantizedGraph, parent: onnx.ModelProto) -> list[Block]:
    """Pieces between tensors through which everything passes, each with at least one weight; in graph order.

    Such a tensor leaves nothing else alive: in a residual net the sums, in a chain every tensor.
    """
    known = {name for node in parent.graph.node for name in node.output} | {v.name for v in parent.graph.input}
    nodes = [*graph.model.graph.node]
    start = tuple((value.name, value.name) for value in graph.model.graph.input)
    blocks: list[Block] = []
    held: list[str] = []
    for index, cut in enumerate(_cuts(graph, known)):
        if nodes[index].name in graph.weights:
            held.append(nodes[index].name)
        if cut is None or not held:
            start = (cut,) if cut is not None else start
            continue
        blocks.append(_block(start, (cut,), held))
        start, held = (cut,), []
    outputs = tuple((_source(graph, value.name), value.name) for value in graph.model.graph.output)
    if held:
        blocks.append(_block(start, outputs, held))
    return blocks


def find_layers(graph: QuantizedGraph, parent: onnx.ModelProto) -> list[Block]:
    """Every node with a quantised weight alone, compared at its own output; in graph order."""
    known = {name for node in parent.graph.node for name in node.output}
    nodes = {node.name: node for node in graph.model.graph.node}
    names = {activation.source: tensor for tensor, activation in graph.activations.items() if activation.source}
    layers: list[Block] = []
    for block in find_blocks(graph, parent):
        for name in block.nodes:
            output = nodes[name].output[0]
            float_name = names.get(output, output)
            if float_name in known:
                ends = ((output, float_name),)
                layers.append(Block(begin=block.begin, feeds=(nodes[name].input[0],), ends=ends, nodes=(name,)))
    return layers


def _block(begin: tuple[Pair, ...], ends: tuple[Pair, ...], nodes: list[str]) -> Block:
    return Block(begin=begin, feeds=tuple(name for name, _ in begin), ends=ends, nodes=tuple(nodes))


def _cuts(graph: QuantizedGraph, known: set[str]) -> list[Pair | None]:
    """For each node, the one tensor that is alive behind it and that both graphs have, or None."""
    nodes = [*graph.model.graph.node]
    last: dict[str, int] = {value.name: len(nodes) for value in graph.model.graph.output}
    for index, node in enumerate(nodes):
        for name in node.input:
            last[name] = max(last.get(name, 0), index)
    base = {
        name: activation.tensor
        for activation in graph.activations.values()
        for name in (activation.source, activation.integers, *activation.dequantized)
        if name is not None
    }
    alive = {value.name for value in graph.model.graph.input}
    depends = set(alive)
    cuts: list[Pair | None] = []
    for index, node in enumerate(nodes):
        if any(name in depends for name in node.input):
            depends.update(name for name in node.output if name)
            alive.update(name for name in node.output if name)
        alive = {name for name in alive if last.get(name, -1) > index}
        tensors = {base.get(name, name) for name in alive}
        tensor = next(iter(tensors)) if len(tensors) == 1 else None
        cuts.append(_cut(graph, tensor) if tensor in known else None)
    return cuts


def _cut(graph: QuantizedGraph, tensor: str | None) -> Pair | None:
    """None where the integers are made by a node that moves them: what comes behind cannot be fed with real numbers."""
    activation = graph.activations.get(tensor or "")
    if tensor is None or (activation is not None and activation.source is None):
        return None
    return (tensor if activation is None else str(activation.source)), tensor


def _source(graph: QuantizedGraph, tensor: str) -> str:
    """The tensor of the Q/DQ graph before it is rounded; the reading itself where other nodes made the integers."""
    activation = graph.activations.get(tensor)
    if activation is None:
        return tensor
    return activation.source or (activation.dequantized[0] if activation.dequantized else activation.integers)
