"""Brings a float ONNX graph into the one form that calibration and quantisation both work on; values do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnx_ir as ir

from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

_PER_CHANNEL_OPSET: Final = 13
_QUANTISED: Final = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinear",
    "ConvInteger",
    "MatMulInt",
)
_LITERALS: Final = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def prepare(model: onnx.ModelProto) -> ir.Model:
    """The float graph, ready to be observed and quantised; the same input gives the same graph and tensor names.

    Constants become initializers, every node gets a name, Identity is removed, BatchNormalization is folded into the
    convolution before it, a mean over height and width becomes GlobalAveragePool (which runs in int8), notes and
    source positions are dropped.

    Raises:
        InputError: The model is no valid ONNX, is quantised already, or cannot be converted to opset 13.
    """
    _check_graph(model)
    graph = ir.from_proto(_with_shapes(_new_enough(model)))
    _reject_quantised(graph)
    _strip(graph)
    _name_nodes(graph.graph)
    _constants_to_initializers(graph.graph)
    _remove_identities(graph.graph)
    for node in [*graph.graph]:
        if node.op_type == "BatchNormalization":
            _fold_batch_norm(graph.graph, node)
        elif node.op_type == "ReduceMean":
            _mean_to_pool(graph.graph, node)
    remove_unused_initializers(graph.graph)
    return graph


def serialize(model: ir.Model) -> bytes:
    """The model as bytes; the same model gives the same bytes."""
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of an initializer of the main graph, None for anything else."""
    if value is None or value.const_value is None or not value.is_initializer():
        return None
    array: NDArray[np.generic] = value.const_value.numpy()
    return array


def set_initializer(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer, called ``name`` or, where that is taken, ``name_``."""
    while name in graph.initializers:
        name += "_"
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


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


def _new_enough(model: onnx.ModelProto) -> onnx.ModelProto:
    opset = next(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if opset >= _PER_CHANNEL_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, _PER_CHANNEL_OPSET)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the model has opset {opset} and cannot be converted to {_PER_CHANNEL_OPSET}, which int8 needs",
            " ".join(str(error).split())[:200],
            "export it again with opset 17 or newer",
        ) from error


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
                f"the model is quantised already: node {node.name!r} is a {node.op_type}",
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


def _constants_to_initializers(graph: ir.Graph) -> None:
    for node in [*graph]:
        array = _stored_array(node) if node.op_type == "Constant" else None
        if array is None or node.outputs[0].is_graph_output():
            continue
        name = str(node.outputs[0].name)
        node.outputs[0].name = f"{name}__constant"
        node.outputs[0].replace_all_uses_with(set_initializer(graph, name, array))
        graph.remove(node, safe=True)


def _stored_array(node: ir.Node) -> NDArray[np.generic] | None:
    """What a Constant holds; None for a sparse tensor or text."""
    if "value" in node.attributes:
        array: NDArray[np.generic] = node.attributes["value"].as_tensor().numpy()
        return array
    literals = (
        np.asarray(node.attributes[name].value, dtype) for name, dtype in _LITERALS.items() if name in node.attributes
    )
    return next(literals, None)


def _remove_identities(graph: ir.Graph) -> None:
    for node in [*graph]:
        source = node.inputs[0] if node.op_type == "Identity" else None
        if source is None or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def _fold_batch_norm(graph: ir.Graph, norm: ir.Node) -> None:
    """Conv + BatchNormalization -> Conv, when the convolution feeds nothing else and owns its weights."""
    source = norm.inputs[0]
    conv = source.producer() if source is not None else None
    statistics = [constant(value) for value in norm.inputs[1:5]]
    if source is None or conv is None or conv.op_type != "Conv" or len(source.uses()) != 1 or source.is_graph_output():
        return
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None  # noqa: PLR2004 - Conv(x, w, bias)
    kernel, offset = constant(weight), constant(bias)
    if any(statistic is None for statistic in statistics):
        return
    private = weight is not None and len(weight.uses()) == 1
    if kernel is None or not private or (bias is not None and offset is None) or len(norm.outputs) != 1:
        return
    gamma, beta, mean, variance = (np.asarray(s, np.float64) for s in statistics if s is not None)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    factor = gamma / np.sqrt(variance + epsilon)
    shape = (-1,) + (1,) * (kernel.ndim - 1)
    start = np.zeros_like(mean) if offset is None else offset.astype(np.float64)
    assert weight is not None
    weight.const_value = ir.tensor(
        (kernel.astype(np.float64) * factor.reshape(shape)).astype(kernel.dtype), name=weight.name
    )
    folded = ((start - mean) * factor + beta).astype(kernel.dtype)
    new_bias = set_initializer(graph, f"{norm.outputs[0].name}__bias", folded)
    conv.resize_inputs(3)
    conv.replace_input_with(2, new_bias)
    _take_over(graph, norm, source)


def _take_over(graph: ir.Graph, node: ir.Node, source: ir.Value) -> None:
    """Removes ``node``; ``source`` takes the place and the name of its output."""
    output = node.outputs[0]
    name = output.name
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    source.name = name
    source.shape = output.shape


def _mean_to_pool(graph: ir.Graph, mean: ir.Node) -> None:
    """ReduceMean over the spatial axes of (N, C, H, W) -> GlobalAveragePool, flattened when they are dropped."""
    source = mean.inputs[0]
    attribute = mean.attributes.get("axes")
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    listed = [*attribute.as_ints()] if attribute is not None else axes.tolist() if axes is not None else []
    if source is None or source.shape is None or len(source.shape) != 4:  # noqa: PLR2004 - (N, C, H, W)
        return
    if source.dtype not in {None, ir.DataType.FLOAT}:  # pooling takes no integers
        return
    if sorted(int(axis) % 4 for axis in listed) != [2, 3]:
        return
    keep = mean.attributes["keepdims"].as_int() if "keepdims" in mean.attributes else 1
    output = mean.outputs[0]
    pool = ir.node("GlobalAveragePool", [source], name=mean.name)
    pooled = pool.outputs[0]
    pooled.type = ir.TensorType(output.dtype or ir.DataType.FLOAT)
    graph.insert_after(mean, pool)
    result, name = pooled, str(output.name)
    if not keep:
        flat = ir.node("Flatten", [pooled], {"axis": 1}, name=f"{mean.name}__flatten")
        graph.insert_after(pool, flat)
        result = flat.outputs[0]
        result.type = ir.TensorType(output.dtype or ir.DataType.FLOAT)
        pooled.name = f"{name}__pooled"
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(mean, safe=True)
    result.name = name
    result.shape = output.shape


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drops initializers that no node reads and that are no output."""
    outputs = {value.name for value in graph.outputs}
    for name, value in [*graph.initializers.items()]:
        if not value.uses() and name not in outputs:
            del graph.initializers[name]
