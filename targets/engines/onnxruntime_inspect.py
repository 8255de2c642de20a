"""Reads what ONNX Runtime really executes: one profiled inference names each node's operator, provider and types."""

from __future__ import annotations

import collections
import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from targets.engines.base import HOST_ARITHMETIC, EngineBuild, Inspection, Port
from targets.errors import InputError
from targets.ondevice import session as ondevice_session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

_CONVOLUTIONS: Final = frozenset({
    "Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv", "ConvTranspose", "QLinearConvTranspose",
})  # fmt: skip
_PRODUCTS: Final = frozenset({
    "Gemm", "FusedGemm", "QGemm", "MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
})  # fmt: skip
_CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_EIGHT_BITS: Final = frozenset({"int8", "uint8"})
_WEIGHT_INPUT: Final = {"QLinearConv": 3, "QLinearConvTranspose": 3, "QLinearMatMul": 3, "QGemm": 3}


def inspect_optimised(proto: onnx.ModelProto, build: EngineBuild, scope: str) -> Inspection:
    """What runs in which precision, from one profiled inference of a fully optimised graph.

    Args:
        proto: The graph as it runs, opened without further optimisation.
        build: The build it belongs to.
        scope: Where the graph was optimised, for the reader.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes, eight, providers = collections.Counter[str](), collections.Counter[str](), collections.Counter[str]()
    compute = dict.fromkeys(("total", "int8", "macs", "int8_macs"), 0)
    stayed_float = []
    for event in _profile(proto, build):
        node = proto.graph.node[int(event["node_index"])]
        kind = node.op_type
        is_eight = kind not in _CONVERSIONS and _first_type(event) in _EIGHT_BITS
        nodes[kind] += 1
        eight[kind] += is_eight
        providers[event["provider"]] += 1
        if kind in _CONVOLUTIONS | _PRODUCTS:
            macs = _macs(node, event, weights)
            compute["total"] += 1
            compute["macs"] += macs
            if is_eight:
                compute["int8"] += 1
                compute["int8_macs"] += macs
            else:
                stayed_float.append(node.name or kind)
    return Inspection(
        scope=scope,
        requested_precision=build.precision,
        actual_precision=_precision(compute),
        nodes=dict(sorted(nodes.items())),
        int8_nodes={name: count for name, count in sorted(eight.items()) if count},
        providers=dict(sorted(providers.items())),
        int8_node_ratio=round(sum(eight.values()) / sum(nodes.values()), 6),
        compute=compute,
        int8_mac_ratio=round(compute["int8_macs"] / compute["macs"], 6) if compute["macs"] else 0.0,
        float_compute=tuple(stayed_float),
        weights_bytes=sum(_size_bytes(tensor) for tensor in weights.values()),
        subnormal_weights=sum(_subnormals(tensor) for tensor in weights.values()),
    )


def _profile(proto: onnx.ModelProto, build: EngineBuild) -> list[dict[str, Any]]:
    """One event a node, in the order of execution, from one inference of one sample."""
    runtime = ondevice_session.import_runtime()
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
        settings = ondevice_session.session_options(
            runtime, {**build.options, "optimization": "disabled", **HOST_ARITHMETIC}
        )
        settings.enable_profiling = True
        settings.profile_file_prefix = str(Path(folder) / "profile")
        providers = [name for name in _names(build.options["providers"]) if name in runtime.get_available_providers()]
        try:
            session = runtime.InferenceSession(proto.SerializeToString(), settings, providers=providers)
            session.run(None, {port.name: _sample(port) for port in build.inputs})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except ondevice_session.runtime_errors() as error:
            raise InputError(
                f"onnxruntime {runtime.__version__} cannot run the model it built",
                " ".join(str(error).split())[:500],
                "check that the model runs on one sample",
            ) from error
    top = [event["args"] for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    matching = {int(args["node_index"]): args for args in reversed(top) if _belongs(proto, args)}
    if not matching:
        raise InputError("the engine executes nothing", "its profile names no node", "export the model again")
    return [matching[index] for index in sorted(matching)]


def _belongs(proto: onnx.ModelProto, args: Mapping[str, Any]) -> bool:
    """Whether the event is of a node of the main graph (nodes of subgraphs count from 0 again)."""
    index = int(args["node_index"])
    return index < len(proto.graph.node) and proto.graph.node[index].op_type == args["op_name"]


def _names(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []


def _sample(port: Port) -> np.ndarray[Any, np.dtype[Any]]:
    shape = [size if isinstance(size, int) else 1 for size in port.shape]
    dtype = np.dtype(port.dtype)
    if dtype.kind != "f":
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _first_type(event: Mapping[str, Any]) -> str:
    return next(iter(event["input_type_shape"][0])) if event["input_type_shape"] else ""


def _macs(node: onnx.NodeProto, event: Mapping[str, Any], weights: Mapping[str, onnx.TensorProto]) -> int:
    """Multiply-accumulates for one sample: output elements x weight elements that each of them reads."""
    read, written = _shape(event["input_type_shape"]), _shape(event["output_type_shape"])
    outputs = math.prod(written)
    weight = weights.get(node.input[_WEIGHT_INPUT.get(node.op_type, 1)])
    if weight is None:  # a product of two activations reads one row of the first for each output element
        return outputs * read[-1]
    if "ConvTranspose" in node.op_type:
        return math.prod(read) * math.prod(map(int, weight.dims[1:]))
    if node.op_type in _CONVOLUTIONS:
        return outputs * math.prod(map(int, weight.dims[1:]))
    return outputs * math.prod(map(int, weight.dims)) // written[-1]


def _shape(types: Sequence[Mapping[str, Sequence[int]]]) -> list[int]:
    [shape, *_] = types[0].values()
    return [int(size) for size in shape]


def _precision(compute: Mapping[str, int]) -> str:
    if compute["int8"] == 0:
        return "fp32"
    return "int8" if compute["int8"] == compute["total"] else "mixed"


def _size_bytes(tensor: onnx.TensorProto) -> int:
    from onnx import numpy_helper

    return int(numpy_helper.to_array(tensor).nbytes)


def _subnormals(tensor: onnx.TensorProto) -> int:
    import onnx
    from onnx import numpy_helper

    if tensor.data_type != onnx.TensorProto.FLOAT:
        return 0
    # By bits: comparing numbers would not see them where the runtime has set this thread to flush them.
    bits = np.ascontiguousarray(numpy_helper.to_array(tensor)).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return int(np.count_nonzero((bits > 0) & (bits < np.uint32(0x00800000))))
