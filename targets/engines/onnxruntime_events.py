"""The nodes that ONNX Runtime executes, with provider, types and shapes: as it wrote them, or from one profile."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from targets.engines.base import HOST_ARITHMETIC, EngineBuild, Port
from targets.engines.onnxoperators import COMPUTE
from targets.engines.onnxweights import Graph, write_scratch
from targets.errors import InputError
from targets.ondevice import session as ondevice_session
from targets.ondevice.providers import CPU, listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_BLOCKED: Final = "com.microsoft.nchwc"  # operators of the layout in blocks of 8 or 16 channels
_MOVES: Final = frozenset({"ReorderInput", "ReorderOutput"})
_ATTRIBUTES: Final = frozenset({
    "auto_pad", "ceil_mode", "count_include_pad", "dilations", "group", "kernel_shape", "pads", "storage_order",
    "strides",
})  # fmt: skip
_NAMES: Final = {1: "float", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool"}
_Type = tuple[int, list[int]]


def written_events(proto: onnx.ModelProto) -> list[dict[str, Any]] | None:
    """One event a node, as a profile has them, from the types and shapes that the runtime wrote into the graph.

    It writes none for tensors in its blocked layout: those follow from the weights.

    Returns:
        None where something is missing, or 16-bit types are in it, around which the runtime would put casts.
    """
    types = _written_types(proto)
    if any(node.domain == _BLOCKED for node in proto.graph.node):
        types = _blocked_types(proto, types) | types
    if any(kind not in _NAMES for kind, _ in types.values()):
        return None
    events = []
    for index, node in enumerate(proto.graph.node):
        names = [[name for name in listing if name] for listing in (node.input, node.output)]
        needed = [*names[0], *names[1]] if node.op_type in COMPUTE else names[0][:1]
        if any(name not in types for name in needed):
            return None
        read, written = ([{_NAMES[types[n][0]]: types[n][1]} for n in part if n in types] for part in names)
        event = {"op_name": node.op_type, "node_index": index, "provider": CPU}
        events.append({**event, "input_type_shape": read, "output_type_shape": written})
    return events


def _written_types(proto: onnx.ModelProto) -> dict[str, _Type]:
    """Element type and shape of every tensor that the file says them of; free dimensions are 1."""
    graph, types = proto.graph, {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            sizes = [int(size.dim_value) if size.HasField("dim_value") else 1 for size in kind.shape.dim]
            types[value.name] = (int(kind.elem_type), sizes)
    return types | {tensor.name: (int(tensor.data_type), [*map(int, tensor.dims)]) for tensor in graph.initializer}


def _blocked_types(proto: onnx.ModelProto, known: Mapping[str, _Type]) -> dict[str, _Type]:
    """The same with blocked tensors: their operators follow the shape rules of the plain ones (padded channels)."""
    import onnx

    nodes = []
    for node in proto.graph.node:
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        if node.domain == _BLOCKED:
            plain.domain, plain.op_type = "", "Identity" if node.op_type in _MOVES else node.op_type
            del plain.input[3 if node.op_type == "Conv" else 1 :]
            kept = [a for a in node.attribute if a.name in _ATTRIBUTES and node.op_type not in _MOVES]
            del plain.attribute[:]
            plain.attribute.extend(kept)
        nodes.append(plain)
    makers = {name for node in nodes for name in node.output}
    values = {name: onnx.helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in known.items()}
    graph = onnx.helper.make_graph(
        nodes, "shapes", [v for n, v in values.items() if n not in makers], [*proto.graph.output],
        value_info=[v for n, v in values.items() if n in makers],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[*proto.opset_import], ir_version=proto.ir_version)
    try:
        return _written_types(onnx.shape_inference.infer_shapes(model))
    except onnx.shape_inference.InferenceError:  # an operator that has no plain form, such as the blocked upsampling
        return {}


def profiled_events(graph: Graph, build: EngineBuild, *, asked: bool) -> list[dict[str, Any]]:
    """One event a node, in the order of the graph, from one inference of one sample.

    Args:
        graph: The graph as it runs.
        build: Its options and ports.
        asked: Whether the build's own providers run it; else the CPU does.

    Raises:
        InputError: The graph does not run, or executes nothing.
    """
    runtime = ondevice_session.import_runtime()
    providers = listed(build.options) if asked else [(CPU, {})]
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        settings = ondevice_session.session_options(
            runtime, {**build.options, "optimization": "disabled", **HOST_ARITHMETIC}
        )
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        try:
            plain = Path(folder) / "plain.onnx"
            write_scratch(graph, plain)
            session = runtime.InferenceSession(str(plain), settings, providers=providers, enable_fallback=0)
            session.run(None, {port.name: _sample(port) for port in build.inputs})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except ondevice_session.runtime_errors() as error:
            raise InputError(
                f"onnxruntime {runtime.__version__} cannot run the model it built",
                " ".join(str(error).split())[:500],
                "check that the model runs on one sample",
            ) from error
    return _of_main_graph(graph.model, events)


def _of_main_graph(proto: onnx.ModelProto, events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Events of the graph's nodes, once each, and of nodes that the runtime put in (casts, compiled parts)."""
    top = [event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    inner = {node.op_type for outer in proto.graph.node for node in _within(outer)}
    matching = {
        int(args["node_index"]): dict(args)
        for args in reversed(top)
        if index_of(proto, args) is not None or args["op_name"] not in inner
    }
    if not matching:
        raise InputError("the engine executes nothing", "its profile names no node", "export the model again")
    return [matching[index] for index in sorted(matching)]


def _within(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes in the subgraphs of a node, at any depth."""
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return [found for graph in graphs for inner in graph.node for found in (inner, *_within(inner))]


def index_of(proto: onnx.ModelProto, args: Mapping[str, Any]) -> int | None:
    """The node of the main graph that an event is of (nodes of subgraphs count from 0 again), if it is of one."""
    index = int(args["node_index"])
    fits = index < len(proto.graph.node) and proto.graph.node[index].op_type == args["op_name"]
    return index if fits else None


def _sample(port: Port) -> np.ndarray[Any, np.dtype[Any]]:
    shape = [size if isinstance(size, int) else 1 for size in port.shape]
    dtype = np.dtype(port.dtype)
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)
