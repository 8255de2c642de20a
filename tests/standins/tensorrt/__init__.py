"""A stand-in for TensorRT 8.6, 10 and 11: an engine holds its ONNX model, an inference runs it on the given addresses.

``STANDIN_TENSORRT`` says which version. Each has the members that its generation has, so that using one that was
removed, or is not there yet, fails as it would there. What is put into a stream runs when the stream does (libcuda.c).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
from typing import Any

import numpy as np
import onnx

from tensorrt._names import (
    _FORMATS,
    _MAGIC,
    _MAJOR,
    _STRONG,
    _TYPES,
    BuilderFlag,
    DataType,
    DeviceType,
    HardwareCompatibilityLevel,
    ILogger,
    LayerInformationFormat,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    TensorIOMode,
    __version__,
    _cuda,
    _driver_is_dead,
    _Strict,
    nptype,
)  # fmt: skip

if _STRONG:
    from tensorrt._names import OnnxParserFlag as OnnxParserFlag

__all__ = [
    "Builder", "BuilderFlag", "DataType", "DeviceType", "HardwareCompatibilityLevel", "ILogger",
    "LayerInformationFormat", "MemoryPoolType", "NetworkDefinitionCreationFlag", "OnnxParser", "ProfilingVerbosity",
    "Runtime", "TensorIOMode", "__version__", "nptype",
]  # fmt: skip


class _Tensor(_Strict):
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type
        name = _TYPES[kind.elem_type]
        self._name, self._type = value.name, getattr(DataType, name if hasattr(DataType, name) else "INT32")
        self._shape = tuple(-1 if d.dim_param or not d.HasField("dim_value") else d.dim_value for d in kind.shape.dim)

    name = property(lambda self: self._name)
    shape = property(lambda self: self._shape)
    dtype = property(lambda self: self._type)


class _Layer(_Strict):
    def __init__(self, node: onnx.NodeProto) -> None:
        self._node = node

    name = property(lambda self: self._node.name)


class _Network(_Strict):
    def __init__(self, flags: int) -> None:
        self._flags, self._model = flags, onnx.ModelProto()

    num_inputs = property(lambda self: len(self._model.graph.input))
    num_outputs = property(lambda self: len(self._model.graph.output))
    num_layers = property(lambda self: len(self._model.graph.node))

    def get_input(self, index: int) -> _Tensor:
        return _Tensor(self._model.graph.input[index])

    def get_output(self, index: int) -> _Tensor:
        return _Tensor(self._model.graph.output[index])

    def get_layer(self, index: int) -> _Layer:
        return _Layer(self._model.graph.node[index])


class OnnxParser(_Strict):
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self._network, self._logger, self._errors, self._parser_flags = network, logger, [], []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> str:
        return str(self._errors[index])

    def parse_from_file(self, path: str) -> bool:
        self._network._model.CopyFrom(onnx.load(path))
        graph = self._network._model.graph
        written = {name: node.op_type for node in graph.node for name in node.output}
        self._errors += [f"In node {n.name}: no importer for {n.op_type}" for n in graph.node if n.domain]
        if not _STRONG:
            self._errors += [
                f"In node {n.name}: an int8 initializer cannot be dequantised"
                for n in graph.node
                if n.op_type == "DequantizeLinear" and n.input[0] not in written
            ]
        return not self._errors


if _STRONG:

    def _set_flag(self: OnnxParser, flag: Any) -> None:  # noqa: ANN401
        self._parser_flags.append(flag.name)

    OnnxParser.set_flag = _set_flag  # type: ignore[attr-defined]


class _Profile(_Strict):
    def __init__(self) -> None:
        self._shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:  # noqa: ANN401
        self._shapes[name] = [list(low), list(usual), list(high)]


class _TimingCache(_Strict):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> bytes:
        return self._data


class _Config(_Strict):
    _settable = frozenset({
        "builder_optimization_level", "profiling_verbosity", "default_device_type", "DLA_core",
        "hardware_compatibility_level", "max_aux_streams",
    })  # fmt: skip

    def __init__(self) -> None:
        self._flags, self._profiles = {BuilderFlag.TF32}, []  # as everywhere: TF32 is on until it is cleared
        self._cache: _TimingCache | None = None
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.default_device_type, self.DLA_core = DeviceType.GPU, -1
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE

    def set_flag(self, flag: Any) -> None:  # noqa: ANN401
        self._flags.add(flag)

    def clear_flag(self, flag: Any) -> None:  # noqa: ANN401
        self._flags.discard(flag)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:  # noqa: ANN401
        self._workspace = size

    def add_optimization_profile(self, profile: _Profile) -> int:
        self._profiles.append(profile._shapes)
        return len(self._profiles) - 1

    def create_timing_cache(self, data: bytes) -> _TimingCache:
        return _TimingCache(bytes(data))

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:  # noqa: FBT001
        self._cache = cache
        return not ignore_mismatch

    def get_timing_cache(self) -> _TimingCache | None:
        return self._cache

    def can_run_on_DLA(self, layer: _Layer) -> bool:  # noqa: N802
        return layer._node.op_type != "Gemm"


class Builder(_Strict):
    def __init__(self, logger: ILogger) -> None:
        if _driver_is_dead():
            raise TypeError("pybind11::init(): factory function returned nullptr")  # what 8.6 says
        self._logger = logger

    num_DLA_cores = property(lambda self: int(os.environ.get("STANDIN_DLA", "0")))  # noqa: N815

    def create_network(self, flags: int) -> _Network:
        return _Network(flags)

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        fault = _fault(network, config)
        if fault:
            self._logger.log(ILogger.Severity.ERROR, fault)  # type: ignore[attr-defined]
            return None
        if config._cache is not None and not config._cache._data:
            config._cache = _TimingCache(b"times of kernels")
        header = {
            "version": __version__, "gpu": _gpu_name(), "flags": sorted(flag.name for flag in config._flags),
            "profiles": config._profiles, "dla": config.default_device_type.name == "DLA",
            "detailed": config.profiling_verbosity.name == "DETAILED", "level": config.builder_optimization_level,
            "ampere_plus": config.hardware_compatibility_level.name == "AMPERE_PLUS", "workspace": config._workspace,
        }  # fmt: skip
        return _MAGIC + json.dumps(header).encode() + b"\n" + network._model.SerializeToString()


def _fault(network: _Network, config: _Config) -> str:
    """What a real builder would not build."""
    graph, names = network._model.graph, {flag.name for flag in config._flags}
    eight = any(node.op_type == "QuantizeLinear" for node in graph.node)
    wanted = "STRONGLY_TYPED" if _STRONG else "EXPLICIT_BATCH"
    if not network._flags & (1 << int(getattr(NetworkDefinitionCreationFlag, wanted))):
        return f"the network was not created with {wanted}"
    if not _STRONG and eight and "INT8" not in names:
        return "the network has Q/DQ layers and INT8 is not allowed"
    if _STRONG and names & {"INT8", "FP16", "BF16"}:
        return "precision flags and strong typing exclude each other"
    for value in graph.input:
        tensor = _Tensor(value)
        if -1 in tensor.shape and not any(tensor.name in shapes for shapes in config._profiles):
            return "Network has dynamic or shape inputs, but no optimization profile has been defined."
    if config.default_device_type.name == "DLA" and "GPU_FALLBACK" not in names:
        return "a layer cannot run on the DLA and GPU fallback is not allowed"
    return ""


def _gpu_name() -> str:
    name = ctypes.create_string_buffer(128)
    _cuda().cuDeviceGetName(name, 128, 0)
    return name.value.decode()


class Runtime(_Strict):
    _settable = frozenset({"DLA_core", *(("engine_host_code_allowed",) if _STRONG or _MAJOR == 8 else ())})

    def __init__(self, logger: ILogger) -> None:
        if _driver_is_dead():
            os.kill(os.getpid(), signal.SIGSEGV)  # what 8.6.0 does
        self._logger, self.DLA_core, self.engine_host_code_allowed = logger, -1, False

    def deserialize_cuda_engine(self, data: bytes) -> Any:  # noqa: ANN401
        head, _, model = bytes(data)[len(_MAGIC) :].partition(b"\n")
        header = json.loads(head) if bytes(data).startswith(_MAGIC) else {"version": "?"}
        if header["version"] != __version__ or header["gpu"] != _gpu_name():
            self._logger.log(ILogger.Severity.ERROR, "the plan is of another version or device")  # type: ignore[attr-defined]
            return None
        if "VERSION_COMPATIBLE" in header["flags"] and not self.engine_host_code_allowed:
            self._logger.log(ILogger.Severity.ERROR, "the plan holds host code, which is not allowed")  # type: ignore[attr-defined]
            return None
        return _Engine(header, model)


class _Engine(_Strict):
    def __init__(self, header: dict[str, Any], data: bytes) -> None:
        self._header, self._data, self._model = header, data, onnx.load_from_string(data)
        graph = self._model.graph
        both = ((TensorIOMode.INPUT, graph.input), (TensorIOMode.OUTPUT, graph.output))
        self._tensors = {value.name: (_Tensor(value), mode) for mode, values in both for value in values}

    num_io_tensors = property(lambda self: len(self._tensors))
    num_layers = property(lambda self: len(self._model.graph.node))
    refittable = property(lambda self: "REFIT" in self._header["flags"])
    if _MAJOR < 11:
        device_memory_size = property(lambda self: 4096)
    if _STRONG:
        device_memory_size_v2 = property(lambda self: 4096)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:  # noqa: ANN401
        return self._tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:  # noqa: ANN401
        return self._tensors[name][0].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][0].shape

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self)

    def create_execution_context(self) -> _Context:
        return _Context(self)


class _Inspector(_Strict):
    _settable = frozenset({"execution_context"})

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine

    def get_engine_information(self, form: Any) -> str:  # noqa: ANN401
        engine, header = self._engine, self._engine._header
        names = list(engine._tensors)
        told: dict[str, Any] = {"Bindings": names} if _MAJOR < 11 else {"I/O Tensors": [{"Name": n} for n in names]}
        graph = engine._model.graph
        makers = {name: node for node in graph.node for name in node.output}
        halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
        told["Layers"] = [_told(node, makers, halves, header) for node in graph.node if node.op_type not in _GONE]
        for index in range(int(os.environ.get("STANDIN_REFORMATS", "0"))):
            told["Layers"].append({"Name": f"Reformatting CopyNode {index}", "LayerType": "Reformat", "Inputs": []})
        if not header["detailed"]:
            told["Layers"] = [layer["Name"] for layer in told["Layers"]]
        return json.dumps(told)


_GONE = {"QuantizeLinear", "DequantizeLinear", "Flatten", "Constant"}
_WORDS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
_KINDS = {"Conv": "CaskConvolution", "Gemm": "CaskGemm" if not _STRONG else "gemm"}


def _told(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], halves: set[str], header: dict[str, Any]
) -> dict[str, Any]:
    kind = "fp16" if halves & set(node.input) else "fp32"
    if node.input[0] in makers and makers[node.input[0]].op_type == "DequantizeLinear":
        kind = "fp32" if os.environ.get("STANDIN_SILENT_FLOAT") else "int8"
    words = _FORMATS[kind]
    tensor = {"Name": node.input[0], "Dimensions": [1]}
    tensor.update({"Format/Datatype": words} if _MAJOR < 11 else {"Format": "N/A", "DataType": _WORDS[kind]})
    layer = {"Name": node.name, "LayerType": _KINDS.get(node.op_type, "PointWiseV2"), "Inputs": [tensor], "Outputs": []}
    if header["dla"] and node.op_type != "Gemm":
        layer["LayerType"] = "DLA"
    if _STRONG:
        layer["Metadata"] = f"[ONNX Layer: {node.name}]"
    return layer


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Context(_Strict):
    def __init__(self, engine: _Engine) -> None:
        import onnxruntime

        self._engine, self._cuda = engine, _cuda()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._ran: set[str] = set()
        self._kept: list[Any] = []
        onnxruntime.set_default_logger_severity(3)
        self._session = onnxruntime.InferenceSession(engine._data, providers=["CPUExecutionProvider"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        told = self._engine.get_tensor_shape(name)
        if len(told) != len(shape) or any(size not in {-1, given} for size, given in zip(told, shape, strict=True)):
            return False
        for shapes in self._engine._header["profiles"]:
            low, _, high = shapes[name]
            if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
                return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._names("INPUT") if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        batch = next(iter(self._shapes.values()))[0]
        return tuple(batch if size == -1 else size for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        state = ctypes.c_int()
        self._cuda.cuStreamIsCapturing(stream, ctypes.addressof(state))
        key = str(sorted(self._shapes.items()))
        if state.value and key not in self._ran:
            return False  # the first inference of a shape may allocate
        if not state.value:
            self._ran.add(key)
        shapes = {name: self.get_tensor_shape(name) for name in self._engine._tensors}
        places = dict(self._addresses)
        callback = _CALLBACK(lambda _: self._compute(shapes, places))
        self._kept.append(callback)
        return self._cuda.cuLaunchHostFunc(stream, ctypes.cast(callback, ctypes.c_void_p), None) == 0

    def _compute(self, shapes: dict[str, tuple[int, ...]], places: dict[str, int]) -> None:
        feed = {item.name: self._array(item.name, shapes, places) for item in self._session.get_inputs()}
        kinds = {"tensor(int64)": np.int64}
        feed = {
            item.name: feed[item.name].astype(kinds.get(item.type, feed[item.name].dtype))
            for item in self._session.get_inputs()
        }
        for name, value in zip(self._names("OUTPUT"), self._session.run(self._names("OUTPUT"), feed), strict=True):
            self._array(name, shapes, places)[...] = value

    def _array(self, name: str, shapes: dict[str, tuple[int, ...]], places: dict[str, int]) -> Any:  # noqa: ANN401
        dtype = np.dtype(nptype(self._engine.get_tensor_dtype(name)))
        size = int(np.prod(shapes[name])) * dtype.itemsize
        block = (ctypes.c_char * size).from_address(places[name])
        return np.frombuffer(block, dtype=dtype).reshape(shapes[name])

    def _names(self, mode: str) -> list[str]:
        return [name for name, (_, kind) in self._engine._tensors.items() if kind.name == mode]
