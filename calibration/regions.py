"""Cuts out of a float graph what reads a quantised activation, as a model that tells what a range costs there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.initializers import constant
from calibration.prepare import main_nodes
from calibration.reductions import add_squared_error
from calibration.rules_weights import is_float32

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from calibration.placed import Placement

SCALE: Final = "__scale"
ZERO: Final = "__zero"
REFERENCE: Final = "__reference_of__"
ERROR: Final = "__error_of__"

_CLAMPS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})
_PASSING: Final = frozenset({"Concat", "Flatten", "MaxPool"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What one scale group feeds.

    Attributes:
        root: The activation that names the group.
        sources: Members that are rounded; the other members only move these values.
        feeds: Other tensors that the region reads.
        ends: Its outputs: what each reader makes of the group, with the clamp behind it; none where nothing but sizes
            is read.
        nodes: Its nodes, in graph order.
    """

    root: str
    sources: tuple[str, ...]
    feeds: tuple[str, ...]
    ends: tuple[str, ...]
    nodes: tuple[ir.Node, ...]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Every tensor whose values are needed."""
        return tuple(dict.fromkeys((*self.sources, *self.feeds, *self.ends)))


def regions(graph: ir.Graph, placement: Placement) -> list[Region]:
    """One region for each scale group, in graph order.

    Args:
        graph: The prepared float graph.
        placement: Its placement; its tensors are those of the graph with folded clamps left in.
    """
    order = {id(node): index for index, node in enumerate(main_nodes(graph))}
    values = {str(value.name): value for value in graph.inputs}
    values |= {str(value.name): value for node in main_nodes(graph) for value in node.outputs}
    groups: dict[str, list[str]] = {}
    for name in (name for name in values if name in placement.roots):
        groups.setdefault(placement.roots[name], []).append(name)
    return [_region(root, [values[name] for name in members], graph, order) for root, members in groups.items()]


def region_model(
    region: Region, float_values: Mapping[str, ir.Value], ir_version: int, opset: int, dtype: str
) -> ir.Model:
    """A model with the region's float tensors, a scale and a zero point as inputs, and each end's squared error.

    Args:
        region: What to compute.
        float_values: The graph's values by name.
        ir_version: Of the model it comes from.
        opset: Likewise.
        dtype: Integer type of activations.
    """
    copies: dict[int, ir.Value] = {}
    inputs = [_input(name, float_values[name].dtype or ir.DataType.FLOAT) for name in (*region.sources, *region.feeds)]
    integer = ir.DataType[dtype.upper()]
    scale = ir.Value(name=SCALE, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(()))
    zero = ir.Value(name=ZERO, type=ir.TensorType(integer), shape=ir.Shape(()))
    references = [_input(f"{REFERENCE}{index}", ir.DataType.FLOAT) for index in range(len(region.ends))]
    graph = ir.Graph([*inputs, scale, zero, *references], [], nodes=[], opset_imports={"": opset}, name="region")
    for value in inputs:
        copies[id(float_values[str(value.name)])] = value
    for name, value in zip(region.sources, inputs, strict=False):
        copies[id(float_values[name])] = _rounded(graph, value, scale, zero)
    for node in region.nodes:
        _copy(graph, node, copies)
    for index, (name, reference) in enumerate(zip(region.ends, references, strict=True)):
        add_squared_error(graph, copies[id(float_values[name])], reference, f"{ERROR}{index}")
    return ir.Model(graph, ir_version=ir_version)


def _region(root: str, members: list[ir.Value], graph: ir.Graph, order: Mapping[int, int]) -> Region:
    names = {str(value.name) for value in members}
    found: dict[int, ir.Node] = {}
    ends: dict[str, None] = {}
    for value in members:
        if value.is_graph_output() or not value.uses() or any(node.graph is not graph for node, _ in value.uses()):
            ends[str(value.name)] = None
        for node, _ in value.uses():
            if node.graph is graph:
                found[id(node)] = node
                if not all(str(output.name) in names for output in node.outputs):
                    ends.update(_ends_behind(node, found, graph))
    nodes = tuple(sorted(found.values(), key=lambda node: order[id(node)]))
    made = {str(value.name) for node in nodes for value in node.outputs}
    sources = tuple(str(value.name) for value in members if str(value.name) not in made)
    return Region(
        root=root,
        sources=sources,
        feeds=tuple(name for name in dict.fromkeys(_read(nodes)) if name not in made and name not in sources),
        ends=tuple(ends),
        nodes=nodes,
    )


def _ends_behind(node: ir.Node, found: dict[int, ir.Node], graph: ir.Graph) -> dict[str, None]:
    """The float outputs of a reader, or of the clamp that alone reads it; adds that clamp to what was found.

    A size, a position or a truth that is read from an activation has no error that could be counted.
    """
    ends: dict[str, None] = {}
    for output in node.outputs:
        readers = [reader for reader, _ in output.uses()]
        if (
            len(readers) == 1
            and readers[0].op_type in _CLAMPS
            and readers[0].graph is graph
            and not output.is_graph_output()
        ):
            found[id(readers[0])] = readers[0]
            ends[str(readers[0].outputs[0].name)] = None
        elif output.name and is_float32(output) and (readers or output.is_graph_output()):
            ends[str(output.name)] = None
    return ends


def _read(nodes: Collection[ir.Node]) -> Iterable[str]:
    return (str(value.name) for node in nodes for value in node.inputs if value is not None and constant(value) is None)


def _input(name: str, dtype: ir.DataType) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype))


def _rounded(graph: ir.Graph, value: ir.Value, scale: ir.Value, zero: ir.Value) -> ir.Value:
    for op in ("QuantizeLinear", "DequantizeLinear"):
        node = ir.node(op, [value, scale, zero], name=f"{value.name}__{op}")
        graph.append(node)
        value = node.outputs[0]
        value.name = f"{node.name}__value"
    return value


def _copy(graph: ir.Graph, node: ir.Node, copies: dict[int, ir.Value]) -> None:
    inputs: list[ir.Value | None] = []
    for value in node.inputs:
        if value is not None and id(value) not in copies:
            array = constant(value)
            assert array is not None
            name = str(value.name)
            new = ir.Value(name=name, shape=ir.Shape(array.shape), const_value=ir.tensor(np.asarray(array), name=name))
            new.type = ir.TensorType(new.const_value.dtype)  # type: ignore[union-attr]
            graph.register_initializer(new)
            copies[id(value)] = new
        inputs.append(None if value is None else copies[id(value)])
    made = ir.Node(
        node.domain, node.op_type, inputs, [*node.attributes.values()], num_outputs=len(node.outputs), name=node.name
    )
    graph.append(made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.name = old.name
        copies[id(old)] = new
