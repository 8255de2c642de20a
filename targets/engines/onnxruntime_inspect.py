"""What ONNX Runtime really executes, counted: operators, providers, precisions and the arithmetic in each."""

from __future__ import annotations

import collections
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from targets.engines.base import EngineBuild, Inspection
from targets.engines.inspection import PRECISIONS, overall
from targets.engines.lint_graph import GraphView
from targets.engines.onnxoperators import COMPUTE, CONVOLUTIONS, RECURRENT, WEIGHT_INPUT
from targets.engines.onnxruntime_events import index_of, profiled_events, written_events
from targets.engines.onnxweights import Graph
from targets.engines.subnormals import subnormals
from targets.ondevice.providers import CPU, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_REFORMATS: Final = _CONVERSIONS | {"Cast", "ReorderInput", "ReorderOutput"}
_QUANTISES_INSIDE: Final = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
_EIGHT_BITS: Final = frozenset({"int8", "uint8"})
_NAMES: Final = {"float": "fp32", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_INT8_PRODUCTS: Final = 4  # accuracy level of MatMulNBits: activations are quantised inside


@dataclass(slots=True, kw_only=True)
class _Seen:
    """Counts, as the nodes go by."""

    nodes: collections.Counter[str] = field(default_factory=collections.Counter)
    eight: collections.Counter[str] = field(default_factory=collections.Counter)
    providers: collections.Counter[str] = field(default_factory=collections.Counter)
    precisions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PRECISIONS, 0))
    compute: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("total", "int8", "macs", "int8_macs", "elsewhere"), 0)
    )
    stayed_float: list[str] = field(default_factory=list)
    fallbacks: list[str] = field(default_factory=list)


def inspect_graph(graph: Graph, build: EngineBuild, scope: str, *, unseen: str = "") -> Inspection:
    """What runs in which precision and where, of a graph as it is.

    On the CPU provider a finished graph is what runs: the runtime wrote it with every node, type and shape. For other
    providers one inference is profiled.

    Args:
        graph: The graph as it runs, in a file that is opened without further optimisation.
        build: The build it belongs to.
        scope: Where the graph was optimised, for the reader.
        unseen: Why this machine does not see what the target will run: then types are those that the graph asks for.
    """
    proto, asked = graph.model, [name for name, _ in listed(build.options)]
    events = written_events(proto) if asked == [CPU] and not unseen else None
    if events is None:
        events = profiled_events(graph, build, asked=not unseen)
    seen, weights = _Seen(), {tensor.name: tensor for tensor in proto.graph.initializer}
    view = GraphView(proto) if unseen else None
    executed: set[int] = set()
    for event in events:
        index = index_of(proto, event)
        kind, provider = str(event["op_name"]), str(event["provider"])
        node = None if index is None else proto.graph.node[index]
        name = kind if node is None else node.name or node.output[0]
        precision = _precision(kind, node, event, view)
        seen.nodes[kind] += 1
        seen.eight[kind] += precision == "int8" and kind not in _CONVERSIONS
        seen.providers[asked[0] if unseen else provider] += 1
        elsewhere = not unseen and provider != asked[0]
        if node is not None and index is not None:
            executed.add(index)
            if kind in COMPUTE:
                _count(seen, build, name, precision, _macs(node, event, weights))
                seen.compute["elsewhere"] += elsewhere
        if elsewhere and name not in seen.fallbacks:
            seen.fallbacks.append(name)
    if not unseen and asked[0] != CPU:  # a provider that compiles runs the rest in parts of its own
        hidden = [n for i, n in enumerate(proto.graph.node) if i not in executed and n.op_type in COMPUTE]
        seen.compute["total"] += len(hidden)
        seen.precisions["unknown"] += len(hidden)
    return _report(seen, graph, build, scope, unseen)


def _count(seen: _Seen, build: EngineBuild, name: str, precision: str, macs: int) -> None:
    compute = seen.compute
    compute["total"] += 1
    compute["macs"] += macs
    seen.precisions[precision] += 1
    if precision == "int8":
        compute["int8"] += 1
        compute["int8_macs"] += macs
    else:
        seen.stayed_float.append(name)
    wanted = build.precision.removesuffix("-dynamic")
    if precision != wanted and wanted in PRECISIONS:
        seen.fallbacks.append(name)


