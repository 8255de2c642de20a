"""Turns an image that comes from float into the layout of int8 images once, by a convolution that changes no value.

ONNX Runtime keeps images between int8 convolutions as (N, H, W, C). One that a float layer gives stays (N, C, H, W),
and so does every sum that it is joined with: in a residual net two transpositions a block, to the end (seen in 1.32). A
1 x 1 convolution with a weight of one from each channel to itself, its output at its input's scale, gives the same
integers on every CPU and comes back in the layout of int8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from numpy.typing import NDArray

    from targets.costs import LayerCosts

TURNS: Final = "__layout"
"""How the names of what `turn_images` adds end."""

_ONE: Final = 32
"""The weight, with scale 1/32: exact in binary, and no pair of products leaves 16 bits."""

_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_IMAGE_RANK: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A node of a quantised graph, as far as layouts go.

    Attributes:
        reads: Tensors it reads.
        makes: Tensors it gives.
        passes: Whether it works on integers and keeps the layout of what it reads: no float layer, and no layer with
            weights, which gives its own.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    passes: bool


def joins_of(root: str, steps: Iterable[Step], images: AbstractSet[str]) -> int:
    """How many integer operators join an image that comes from float with another one.

    Args:
        root: The image.
        steps: The graph in its order.
        images: The tensors that are images.
    """
    kept, joins = {root}, 0
    for step in steps:
        if step.passes and not kept.isdisjoint(step.reads):
            joins += len([name for name in step.reads if name in images]) > 1
            kept |= {name for name in step.makes if name in images}
    return joins


def turn_us(costs: LayerCosts, channels: int, values: int) -> tuple[float, int]:
    """Microseconds of the convolution for an image of that many channels and values, and its number of groups."""
    kinds: Sequence[tuple[float, int]] = (
        (costs.layer_us(values * channels, "dense", int8=True), 1),
        (costs.layer_us(values, "depthwise", int8=True), channels),
    )
    return min(kinds)


def layouts_us(costs: LayerCosts, joins: int, channels: int, values: int) -> float:
    """What an image that comes from float costs its joins: transpositions, or the convolution that spares them."""
    return min(joins * costs.layout_us, turn_us(costs, channels, values)[0]) if joins else 0.0


def turn_images(model: onnx.ModelProto, costs: LayerCosts) -> list[str]:
    """Adds the convolution, in place, wherever it takes less time than what it spares.

    Args:
        model: A Q/DQ model of style ``operators``.
        costs: Of the engine's int8 layers.

    Returns:
        The images that are turned, by their names in the float graph.
    """
    graph = model.graph
    shapes = _shapes(model)
    same = _same_values(graph.node)
    steps, roots = _steps(graph, same), _roots(graph, same)
    images = {same.get(name, name) for name, shape in shapes.items() if len(shape) == _IMAGE_RANK}
    turned = []
    for node in roots:
        source = node.input[0]
        shape = shapes.get(source, ())
        if len(shape) != _IMAGE_RANK or not all(shape[1:]):
            continue
        channels, values = shape[1], shape[1] * shape[2] * shape[3]
        took_us, groups = turn_us(costs, channels, values)
        if took_us < joins_of(same[source], steps, images) * costs.layout_us:
            _turn(graph, node, channels, groups)
            turned.append(source)
    return turned


def without_turns(model: onnx.ModelProto) -> onnx.ModelProto:
    """Takes out what `turn_images` added, in place: it is no layer of the model, and nothing may learn it."""
    graph = model.graph
    behind = {name: node for node in graph.node for name in node.output}
    for last in [node for node in graph.node if node.op_type == "QuantizeLinear"]:
        convolution = behind.get(last.input[0])
        if convolution is None or not _turns(convolution):
            continue
        first, weight = behind[convolution.input[0]], behind[convolution.input[1]]
        behind[first.input[0]].output[0] = last.output[0]
        for node in (first, weight, convolution, last):
            graph.node.remove(node)
        for tensor in [tensor for tensor in graph.initializer if tensor.name in weight.input]:
            graph.initializer.remove(tensor)
    return model


def _turns(node: onnx.NodeProto) -> bool:
    """Whether `_turn` made it: no layer of a model reads a weight of such a name."""
    return node.op_type == "Conv" and node.name.endswith(TURNS) and node.input[1] == f"{node.name}__one"


def _turn(graph: onnx.GraphProto, node: onnx.NodeProto, channels: int, groups: int) -> None:
    """Puts DequantizeLinear, Conv and QuantizeLinear behind a QuantizeLinear; whoever reads it reads the last."""
    name, integers = f"{node.input[0]}{TURNS}", node.output[0]
    weight = np.zeros((channels, channels // groups, 1, 1), np.int8)
    weight[np.arange(channels), 0 if groups > 1 else np.arange(channels)] = _ONE
    stored: dict[str, NDArray[Any]] = {
        f"{name}__weight": weight,
        f"{name}__scale": np.full(channels, 1 / _ONE, np.float32),
        f"{name}__zero_point": np.zeros(channels, np.int8),
    }
    graph.initializer.extend(numpy_helper.from_array(array, key) for key, array in stored.items())
    node.output[0] = f"{name}__quantized"
    grid = node.input[1:3]
    added = [
        helper.make_node("DequantizeLinear", [node.output[0], *grid], [f"{name}__read"], f"{name}__DequantizeLinear"),
        helper.make_node("DequantizeLinear", [*stored], [f"{name}__one"], f"{name}__weight__DequantizeLinear", axis=0),
        helper.make_node("Conv", [f"{name}__read", f"{name}__one"], [name], name, kernel_shape=[1, 1], group=groups),
        helper.make_node("QuantizeLinear", [name, *grid], [integers], f"{name}__QuantizeLinear"),
    ]
    place = [*graph.node].index(node) + 1
    for offset, each in enumerate(added):
        graph.node.insert(place + offset, each)


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors that have a known rank; 0 where a size is free."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed = [*graph.input, *graph.value_info, *graph.output]
    return {
        item.name: tuple(dim.dim_value for dim in item.type.tensor_type.shape.dim)
        for item in typed
        if item.type.tensor_type.HasField("shape")
    }


def _same_values(nodes: Iterable[onnx.NodeProto]) -> dict[str, str]:
    """Float tensors, their integers and their readings: each to the name in the float graph."""
    same: dict[str, str] = {}
    for node in nodes:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            source = node.input[0]
            same[source] = same.get(source, source)
            same[node.output[0]] = same[source]
    return same


def _steps(graph: onnx.GraphProto, same: Mapping[str, str]) -> list[Step]:
    constants = {tensor.name for tensor in graph.initializer}
    return [
        Step(
            reads=tuple(same.get(name, name) for name in node.input if name and name not in constants),
            makes=tuple(same.get(name, name) for name in node.output),
            passes=node.op_type not in _WEIGHTED and _is_integer(node, same),
        )
        for node in graph.node
        if node.op_type not in {"QuantizeLinear", "DequantizeLinear"}
    ]


def _roots(graph: onnx.GraphProto, same: Mapping[str, str]) -> list[onnx.NodeProto]:
    """QuantizeLinear nodes with one scale behind a float layer or an input of the model."""
    makers = {name: node for node in graph.node for name in node.output}
    scalars = {tensor.name for tensor in graph.initializer if not tensor.dims}
    return [
        node
        for node in graph.node
        if node.op_type == "QuantizeLinear"
        and node.input[1] in scalars
        and not (node.input[0] in makers and _is_integer(makers[node.input[0]], same))
    ]


def _is_integer(node: onnx.NodeProto, same: Mapping[str, str]) -> bool:
    """Whether the engine computes it in integers: it reads readings of integers, and its results are made integers."""
    return bool(node.input) and node.input[0] in same and all(name in same for name in node.output if name)
