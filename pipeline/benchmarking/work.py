"""What one inference asks of each node: operations and compulsory bytes, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.modules import bases, profiled_name
from targets.engines.onnxoperators import CONVOLUTIONS, PRODUCTS, WEIGHT_INPUT

if TYPE_CHECKING:
    import onnx

_MULTIPLIED: Final = PRODUCTS - {"MatMulNBits"}  # its weights lie in blocks of their own layout
_POOLS: Final = frozenset({"MaxPool", "AveragePool", "NhwcMaxPool", "QLinearAveragePool"})
_REDUCTIONS: Final = frozenset({
    "GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "ReduceMean", "QLinearReduceMean",
})  # fmt: skip
_MOVES: Final = frozenset({
    "ReorderInput", "ReorderOutput", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Concat",
    "QLinearConcat", "Slice", "Split", "Gather", "Pad", "Expand", "Shape",
})  # fmt: skip
_VIEWS: Final = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape"})
_SHORT: Final = {"float": "f32", "float16": "f16", "uint8": "u8", "int8": "s8", "double": "f64"}
_ITEM_BYTES: Final = {
    "float": 4, "float16": 2, "bfloat16": 2, "double": 8, "uint8": 1, "int8": 1, "bool": 1, "uint16": 2, "int16": 2,
    "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """What the engine file says of one node that multiplies.

    Attributes:
        op: The operator in the engine file.
        shape: Of the weight; empty for a product of two activations.
        dtype: Of the weight as stored, by ONNX Runtime's name; empty for a product of two activations.
        groups: Of a convolution.
        kernel: Elements that a pool reads for each output.
    """

    op: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    groups: int = 1
    kernel: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one inference asks of one node.

    Attributes:
        kind: Whose peak holds, e.g. ``conv3x3.u8s8``; None where nothing is multiplied.
        operations: A multiply-accumulate is two.
        weight_bytes: Read once.
        activation_bytes: Inputs read once and outputs written once.
    """

    kind: str | None
    operations: int
    weight_bytes: int
    activation_bytes: int


def engine_weights(engine: onnx.ModelProto) -> dict[str, Weight]:
    """By name of the node, what its operations are counted from."""
    stored = {tensor.name: tensor for tensor in engine.graph.initializer}
    behind = {
        node.output[0]: node.input[0] for node in engine.graph.node if node.op_type == "DequantizeLinear" and node.input
    }
    found = {}
    for position, node in enumerate(engine.graph.node):
        index, name = WEIGHT_INPUT.get(node.op_type, 1), profiled_name(node, position)
        if node.op_type in CONVOLUTIONS | _MULTIPLIED and len(node.input) > index:
            source = node.input[index]
            tensor = stored.get(source, stored.get(behind.get(source, "")))
            shape = tuple(int(size) for size in tensor.dims) if tensor is not None else ()
            dtype = _DTYPES.get(tensor.data_type, "") if tensor is not None else ""
            found[name] = Weight(op=node.op_type, shape=shape, dtype=dtype, groups=_integer(node, "group", 1))
        elif node.op_type in _POOLS:
            found[name] = Weight(op=node.op_type, kernel=math.prod(_integers(node, "kernel_shape")))
    return found


_DTYPES: Final = {1: "float", 2: "uint8", 3: "int8", 10: "float16", 11: "double"}  # TensorProto.DataType


def weight_of(row: Mapping[str, Any], weights: Mapping[str, Weight]) -> Weight | None:
    """The weight of a profiled node: by its name, or by what is left of it when the runtime's endings are taken off."""
    by_base: dict[str, Weight] = {}
    for name, weight in weights.items():
        for base in bases(name):
            by_base.setdefault(base, weight)
    return next((by_base[base] for base in bases(str(row["name"])) if base in by_base), None)


def work_of(row: Mapping[str, Any], weight: Weight | None) -> Work:
    """Operations and bytes of one profiled node.

    Args:
        row: ``op``, and ``inputs`` and ``outputs`` as ``[dtype, shape]``, weights that the runtime packed left out.
        weight: Of the node, where it has one.
    """
    op, inputs, outputs = str(row["op"]), row["inputs"], row["outputs"]
    written = [int(size) for size in outputs[0][1]] if outputs else []
    count = math.prod(written) if outputs else 0
    listed = sum(_bytes(entry) for entry in (*inputs, *outputs))
    if op in _VIEWS:
        return Work(kind=None, operations=0, weight_bytes=0, activation_bytes=0)
    if op in _POOLS and weight is not None:
        return Work(kind=None, operations=count * weight.kernel, weight_bytes=0, activation_bytes=listed)
    if op in _REDUCTIONS and inputs:
        return Work(kind=None, operations=math.prod(inputs[0][1]), weight_bytes=0, activation_bytes=listed)
    if op in _MOVES or op not in CONVOLUTIONS | _MULTIPLIED or not inputs or not outputs:
        return Work(kind=None, operations=0 if op in _MOVES else count, weight_bytes=0, activation_bytes=listed)
    shape = weight.shape if weight is not None else ()
    weight_dtype = weight.dtype if weight is not None else ""
    size_bytes = math.prod(shape) * _ITEM_BYTES.get(weight_dtype, 4) if shape else 0
    seen = any(list(entry[1]) == list(shape) for entry in inputs[1:])
    return Work(
        kind=_kind(op, inputs, weight),
        operations=2 * _macs(op, inputs[0][1], written, shape),
        weight_bytes=size_bytes,
        activation_bytes=listed - (size_bytes if seen else 0),
    )


def _macs(op: str, read: Sequence[int], written: Sequence[int], shape: Sequence[int]) -> int:
    """Multiply-accumulates for what was read and written; padding that fills the runtime's blocks is counted."""
    outputs = math.prod(written)
    if not shape:  # a product of two activations reads one row of the first for each output element
        return outputs * int(read[-1]) if read else 0
    if "ConvTranspose" in op:
        return math.prod(read) * math.prod(shape[1:])
    if op in CONVOLUTIONS:
        return outputs * math.prod(shape[1:])
    return outputs * math.prod(shape) // max(1, written[-1] if written else 1)


def _kind(op: str, inputs: Sequence[Sequence[Any]], weight: Weight | None) -> str:
    first = _SHORT.get(str(inputs[0][0]), str(inputs[0][0]))
    second = weight.dtype if weight is not None and weight.dtype else _second_dtype(inputs)
    pair = first + _SHORT.get(second, "s8") if first in {"u8", "s8"} else first
    if op not in CONVOLUTIONS or weight is None:
        return f"matmul.{pair}"
    if weight.groups > 1 and weight.shape[1:2] == (1,):
        return f"depthwise.{pair}"
    return f"conv{'1x1' if math.prod(weight.shape[2:]) == 1 else '3x3'}.{pair}"


def _second_dtype(inputs: Sequence[Sequence[Any]]) -> str:
    """Of the other factor: the second input that is more than one number."""
    return next((str(dtype) for dtype, shape in inputs[1:] if math.prod(shape) > 1), "")


def _bytes(entry: Sequence[Any]) -> int:
    return math.prod(int(size) for size in entry[1]) * _ITEM_BYTES.get(str(entry[0]), 4)


def _integer(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _integers(node: onnx.NodeProto, name: str) -> list[int]:
    return next(([int(value) for value in a.ints] for a in node.attribute if a.name == name), [])