def _report(seen: _Seen, graph: Graph, build: EngineBuild, scope: str, unseen: str) -> Inspection:
    compute, weights = seen.compute, [*graph.model.graph.initializer]
    by_type = collections.Counter[str]()
    for tensor in weights:
        by_type[_type_name(tensor)] += _size_bytes(tensor)
    return Inspection(
        engine=build.engine,
        scope=scope,
        requested_precision=build.precision,
        actual_precision=overall(seen.precisions),
        nodes=dict(sorted(seen.nodes.items())),
        int8_nodes={name: count for name, count in sorted(seen.eight.items()) if count},
        providers=dict(sorted(seen.providers.items())),
        int8_node_ratio=round(sum(seen.eight.values()) / sum(seen.nodes.values()), 6),
        compute=compute,
        precisions=seen.precisions,
        int8_mac_ratio=round(compute["int8_macs"] / compute["macs"], 6) if compute["macs"] else 0.0,
        float_compute=tuple(seen.stayed_float),
        weights_bytes=sum(by_type.values()),
        subnormal_weights=sum(subnormals(tensor, graph.path) for tensor in weights),
        fallbacks=tuple(seen.fallbacks),
        reformats=sum(count for kind, count in seen.nodes.items() if kind in _REFORMATS),
        weights=dict(sorted(by_type.items())),
        inspected=unseen,
    )


def _precision(kind: str, node: onnx.NodeProto | None, event: Mapping[str, Any], view: GraphView | None) -> str:
    """What a node computes in: the type that it reads, or what it makes of it before it multiplies."""
    if kind in _QUANTISES_INSIDE:
        return "int8"
    if kind == "MatMulNBits" and node is not None:
        level = next((int(a.i) for a in node.attribute if a.name == "accuracy_level"), 0)
        return "int8" if level == _INT8_PRODUCTS else "fp32"
    read = next(iter(event["input_type_shape"][0])) if event["input_type_shape"] else ""
    if view is not None and node is not None and node.input:
        if view.reads_integers(node):
            return "int8"
        read = view.type_of(node.input[0]) or read
    return "int8" if read in _EIGHT_BITS else _NAMES.get(read, "unknown")


def _macs(node: onnx.NodeProto, event: Mapping[str, Any], weights: Mapping[str, onnx.TensorProto]) -> int:
    """Multiply-accumulates for one sample: output elements x weight elements that each of them reads."""
    read, written = _shape(event["input_type_shape"]), _shape(event["output_type_shape"])
    outputs = math.prod(written)
    if node.op_type in RECURRENT:  # input and recurrent weights, once for each step
        return read[0] * sum(math.prod(map(int, weights[name].dims)) for name in node.input[1:3] if name in weights)
    if node.op_type == "MatMulNBits":
        return outputs * next(int(a.i) for a in node.attribute if a.name == "K")
    weight = weights.get(node.input[WEIGHT_INPUT.get(node.op_type, 1)])
    shape = _weight_shape(node, event) if weight is None else [*map(int, weight.dims)]
    if not shape:  # a product of two activations reads one row of the first for each output element
        return outputs * read[-1]
    if "ConvTranspose" in node.op_type:
        return math.prod(read) * math.prod(shape[1:])
    if node.op_type in CONVOLUTIONS:
        return outputs * math.prod(shape[1:])
    return outputs * math.prod(shape) // written[-1]


def _weight_shape(node: onnx.NodeProto, event: Mapping[str, Any]) -> list[int]:
    """The shape of a convolution's weight that another node gives (a DequantizeLinear); empty for products."""
    types = event["input_type_shape"]
    return [int(size) for size in next(iter(types[1].values()))] if node.op_type in CONVOLUTIONS and types[1:] else []


def _shape(types: Sequence[Mapping[str, Sequence[int]]]) -> list[int]:
    [shape, *_] = types[0].values()
    return [int(size) for size in shape]


def _type_name(tensor: onnx.TensorProto) -> str:
    import onnx

    return str(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name)


def _size_bytes(tensor: onnx.TensorProto) -> int:
    import onnx

    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    nibbles = tensor.data_type in {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    bits = 4 if nibbles else 8 * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return math.prod(map(int, tensor.dims)) * bits // 8
