"""Reads what OpenVINO really executes: the graph it runs, after one inference, with the precision of each node."""

from __future__ import annotations

import collections
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from targets import machine
from targets.engines.inspection import PRECISIONS, Inspection, overall
from targets.engines.lint_graph import COMPUTE, DEQUANTIZE, QUANTIZE, GraphView
from targets.engines.openvino import one_sample
from targets.engines.subnormals import subnormals
from targets.errors import InputError
from targets.ondevice.failure import Failure
from targets.ondevice.openvino_module import (
    has_device,
    import_openvino,
    message,
    openvino_errors,
    short_version,
)
from targets.ondevice.openvino_runner import OpenVinoRunner
from targets.ondevice.session import out_of_memory
from targets.onnxbytes import read_graph_bytes
from targets.onnxfile import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import onnx

    from targets.engines.base import EngineBuild

SCOPE_HERE: Final = "as it runs on this class of CPU"
SCOPE_HOST: Final = "as compiled on the build host; the target compiles for its own CPU when it loads the engine"
_PRECISION: Final = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "u8": "int8", "i8": "int8"}
_NUMPY: Final = {
    "f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64", "i8": "int8", "u8": "uint8",
    "i4": "int4", "u4": "uint4", "i32": "int32", "u32": "uint32", "i64": "int64", "u64": "uint64", "boolean": "bool",
}  # fmt: skip
_BITS: Final = {"i4": 4, "u4": 4, "i8": 8, "u8": 8, "boolean": 8, "f16": 16, "bf16": 16, "f64": 64, "i64": 64}
_COMPUTE_LAYERS: Final = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_REFORMATS: Final = frozenset({"Reorder", "Convert", "FakeQuantize"})
_CONVERSIONS: Final = frozenset({QUANTIZE, DEQUANTIZE, "Cast"})
_NOWHERE: Final = frozenset({"Input", "Output", "Const"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One node of the graph that OpenVINO executes; precisions as OpenVINO spells them.

    Attributes:
        name: Its own name.
        kind: Its type.
        kernel: The implementation.
        precision: What it computes in.
        origins: Names of what it was made of.
        reads: Shapes of its inputs, weights included.
        writes: Shape of its first output.
        executed: Whether the inference ran it (constants and views are not run).
    """

    name: str
    kind: str
    kernel: str
    precision: str
    origins: tuple[str, ...]
    reads: tuple[tuple[int, ...], ...]
    writes: tuple[int, ...]
    executed: bool


def inspect_build(build: EngineBuild) -> Inspection:
    """What runs in which precision, from one counted inference of one sample.

    Raises:
        InputError: OpenVINO cannot compile or run it, or cannot compute in the asked precision.
    """
    import onnx

    proto = onnx.ModelProto.FromString(read_graph_bytes(build.folder / build.file, MAX_FILE_BYTES))
    unseen = _why_unseen(build)
    if unseen:
        return _by_graph(proto, build, unseen)
    return _by_layers(proto, build, _layers(build))


def _why_unseen(build: EngineBuild) -> str:
    """Why this machine cannot tell how the target runs it; empty where it can."""
    device, arch = build.options["device"], build.options["arch"]
    if device == "CPU" and arch != machine.arch():
        return f"OpenVINO chooses kernels where it runs: this machine is {machine.arch()}, the target {arch}"
    runtime = import_openvino()
    if not has_device(map(str, runtime.Core().available_devices), str(device)):
        return f"openvino {short_version(runtime)} finds no {device} here"
    return ""


def _layers(build: EngineBuild) -> list[Layer]:
    """In a thread of its own: compiling sets the thread to flush subnormals where the options say so."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(_executed, build).result()


def _executed(build: EngineBuild) -> list[Layer]:
    runtime = import_openvino()
    feed = one_sample(build)
    runner = OpenVinoRunner(runtime, runtime.Core(), str(build.folder / build.file), build.to_json())
    try:
        compiled = runner.profile({name: array.shape for name, array in feed.items()})
        compiled.create_infer_request().infer(feed)
        return [_layer(node) for node in compiled.get_runtime_model().get_ordered_ops()]
    except Failure as failure:
        raise InputError(failure.what, failure.why, failure.fix) from failure
    except openvino_errors() as error:
        if out_of_memory(error):
            raise MemoryError(message(error)) from error
        raise InputError(
            f"openvino {short_version(runtime)} cannot run the model",
            message(error),
            "check that the model runs on one sample",
        ) from error


def _layer(node: Any) -> Layer:  # noqa: ANN401 - openvino.Node
    told = {str(key): str(value.astype(str)) for key, value in node.get_rt_info().items()}
    outputs = node.outputs()
    return Layer(
        name=str(node.get_friendly_name()),
        kind=told["layerType"],
        kernel=told["primitiveType"],
        precision=told["runtimePrecision"],
        origins=tuple(filter(None, told["originalLayersNames"].split(","))),
        reads=tuple(_shape(value) for value in node.input_values()),
        writes=_shape(outputs[0]) if outputs else (),
        executed=told["execTimeMcs"] != "not_executed",
    )


def _shape(port: Any) -> tuple[int, ...]:  # noqa: ANN401 - openvino.Output
    shape = port.get_partial_shape()
    return () if shape.is_dynamic else tuple(int(size) for size in shape.to_shape())


def _by_layers(proto: onnx.ModelProto, build: EngineBuild, layers: Sequence[Layer]) -> Inspection:
    run = [layer for layer in layers if layer.executed and layer.kind not in _NOWHERE]
    if not run:
        raise InputError("the engine executes nothing", "OpenVINO folds all of it", "export the model again")
    naming = _Naming(proto)
    compute = [layer for layer in run if layer.kind in _COMPUTE_LAYERS]
    eight = [layer for layer in compute if _PRECISION.get(layer.precision) == "int8"]
    precisions = collections.Counter(_PRECISION.get(layer.precision, "unknown") for layer in compute)
    conversions = [layer for layer in run if naming.converts(layer)]
    eight_nodes = collections.Counter(
        layer.kind for layer in run if _PRECISION.get(layer.precision) == "int8" and layer not in conversions
    )
    macs, int8_macs = sum(map(_macs, compute)), sum(map(_macs, eight))
    weights = _weights(layers)
    wanted = "int8" if build.precision in {"int8", "int8-dynamic"} else _PRECISION[str(build.options["precision"])]
    other = [layer for layer in compute if _PRECISION.get(layer.precision) != wanted]
    slow = [layer for layer in compute if layer.kernel.startswith(("ref", "gemm_ref", "unknown"))]
    kernels = [f"{naming.of(layer)} runs in a reference kernel ({layer.kernel})" for layer in slow]
    here = machine.provides(str(build.options["arch"]), _texts(build.options["isa"]))
    return Inspection(
        engine=build.engine,
        scope=SCOPE_HERE if here else SCOPE_HOST,
        requested_precision=build.precision,
        actual_precision=overall(precisions),
        nodes=dict(sorted(collections.Counter(layer.kind for layer in run).items())),
        int8_nodes=dict(sorted(eight_nodes.items())),
        providers={str(build.options["device"]): len(run)},
        int8_node_ratio=round(eight_nodes.total() / len(run), 6),
        compute={"total": len(compute), "int8": len(eight), "macs": macs, "int8_macs": int8_macs},
        precisions={name: precisions[name] for name in PRECISIONS if precisions[name]},
        int8_mac_ratio=round(int8_macs / macs, 6) if macs else 0.0,
        float_compute=tuple(naming.of(layer) for layer in compute if layer not in eight),
        weights_bytes=sum(weights.values()),
        subnormal_weights=sum(subnormals(t, build.folder / build.file) for t in proto.graph.initializer),
        fallbacks=tuple(naming.of(layer) for layer in compute if layer in other or layer in slow),
        reformats=len(conversions),
        weights=weights,
        warnings=tuple(kernels),
    )


def _by_graph(proto: onnx.ModelProto, build: EngineBuild, why: str) -> Inspection:
    """What the file asks for, where nobody can see what becomes of it."""
    view = GraphView(proto)
    compute = [node for node in view.nodes if node.op_type in COMPUTE]
    eight = [node for node in compute if view.reads_integers(node)]
    return Inspection(
        engine=build.engine,
        scope="as the file asks for",
        requested_precision=build.precision,
        actual_precision="unknown",
        nodes=dict(sorted(collections.Counter(node.op_type for node in view.nodes).items())),
        int8_nodes=dict(sorted(collections.Counter(node.op_type for node in eight).items())),
        providers={str(build.options["device"]): len(view.nodes)},
        int8_node_ratio=round(len(eight) / max(1, len(view.nodes)), 6),
        compute={"total": len(compute), "int8": len(eight), "macs": 0, "int8_macs": 0},
        precisions={"unknown": len(compute)},
        int8_mac_ratio=0.0,
        float_compute=tuple(node.name or node.output[0] for node in compute if node not in eight),
        weights_bytes=0,
        subnormal_weights=sum(subnormals(t, build.folder / build.file) for t in proto.graph.initializer),
        inspected=why,
    )


def _macs(layer: Layer) -> int:
    """Multiply-accumulates: output elements x weight elements that each of them reads."""
    read, weight = layer.reads[0], layer.reads[1]
    if layer.kind in {"Convolution", "Deconvolution"}:
        grouped = len(weight) - len(layer.writes)  # a grouped weight has one axis more, in front
        points = layer.writes if layer.kind == "Convolution" else read
        return math.prod(points) * math.prod(weight[1 + grouped :])
    if layer.kind == "FullyConnected":  # (..., k) x (n, k)
        return math.prod(layer.writes) * read[-1]
    return math.prod(read) * layer.writes[-1] * max(1, math.prod(layer.writes[:-2]) // max(1, math.prod(read[:-2])))


def _weights(layers: Iterable[Layer]) -> dict[str, int]:
    """Bytes of constants that the executed graph holds, by numpy's name of their type."""
    found = collections.Counter[str]()
    for layer in layers:
        if layer.kind == "Const" and layer.precision in _NUMPY:
            found[_NUMPY[layer.precision]] += math.prod(layer.writes) * _BITS.get(layer.precision, 32) // 8
    return {name: count for name, count in sorted(found.items()) if count}


class _Naming:
    """From OpenVINO's names back to those of the ONNX file."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._nodes = {node.name: node for node in proto.graph.node if node.name}
        self._makers = {name: node for node in proto.graph.node for name in node.output if name}

    def _origins(self, layer: Layer) -> list[onnx.NodeProto]:
        names = [name.removesuffix("/WithoutBiases") for name in (*layer.origins, layer.name)]
        found = [self._nodes.get(name) or self._makers.get(name) for name in names]
        return [node for node in found if node is not None]

    def of(self, layer: Layer) -> str:
        """The ONNX node that a layer computes, its convolution or product first; the layer's type where none is."""
        origins = self._origins(layer)
        chosen = next((node for node in origins if node.op_type in COMPUTE), None) or next(iter(origins), None)
        return layer.kind if chosen is None else chosen.name or chosen.output[0]

    def converts(self, layer: Layer) -> bool:
        """Whether a layer only changes a layout or a type."""
        origins = self._origins(layer)
        return layer.kind in _REFORMATS or (bool(origins) and all(node.op_type in _CONVERSIONS for node in origins))


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list | tuple) else []
