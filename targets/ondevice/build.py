"""Builds a TensorRT engine on the device from an explicit Q/DQ ONNX model; one code path for 8.6, 10, 11 and RTX.

What a version can do is asked of the module itself, never of its number. Precision stands in the graph (Q/DQ, casts);
only where typing is weak (8.6) do builder flags have to allow it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .failure import BAD_INPUT, DEVICE, REFUSED, Failure
from .session import read_json, sha256_of
from .tensorrt_module import Vendor, import_vendor, logger

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAN_FILE = "engine.plan"
_FIX = "make the bundle again with edgepress"
_MIB = 1 << 20
_MAX_INSPECTION_BYTES = 8 << 20


class BuildPlan(NamedTuple):
    """The content of ``build.json``.

    Attributes:
        model: The ONNX file's name.
        sha256: Its hash.
        precision: ``fp32``, ``fp16`` or ``int8``.
        optimization_level: 0 (fast build) to 5 (fast engine).
        workspace_mb: Memory that tactics may use, in MiB.
        shapes: Input name to its ``min``, ``opt`` and ``max`` shape; needed for inputs of free size.
        device: ``gpu`` or ``dla``; what the DLA cannot run falls back to the GPU.
        dla_core: Which DLA.
        compute_capabilities: TensorRT-RTX only: the GPUs to build for (``SM86``); empty: this one.
    """

    model: str
    sha256: str
    precision: str
    optimization_level: int
    workspace_mb: int
    shapes: Mapping[str, Mapping[str, list[int]]]
    device: str
    dla_core: int
    compute_capabilities: list[str]


def build_engine(folder: Path) -> dict[str, Any]:
    """Builds ``engine.plan`` and ``engine.json`` in ``folder`` from its ``build.json`` and ONNX model.

    Returns:
        ``sha256`` and ``bytes`` of the engine, ``build_ns``, the module and its version, ``layers`` of the network,
        ``inspection`` (the engine inspector's JSON; null where the engine cannot be loaded here, and
        ``inspection_why``), and ``log``: the vendor's warnings.

    Raises:
        Failure: The plan or the model is not valid (3), the model is another one (4), or TensorRT is missing, refuses
            the model or fails to build (6).
    """
    plan = read_plan(folder)
    vendor = import_vendor()
    lines: list[str] = []
    log = logger(vendor, lines)
    start = time.perf_counter_ns()
    builder = _builder(vendor, log)
    network = builder.create_network(_network_flags(vendor))
    _parse(vendor, network, log, folder / plan.model)
    config = _config(vendor, builder, network, plan)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise Failure(DEVICE, "TensorRT cannot build the engine", _last(lines), "see the log above; " + _FIX)
    build_ns = time.perf_counter_ns() - start
    data = bytes(blob)
    _write(folder / PLAN_FILE, data)
    sha256 = sha256_of(folder / PLAN_FILE)
    spec = _spec(vendor, network, plan, sha256)
    _write(folder / "engine.json", (json.dumps(spec, indent=1, sort_keys=True) + "\n").encode())
    inspection, why = _inspect(vendor, log, data)
    return {
        "sha256": sha256, "bytes": len(data), "build_ns": build_ns, "module": vendor.__name__,
        "version": vendor.__version__, "layers": int(network.num_layers), "inspection": inspection,
        "inspection_why": why, "log": lines,
    }  # fmt: skip


def read_plan(folder: Path) -> BuildPlan:
    """The build plan of ``folder``, its model checked against the hash.

    Raises:
        Failure: It is not valid (3), or the model is another one (4).
    """
    data = read_json(folder / "build.json")
    wanted = {"model": str, "sha256": str, "precision": str, "shapes": dict}
    wrong = sorted(name for name, kind in wanted.items() if not isinstance(data.get(name), kind))
    plan = BuildPlan(
        model=str(data.get("model")),
        sha256=str(data.get("sha256")),
        precision=str(data.get("precision")),
        optimization_level=int(data.get("optimization_level", 3)),
        workspace_mb=int(data.get("workspace_mb", 1024)),
        shapes=data.get("shapes") or {},
        device=str(data.get("device", "gpu")),
        dla_core=int(data.get("dla_core", 0)),
        compute_capabilities=[str(name) for name in data.get("compute_capabilities", [])],
    )
    wrong += [] if plan.precision in {"fp32", "fp16", "int8"} else ["precision"]
    wrong += [] if plan.device in {"gpu", "dla"} else ["device"]
    wrong += [] if 0 <= plan.optimization_level <= 5 else ["optimization_level"]  # noqa: PLR2004 - TensorRT's levels
    if wrong or data.get("schema") != 1:
        raise Failure(
            BAD_INPUT, "build.json is not valid", "wrong or missing: {}".format(", ".join(wrong) or "schema 1"), _FIX
        )
    path = folder / plan.model
    if plan.model != os.path.basename(plan.model) or path.is_symlink() or not path.is_file():  # noqa: PTH119
        raise Failure(BAD_INPUT, "the model is missing", f"{plan.model!r} is no plain file in {folder}", _FIX)
    found = sha256_of(path)
    if found != plan.sha256:
        raise Failure(
            REFUSED, f"{plan.model} is not the model to build", f"its sha256 is {found}, build.json says {plan.sha256}",
            "copy the bundle again",
        )  # fmt: skip
    return plan


def _builder(vendor: Vendor, log: Any) -> Any:  # noqa: ANN401 - a class of the vendor
    try:
        return vendor.Builder(log)
    except (TypeError, RuntimeError) as error:
        raise Failure(
            DEVICE, "TensorRT cannot start", str(error)[:300], "check the driver with nvidia-smi, and who may use it"
        ) from error


def _network_flags(vendor: Vendor) -> int:
    flags = vendor.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(flags, name):
            return 1 << int(getattr(flags, name))
    return 0


def _parse(vendor: Vendor, network: Any, log: Any, model: Path) -> None:  # noqa: ANN401
    parser = vendor.OnnxParser(network, log)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise Failure(
            DEVICE, "TensorRT cannot read the model", " ".join(errors.split())[:500],
            "quantise with the scheme `trt`, or leave the named operator out of the network",
        )  # fmt: skip


def _config(vendor: Vendor, builder: Any, network: Any, plan: BuildPlan) -> Any:  # noqa: ANN401
    config = builder.create_builder_config()
    config.builder_optimization_level = plan.optimization_level
    config.profiling_verbosity = vendor.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(vendor.MemoryPoolType.WORKSPACE, plan.workspace_mb * _MIB)
    config.clear_flag(vendor.BuilderFlag.TF32)  # fp32 means fp32
    _allow_precision(vendor, config, plan.precision)
    if plan.device == "dla":
        _use_dla(vendor, builder, config, plan)
    if plan.compute_capabilities:
        _build_for(vendor, config, plan.compute_capabilities)
    profile = _profile(builder, network, plan)
    if profile is not None:
        config.add_optimization_profile(profile)
    return config


def _allow_precision(vendor: Vendor, config: Any, precision: str) -> None:  # noqa: ANN401
    """Weak typing only: a graph with Q/DQ needs the flag to be taken at its word."""
    if hasattr(vendor.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    for name in {"fp32": (), "fp16": ("FP16",), "int8": ("INT8", "FP16")}[precision]:
        config.set_flag(getattr(vendor.BuilderFlag, name))


def _use_dla(vendor: Vendor, builder: Any, config: Any, plan: BuildPlan) -> None:  # noqa: ANN401
    cores = int(builder.num_DLA_cores)
    if plan.dla_core >= cores:
        raise Failure(
            DEVICE, f"there is no DLA core {plan.dla_core}", f"this device has {cores}", "build for the GPU instead"
        )
    config.default_device_type = vendor.DeviceType.DLA
    config.DLA_core = plan.dla_core
    config.set_flag(vendor.BuilderFlag.GPU_FALLBACK)


def _build_for(vendor: Vendor, config: Any, names: list[str]) -> None:  # noqa: ANN401
    known = getattr(vendor, "ComputeCapability", None)
    missing = [name for name in names if not hasattr(known, name)]
    if missing:
        raise Failure(
            BAD_INPUT, "cannot build for {}".format(", ".join(missing)),
            f"{vendor.__name__} {vendor.__version__} does not know it", "leave compute_capabilities empty",
        )  # fmt: skip
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(known, name), index)


def _profile(builder: Any, network: Any, plan: BuildPlan) -> Any:  # noqa: ANN401
    """One optimisation profile over all inputs of free size; None where every size is fixed."""
    free = [network.get_input(i) for i in range(network.num_inputs)]
    free = [tensor for tensor in free if -1 in tuple(tensor.shape)]
    if not free:
        return None
    profile = builder.create_optimization_profile()
    for tensor in free:
        shapes = plan.shapes.get(tensor.name)
        if shapes is None or sorted(shapes) != ["max", "min", "opt"]:
            raise Failure(
                BAD_INPUT, f"build.json gives no shapes of {tensor.name!r}",
                f"its shape {list(tensor.shape)} is free; TensorRT needs min, opt and max", _FIX,
            )  # fmt: skip
        profile.set_shape(tensor.name, tuple(shapes["min"]), tuple(shapes["opt"]), tuple(shapes["max"]))
    return profile


def _spec(vendor: Vendor, network: Any, plan: BuildPlan, sha256: str) -> dict[str, Any]:  # noqa: ANN401
    return {
        "schema": 1,
        "engine": "tensorrt",
        "file": PLAN_FILE,
        "sha256": sha256,
        "runtime": vendor.__name__,
        "runtime_version": vendor.__version__,
        "precision": plan.precision,
        "options": {"device": plan.device, "dla_core": plan.dla_core, "optimization_level": plan.optimization_level},
        "inputs": [_port(vendor, network.get_input(i)) for i in range(network.num_inputs)],
        "outputs": [_port(vendor, network.get_output(i)) for i in range(network.num_outputs)],
    }


def _port(vendor: Vendor, tensor: Any) -> dict[str, Any]:  # noqa: ANN401
    import numpy as np

    shape = [int(size) if size >= 0 else f"d{axis}" for axis, size in enumerate(tuple(tensor.shape))]
    return {"name": str(tensor.name), "dtype": np.dtype(vendor.nptype(tensor.dtype)).name, "shape": shape}


def _inspect(vendor: Vendor, log: Any, plan: bytes) -> tuple[Any, str]:  # noqa: ANN401
    from .tensorrt_module import driver_answers

    if not driver_answers():
        return None, "no NVIDIA driver answers here, so the engine cannot be opened"
    engine = vendor.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return None, "this GPU cannot open the engine that was built"
    text = engine.create_engine_inspector().get_engine_information(vendor.LayerInformationFormat.JSON)
    if len(text) > _MAX_INSPECTION_BYTES:
        return None, f"the engine's description is over {_MAX_INSPECTION_BYTES} bytes"
    return json.loads(text), ""


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def _last(lines: list[str]) -> str:
    return " ".join(lines[-1].split())[:500] if lines else "it gave no reason"
