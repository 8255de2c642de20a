"""Computes what is constant in a graph once and for all, so that a weight behind a Transpose or Cast is a weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from calibration.initializers import constant, set_initializer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_OPERATORS: Final = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice", "Gather", "Expand", "Tile", "Range"}
    | {"Cast", "ConstantOfShape", "Size", "Equal", "Less", "Greater", "And", "Or", "Not", "Where", "Trilu"}
    | {"Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Sqrt", "Reciprocal", "Pow", "Min", "Max", "Floor", "Ceil"}
)
_SIZES: Final = frozenset({"Shape", "Gather", "Slice"})
_SLICED: Final = (0, 1)  # axis and step of a Slice that says none
_TYPES: Final = frozenset({"float16", "float32", "float64", "bool", "int8", "uint8", "int16", "int32", "int64"})
_GROWTH_BYTES: Final = 1 << 16  # what is repeated or filled is worth storing only while it is small


def fold_constants(graph: ir.Graph) -> None:
    """Replaces nodes whose inputs are all constants, and sizes that are fixed, by initializers."""
    for node in [*graph]:
        if node.domain not in {"", "ai.onnx"} or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        array = _fixed_sizes(node) if node.op_type in _SIZES else None
        array = _value(node, graph.opset_imports[""]) if array is None else array
        if array is None:
            continue
        name = str(node.outputs[0].name)
        node.outputs[0].name = f"{name}__folded"
        node.outputs[0].replace_all_uses_with(set_initializer(graph, name, array))
        graph.remove(node, safe=True)
    for node in reversed([*graph]):
        if node.op_type in _SIZES and not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)


def _fixed_sizes(node: ir.Node) -> NDArray[np.generic] | None:
    """What a Shape gives, or what is picked from one: of a free batch all sizes but the batch's are known."""
    if node.op_type == "Shape":
        sizes = _sizes(node)
        return None if sizes is None else _known(sizes, np.arange(len(sizes)))
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    sizes = _sizes(maker) if maker is not None and maker.op_type == "Shape" else None
    others = [constant(value) for value in node.inputs[1:]]
    if not sizes or not all(array is not None and array.size for array in others):
        return None
    numbers, places = [np.asarray(array) for array in others], np.arange(len(sizes))
    if node.op_type == "Gather":
        return _known(sizes, places.take(numbers[0], mode="wrap"))
    start, end, _, step = [int(array.reshape(-1)[0]) for array in numbers] + [*_SLICED[len(numbers) - 2 :]]
    return _known(sizes, places[start:end:step]) if step else None


def _known(sizes: list[Any], places: NDArray[np.intp]) -> NDArray[np.int64] | None:
    """The sizes at these places, where none of them is free."""
    picked = [sizes[place] for place in places.reshape(-1)]
    fixed = all(isinstance(size, int) for size in picked)
    return np.array(picked, np.int64).reshape(places.shape) if fixed else None


def _sizes(shape_of: ir.Node) -> list[Any] | None:
    shape = shape_of.inputs[0].shape if shape_of.inputs[0] is not None else None
    if shape is None:
        return None
    start = shape_of.attributes["start"].as_int() if "start" in shape_of.attributes else 0
    end = shape_of.attributes["end"].as_int() if "end" in shape_of.attributes else len(shape)
    return [*shape][start:end]


def _value(node: ir.Node, opset: int) -> NDArray[np.generic] | None:
    if node.op_type not in _OPERATORS or not node.inputs:
        return None
    arrays = {str(value.name): constant(value) for value in node.inputs if value is not None}
    known = {name: array for name, array in arrays.items() if array is not None and array.dtype.name in _TYPES}
    if len(known) < len(arrays) or not known:
        return None
    proto = ir.to_proto(node)
    inputs = [onnx.helper.make_tensor_value_info(n, _type(a), a.shape) for n, a in known.items()]
    output = onnx.helper.make_tensor_value_info(proto.output[0], onnx.TensorProto.UNDEFINED, None)
    graph = onnx.helper.make_graph([proto], "constant", inputs, [output])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    with np.errstate(all="ignore"):  # a division by zero is the model's own
        outputs: Any = ReferenceEvaluator(model).run(None, known)
    found: NDArray[np.generic] = np.asarray(outputs[0])
    grown = found.nbytes > max(_GROWTH_BYTES, sum(array.nbytes for array in known.values()))
    return None if grown or found.dtype.name not in _TYPES else found


def _type(array: NDArray[np.generic]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
