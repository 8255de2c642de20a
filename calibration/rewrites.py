"""Rewrites of a float graph that keep its values: constants, copies, batch normalisation, means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import onnx_ir as ir

from calibration.initializers import constant, set_initializer

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SERIES: Final = 3  # (N, C, L)
_LITERALS: Final = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def constants_to_initializers(graph: ir.Graph) -> None:
    """Constant nodes of the main graph become initializers of the same name."""
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


def remove_identities(graph: ir.Graph) -> None:
    """Removes nodes that give back what they get: Identity, and Dropout outside training."""
    for node in [*graph]:
        source = node.inputs[0] if node.op_type == "Identity" or _is_idle_dropout(node) else None
        if source is None or node.outputs[0].is_graph_output():
            continue
        node.outputs[0].replace_all_uses_with(source)
        graph.remove(node, safe=True)


def fold_batch_norm(graph: ir.Graph, norm: ir.Node) -> None:
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


def _is_idle_dropout(node: ir.Node) -> bool:
    training = node.inputs[2] if len(node.inputs) > 2 else None  # noqa: PLR2004 - Dropout(data, ratio, training_mode)
    if node.op_type != "Dropout" or any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        return False
    array = constant(training)
    return training is None or (array is not None and not array.any())


def mean_to_pool(graph: ir.Graph, mean: ir.Node) -> None:
    """ReduceMean over all positions of (N, C, ...) -> GlobalAveragePool, flattened when they are dropped.

    A mean that is subtracted belongs to a normalisation and stays, as does one over the last axis of (N, L, C).
    """
    source = mean.inputs[0]
    attribute = mean.attributes.get("axes")
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else None
    listed = [*attribute.as_ints()] if attribute is not None else axes.tolist() if axes is not None else []
    keep = mean.attributes["keepdims"].as_int() if "keepdims" in mean.attributes else 1
    if source is None or source.shape is None or source.dtype not in {None, ir.DataType.FLOAT}:
        return
    rank = len(source.shape)
    positions = [*range(2, rank)]
    if not positions or (rank == _SERIES and keep) or sorted(int(axis) % rank for axis in listed) != positions:
        return
    if any(node.op_type == "Sub" for node, _ in mean.outputs[0].uses()):
        return
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


def pool_to_global(graph: ir.Graph, pool: ir.Node) -> None:
    """AveragePool over a whole plane of fixed size -> GlobalAveragePool, which runs in int8."""
    source, output = pool.inputs[0], pool.outputs[0]
    kernel = [*pool.attributes["kernel_shape"].as_ints()]
    pads = [*pool.attributes["pads"].as_ints()] if "pads" in pool.attributes else []
    padded = any(pads) or pool.attributes.get_string("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}
    dilated = "dilations" in pool.attributes and set(pool.attributes["dilations"].as_ints()) != {1}
    if source is None or source.shape is None or padded or dilated or [*source.shape][2:] != kernel:
        return
    whole = ir.node("GlobalAveragePool", [source], name=pool.name)
    whole.outputs[0].type = output.type
    graph.insert_after(pool, whole)
    name = output.name
    output.replace_all_uses_with(whole.outputs[0], replace_graph_outputs=True)
    graph.remove(pool, safe=True)
    whole.outputs[0].name, whole.outputs[0].shape = name, output.shape
