"""Which nodes may compute in 16-bit floating point: what ONNX allows, what must be protected, what only follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnx_ir as ir

from calibration.prepare import constant, main_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

PROTECTED: Final = frozenset(
    {"Softmax", "LogSoftmax", "Softplus", "Exp", "Log", "Pow", "CumSum", "Einsum", "Range", "Resize", "GridSample"}
    | {"LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization", "BatchNormalization"}
    | {"MeanVarianceNormalization", "LpNormalization", "LRN", "GlobalAveragePool", "GlobalLpPool", "LpPool"}
    | {"ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"}
    | {"ReduceLogSumExp", "NonMaxSuppression", "RoiAlign", "Loss", "SoftmaxCrossEntropyLoss"}
)
"""Operators that add up many values, divide by small ones or grow exponentially: they stay float32."""

FOLLOWERS: Final = frozenset(
    {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Gather", "Expand", "Tile"}
    | {"Pad", "Where", "DepthToSpace", "SpaceToDepth", "Relu", "Clip", "LeakyRelu", "Add", "Sub", "Mul", "Div", "Sqrt"}
    | {"Neg", "Abs", "Max", "Min", "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Cast", "Sigmoid", "Tanh"}
)
"""Operators that cost little in either type: they take the type that saves casts."""

_NO_BFLOAT16: Final = frozenset({"HardSwish", "HardSigmoid"})  # what TensorRT refuses, though ONNX allows it
_FLOAT: Final = "tensor(float)"
_FEW: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """A 16-bit floating point type.

    Attributes:
        name: Its name in ONNX, lower case.
        dtype: Its onnx-ir type.
        numpy: Its numpy type.
        largest: Its largest finite number.
        smallest: Its smallest number of full precision.
    """

    name: str
    dtype: ir.DataType
    numpy: np.dtype[np.generic]
    largest: float
    smallest: float


HALVES: Final[Mapping[str, Half]] = {
    "float16": Half(
        name="float16", dtype=ir.DataType.FLOAT16, numpy=np.dtype(np.float16), largest=65504.0, smallest=2.0**-14
    ),
    "bfloat16": Half(
        name="bfloat16",
        dtype=ir.DataType.BFLOAT16,
        numpy=ir.DataType.BFLOAT16.numpy(),
        largest=(2.0 - 2.0**-7) * 2.0**127,
        smallest=2.0**-126,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Which inputs and outputs of a node change their type with it (indices)."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def ports(node: ir.Node, opset: int, half: Half) -> Ports | str:
    """What of a node becomes 16-bit, or why it cannot; no ports where it handles no float32."""
    touched = [
        value for value in (*node.inputs, *node.outputs) if value is not None and value.dtype == ir.DataType.FLOAT
    ]
    if not touched:
        return Ports(inputs=frozenset(), outputs=frozenset())
    if node.domain not in {"", "ai.onnx"}:
        return f"{node.domain} is no domain of ONNX"
    if any(
        attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS} for attribute in node.attributes.values()
    ):
        return "it has a body"
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {rule.type_param_str: {*rule.allowed_type_strs} for rule in schema.type_constraints}
    inputs = {i: _formal(schema.inputs, i) for i, v in enumerate(node.inputs) if _is_float(v)}
    outputs = {i: _formal(schema.outputs, i) for i, v in enumerate(node.outputs) if _is_float(v)}
    bound = {name for name in (*inputs.values(), *outputs.values()) if name != _FLOAT}
    if not bound:
        return "it takes and gives float32 only"
    lacking = any(f"tensor({half.name})" not in allowed.get(name, set()) for name in bound)
    source = node.op_type != "Cast" and not set(outputs.values()) <= {_FLOAT, *inputs.values()}
    if lacking or source:
        return f"it has no {half.name} in opset {opset}" if lacking else "it makes float32 values itself"
    return Ports(
        inputs=frozenset(i for i, name in inputs.items() if name != _FLOAT),
        outputs=frozenset(i for i, name in outputs.items() if name != _FLOAT),
    )


def hindrance(node: ir.Node, found: Ports, half: Half, beyond: Collection[str], protected: Collection[str]) -> str:
    """Why a node that could be 16-bit stays float32, empty where nothing is against it."""
    if node.op_type in protected:
        return "protected: it is sensitive to rounding or range"
    if half.name == "bfloat16" and node.op_type in _NO_BFLOAT16:
        return "TensorRT has no bfloat16 for it"
    for index in sorted(found.inputs):
        value = node.inputs[index]
        array = constant(value)
        if array is not None and value is not None:
            wrong = _constant_fault(node, index, np.abs(np.asarray(array, np.float64)), half)
            if wrong:
                return f"constant {value.name!r} {wrong}"
    names = [node.inputs[i] for i in sorted(found.inputs)] + [node.outputs[i] for i in sorted(found.outputs)]
    high = next((str(value.name) for value in names if value is not None and value.name in beyond), "")
    return f"tensor {high!r} goes beyond {half.name}" if high else ""


def follow(graph: ir.Graph, ports_of: Mapping[str, Ports], kept: dict[str, str], *, keep_io: bool) -> None:
    """Leaves followers float32 where that saves casts: groups of them with more float32 than 16-bit neighbours."""
    half = {str(n.name): n for n in main_nodes(graph) if n.name in ports_of and n.name not in kept}
    todo = {name for name, node in half.items() if node.op_type in FOLLOWERS}
    while todo:
        group, edge = set[str](), [todo.pop()]
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        while edge:
            name = edge.pop()
            group.add(name)
            for tensor, other in _neighbours(half[name], ports_of[name], graph, keep_io=keep_io):
                if other in todo:
                    todo.discard(other)
                    edge.append(other)
                elif other not in group:
                    sides[other in half].add(tensor)
        if len(sides[False]) > len(sides[True]):
            kept |= dict.fromkeys(group, "it stands between float32 operators: fewer casts")


def _neighbours(node: ir.Node, own: Ports, graph: ir.Graph, *, keep_io: bool) -> Iterator[tuple[str, str]]:
    """(tensor, node at its other end); an empty name stands for a float32 input or output of the model."""
    for index in own.inputs:
        value = node.inputs[index]
        if value is None or constant(value) is not None:
            continue
        maker = value.producer()
        if maker is not None or keep_io:
            yield str(value.name), str(maker.name) if maker is not None else ""
    for index in own.outputs:
        value = node.outputs[index]
        for reader, _ in value.uses():
            yield str(value.name), str(reader.name) if reader.graph is graph else ""
        if value.is_graph_output() and keep_io:
            yield str(value.name), ""


def _constant_fault(
    node: ir.Node, index: int, sizes: np.ndarray[tuple[int, ...], np.dtype[np.float64]], half: Half
) -> str:
    if sizes[np.isfinite(sizes)].max(initial=0.0) > half.largest:  # 16 bits have infinities of their own
        return f"goes beyond {half.name}"
    is_scale = node.op_type in {"QuantizeLinear", "DequantizeLinear"} and index == 1
    if is_scale and sizes.min(initial=1.0) < half.smallest:
        return f"is a scale below the full precision of {half.name}"
    if sizes.size <= _FEW and ((sizes > 0) & (sizes < half.smallest)).any():
        return f"is too small for {half.name}"
    return ""


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _formal(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """The type of a parameter, the last one standing for all that follow it."""
    return str(parameters[min(index, len(parameters) - 1)].type_str)
