"""What a TensorRT build needs to know of a model: the file to parse, its precisions, and how much work it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from targets.engines.lint_graph import COMPUTE, GraphView
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from targets.options import Precision

_WORDS: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp32"}
BUILDS: Final = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeNode:
    """A convolution or matrix product.

    Attributes:
        operator: ONNX operator.
        precision: What the graph asks for: ``int8`` where activation and weight come from integers, else its type.
        macs: Multiply-accumulates for one sample; 0 where a shape is not known.
    """

    operator: str
    precision: str
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a build plan says of a model.

    Attributes:
        compute: Convolutions and matrix products by node name.
        float_type: Numpy's name of the type around them.
        weights_bytes: Size of all constants.
    """

    compute: Mapping[str, ComputeNode]
    float_type: str
    weights_bytes: int


def plain_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without names of tools, texts and paths, each node with a name of its own (engines tell by name)."""
    import onnx

    found, model = model, onnx.ModelProto()
    model.CopyFrom(found)
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(field)
    graph = model.graph
    graph.ClearField("doc_string")
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        if not node.name or node.name in taken:
            node.name = f"{node.name or node.op_type}_{index}"
        taken.add(node.name)
    return model


def facts_of(model: onnx.ModelProto) -> GraphFacts:
    """What a build plan says of ``model`` (from `plain_model`)."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_for_one_sample(model))
    view = GraphView(inferred)
    graph = inferred.graph
    shapes = {tensor.name: [int(size) for size in tensor.dims] for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [int(d.dim_value) for d in value.type.tensor_type.shape.dim]
    compute = {
        node.name: ComputeNode(operator=node.op_type, precision=_precision(view, node), macs=_macs(node, shapes))
        for node in view.nodes
        if node.op_type in COMPUTE
    }
    types = {view.type_of(node.input[0]) for node in view.nodes if node.op_type in COMPUTE}
    return GraphFacts(
        compute=compute,
        float_type=next((name for name in ("float16", "bfloat16") if name in types), "float32"),
        weights_bytes=sum(map(_bytes, model.graph.initializer)),
    )


def demand_precision(name: str, facts: GraphFacts, precision: Precision) -> None:
    """Refuses a model whose graph does not say what is asked for: TensorRT computes what the graph says.

    Raises:
        InputError: It is of another precision, or TensorRT has no such format.
    """
    if precision not in BUILDS:
        raise InputError(
            f"{name} was to be built in {precision}, which TensorRT engines are not made in",
            f"they compute in {', '.join(BUILDS)}, as the graph says",
            "leave it out of quantization.precisions of the profile's TensorRT section",
        )
    found = [node.precision for node in facts.compute.values()]
    other = [each for each in found if each != precision]
    if precision == "fp32" and other:
        raise InputError(
            f"{name} was to run in fp32, and does not",
            f"{len(other)} of {len(found)} convolutions and matrix products are {', '.join(sorted(set(other)))}",
            "give the float model, or ask for the precision that it is in",
        )
    if precision != "fp32" and len(other) == len(found):
        raise InputError(
            f"{name} was to run in {precision}, and nothing does",
            f"all {len(found)} convolutions and matrix products "
            + ("stayed float: none reads activation and weight behind Q/DQ" if precision == "int8" else "are not"),
            "quantise it with scheme `trt`" if precision == "int8" else f"convert it to {precision} first",
        )


def _bytes(tensor: onnx.TensorProto) -> int:
    import onnx

    return math.prod(map(int, tensor.dims)) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _for_one_sample(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in (*copy.graph.input, *copy.graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) and not dims[0].dim_value:
            dims[0].dim_value = 1
    return copy


def _precision(view: GraphView, node: onnx.NodeProto) -> str:
    if view.reads_integers(node):
        return "int8"
    return _WORDS.get(view.type_of(node.input[0]) or view.type_of(node.input[1]) or "float32", "fp32")


def _macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    """Output elements x weight elements that each of them reads; a transposed convolution's by input elements."""
    read, weight, written = (_shape(shapes, name) for name in (*node.input[:2], node.output[0]))
    if not (read and weight and written):
        return 0
    if node.op_type == "ConvTranspose":
        return math.prod(read) * math.prod(weight[1:]) // max(read[0], 1)
    if node.op_type == "Conv":
        return math.prod(written) * math.prod(weight[1:]) // max(written[0], 1)
    rows = weight[-1] if any(a.name == "transB" and a.i for a in node.attribute) else weight[-2:][0]
    return math.prod(written) * rows // max(written[0], 1)


def _shape(shapes: Mapping[str, list[int]], name: str) -> list[int]:
    found = shapes.get(name, [])
    return found if all(size > 0 for size in found) else []
