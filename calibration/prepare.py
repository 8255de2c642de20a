"""Brings a float ONNX graph into the one form that calibration and quantisation both work on; values do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import onnx
import onnx_ir as ir
from onnx.inliner import inline_local_functions

from calibration.folding import fold_constants
from calibration.initializers import constant, remove_unused_initializers, set_initializer
from calibration.modelfile import serialize, with_weights, without_weights
from calibration.rewrites import (
    constants_to_initializers,
    fold_batch_norm,
    mean_to_pool,
    pool_to_global,
    remove_identities,
)
from targets.errors import InputError
from targets.onnxfile import OPSETS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["constant", "main_nodes", "prepare", "remove_unused_initializers", "serialize", "set_initializer"]

_PER_CHANNEL_OPSET: Final = 13
_QUANTISED: Final = (
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantize", "QLinear", "ConvInteger", "MatMulInt", "MatMulNBits"),
    *("QGemm", "QAttention", "QEmbed", "QOrdered", "QMoE", "DequantizeB", "MatMulBnb4", "GatherBlockQuantized"),
)


def prepare(model: onnx.ModelProto) -> ir.Model:
    """The float graph, ready to be observed and quantised; the same input gives the same graph and tensor names.

    Functions are inlined; constants become initializers and what follows from constants alone is computed; every node
    gets a name; Identity and idle Dropout are removed; BatchNormalization is folded into the convolution before it; a
    mean or pool over all positions becomes GlobalAveragePool (which runs in int8); notes and source positions are
    dropped. Bodies of If and Loop are left as they are.

    Raises:
        InputError: The model is no valid ONNX, is quantised already, has an opset outside 11 to 23, or cannot be
            converted to opset 13.
    """
    light, weights = without_weights(model)
    _check_graph(light)
    prepared = ir.from_proto(_with_shapes(_new_enough(_inlined(light))))
    with_weights(prepared.graph, weights)
    _reject_quantised(prepared)
    _strip(prepared)
    graph = prepared.graph
    _name_nodes(graph)
    constants_to_initializers(graph)
    remove_identities(graph)
    fold_constants(graph)
    for node in [*graph]:
        if node.op_type == "BatchNormalization":
            fold_batch_norm(graph, node)
        elif node.op_type == "ReduceMean":
            mean_to_pool(graph, node)
        elif node.op_type == "AveragePool":
            pool_to_global(graph, node)
    remove_unused_initializers(graph)
    return prepared


def main_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """Nodes of the graph itself in topological order, without those inside If and Loop bodies."""
    yield from graph


def _check_graph(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InputError(
            "the model is no valid ONNX graph", " ".join(str(error).split())[:200], "export the model again"
        ) from error


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        inlined: onnx.ModelProto = inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "the functions inside the model cannot be inlined",
            " ".join(str(error).split())[:200],
            "export the model again without functions",
        ) from error
    return inlined


def _new_enough(model: onnx.ModelProto) -> onnx.ModelProto:
    versions = [entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}]
    if len(versions) != 1 or versions[0] not in OPSETS:
        raise InputError(
            f"the model has opset {versions[0] if versions else 'none'}",
            f"opsets {OPSETS[0]} to {OPSETS[-1]} are supported",
            "export it again with such an opset, or use onnx.version_converter",
        )
    opset = versions[0]
    if opset >= _PER_CHANNEL_OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
        onnx.checker.check_model(converted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise InputError(
            f"the model has opset {opset} and cannot be converted to {_PER_CHANNEL_OPSET}, which int8 needs",
            " ".join(str(error).split())[:200],
            "export it again with opset 17 or newer",
        ) from error
    return converted


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
        raise InputError(
            "the shapes inside the model contradict each other",
            " ".join(str(error).split())[:200],
            "export the model again",
        ) from error


def _reject_quantised(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.op_type.startswith(_QUANTISED):
            raise InputError(
                f"the model is quantised already: node {node.name or node.outputs[0].name!r} is a {node.op_type}",
                "ranges and weights can only be measured on the float model",
                "start from the float ONNX file",
            )


def _strip(model: ir.Model) -> None:
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name, model.producer_version = "edgepress", None
    model.graph.metadata_props.clear()
    model.graph.doc_string = None
    values = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        values += node.outputs
    for value in values:
        value.metadata_props.clear()
        value.doc_string = None


def _name_nodes(graph: ir.Graph) -> None:
    """Names must be there and differ: placement and reports refer to nodes by them."""
    taken: set[str] = set()
    for index, node in enumerate(graph):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        node.name = name
