"""Builds a TensorRT engine from an explicit Q/DQ ONNX model; one code path for 8.6, 10, 11 and TensorRT-RTX.

What a version can do is asked of the module itself, never of its number. Precision stands in the graph (Q/DQ, casts);
only where typing is weak (8.6) do builder flags have to allow it.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from . import tensorrt_inspect as inspect
from .atomic import write_file
from .build_config import adjust_parser, configure, gpu_layers, network_flags, strongly_typed
from .build_plan import BUILD_JSON, BuildPlan, read_plan
from .built import place_of
from .failure import DEVICE, Failure
from .session import read_spec, sha256_of
from .tensorrt_module import RTX, Vendor, driver_answers, import_vendor, last_line, logger
from .tensorrt_plan import activations_bytes, check_spec, deserialized, read_ours
from .timing_cache import cache_of, keeps_times, load, save

if TYPE_CHECKING:
    from pathlib import Path

    from .cuda import Gpu

__all__ = ["PLAN_FILE", "BuildPlan", "build_engine", "read_plan"]
PLAN_FILE = "engine.plan"
_FIX = "make the bundle again with edgepress"
_MODULE_OF = {"": "", "tensorrt": "tensorrt", "tensorrt-rtx": RTX}


def build_engine(folder: Path) -> dict[str, Any]:
    """Builds ``engine.plan``, ``engine.json`` and ``inspect.json`` from ``build.json`` and the model of ``folder``.

    They go into ``built/`` where the folder was delivered to be built on this device, else into the folder itself.

    Returns:
        ``sha256`` and ``bytes`` of the engine, ``build_ns``, the module and its version, ``layers`` of the network,
        ``inspection`` (the content of inspect.json; its ``inspected`` says why nothing could be seen, where so),
        ``inspection_why``, ``gpu``, ``timing_cache`` (whether known kernel times were used; null where none are kept),
        ``memory`` (bytes; null where not known), and ``log``: the vendor's warnings.

    Raises:
        Failure: The plan or the model is not valid (3), the model is another one (4), or TensorRT is missing, refuses
            the model, fails to build, or builds something else than was asked for (6).
    """
    plan = read_plan(folder)
    vendor = import_vendor(_MODULE_OF[plan.engine])
    gpu = _gpu()
    out = place_of(folder)
    out.mkdir(exist_ok=True)
    lines: list[str] = []
    log = logger(vendor, lines)
    start = time.perf_counter_ns()
    builder = _builder(vendor, log)
    network = builder.create_network(network_flags(vendor))
    _parse(vendor, network, log, folder / plan.model, plan)
    config = configure(vendor, builder, network, plan)
    off_dla = gpu_layers(config, network, plan)
    cache = cache_of(out, vendor, gpu) if gpu is not None and keeps_times(vendor) else None
    known = None if cache is None else load(config, cache)
    blob = builder.build_serialized_network(network, config)
    if blob is None:
        raise Failure(DEVICE, "TensorRT cannot build the engine", last_line(lines), "see the log above; " + _FIX)
    build_ns = time.perf_counter_ns() - start
    if cache is not None:
        save(config, cache)
    data = bytes(blob)
    found, memory = _inspect(vendor, log, plan, data, off_dla, lines)
    inspect.check(found, plan.model)
    write_file(out / PLAN_FILE, data)
    sha256 = sha256_of(out / PLAN_FILE)
    _write_json(out / "inspect.json", {"schema": 1, **found})
    _write_json(out / "engine.json", _spec(vendor, network, plan, sha256, gpu, delivered=out != folder))
    return {
        "sha256": sha256, "bytes": len(data), "build_ns": build_ns, "module": vendor.__name__,
        "version": vendor.__version__, "layers": int(network.num_layers), "inspection": found,
        "inspection_why": found["inspected"], "gpu": None if gpu is None else dict(gpu._asdict()),
        "timing_cache": known, "memory": memory, "log": lines,
    }  # fmt: skip


def inspect_engine(folder: Path) -> dict[str, Any]:
    """The inspection of the engine in ``folder``, opened again where a driver answers (a content of inspect.json).

    Raises:
        Failure: There is no engine of ours in it, or TensorRT is missing (3, 4, 6).
    """
    plan, spec = read_plan(folder), read_spec(folder)
    check_spec(spec)
    module = str(spec["runtime"])
    if not driver_answers():
        return inspect.from_graph(plan, inspect.NO_DRIVER, module)
    vendor, lines = import_vendor(module), []  # type: Vendor, list[str]
    return _inspect(vendor, logger(vendor, lines), plan, read_ours(folder, spec), [], lines)[0]


def _gpu() -> Gpu | None:
    from .cuda import gpu

    return gpu() if driver_answers() else None


def _builder(vendor: Vendor, log: Any) -> Any:  # noqa: ANN401 - the vendor's
    try:
        return vendor.Builder(log)
    except (TypeError, RuntimeError) as error:  # what the bindings raise when the driver or CUDA does not answer
        raise Failure(
            DEVICE, "TensorRT cannot start", str(error)[:300], "check the driver with nvidia-smi, and who may use it"
        ) from error


def _parse(vendor: Vendor, network: Any, log: Any, model: Path, plan: BuildPlan) -> None:  # noqa: ANN401 - the vendor's
    parser = vendor.OnnxParser(network, log)
    adjust_parser(vendor, parser, plan)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        fix = "quantise with the scheme `trt`, or leave the named operator out of the network"
        if plan.precision == "int8" and not strongly_typed(vendor):
            fix = 'if it names a weight: this TensorRT reads none in int8, build with weights = "float" in the target '
            fix += "profile's engine section"
        raise Failure(DEVICE, "TensorRT cannot read the model", " ".join(errors.split())[:500], fix)


def _spec(
    vendor: Vendor, network: Any, plan: BuildPlan, sha256: str, gpu: Gpu | None, *, delivered: bool  # noqa: ANN401
) -> dict[str, Any]:  # fmt: skip
    """The content of engine.json: what the engine is, and where it may be opened."""
    inputs = [_port(vendor, network.get_input(i)) for i in range(network.num_inputs)]
    outputs = [_port(vendor, network.get_output(i)) for i in range(network.num_outputs)]
    options = {name: getattr(plan, name) for name in _OPTIONS}
    spec = {
        "schema": 1,
        "engine": "tensorrt-rtx" if vendor.__name__ == RTX else "tensorrt",
        "file": PLAN_FILE,
        "sha256": sha256,
        "files": {},
        "runtime": vendor.__name__,
        "runtime_version": vendor.__version__,
        "precision": plan.precision,
        "options": {**options, "gpu": None if gpu is None else dict(gpu._asdict())},
        "inputs": plan.inputs or inputs,
        "outputs": plan.outputs or outputs,
        "model": "" if delivered else plan.model,
        "build_on_device": False,
    }
    return {**spec, "source_sha256": plan.sha256} if delivered else spec


_OPTIONS = (
    "device", "dla_core", "gpu_fallback", "optimization_level", "workspace_mb", "cuda_graph", "version_compatible",
    "hardware_compatible", "compute_capabilities", "sparsity", "shapes",
)  # fmt: skip


def _port(vendor: Vendor, tensor: Any) -> dict[str, Any]:  # noqa: ANN401 - the vendor's
    import numpy as np

    shape = [int(size) if size >= 0 else f"d{axis}" for axis, size in enumerate(tuple(tensor.shape))]
    return {"name": str(tensor.name), "dtype": np.dtype(vendor.nptype(tensor.dtype)).name, "shape": shape}


def _inspect(
    vendor: Vendor, log: Any, plan: BuildPlan, data: bytes, off_dla: list[str], lines: list[str]  # noqa: ANN401
) -> tuple[dict[str, Any], dict[str, int] | None]:  # fmt: skip
    """What the engine is, and the memory it takes, as far as it can be opened here."""
    if not driver_answers():
        return inspect.from_graph(plan, inspect.NO_DRIVER, vendor.__name__), None
    _runtime, engine = deserialized(vendor, log, data, plan._asdict())  # the runtime has to outlive its engine
    if engine is None:
        why = f"this GPU cannot open the engine that was built ({last_line(lines)})"
        return inspect.from_graph(plan, why, vendor.__name__), None
    memory = {"plan_bytes": len(data), "activations_bytes": activations_bytes(engine)}
    text = str(engine.create_engine_inspector().get_engine_information(vendor.LayerInformationFormat.JSON))
    if len(text) > inspect.MAX_TEXT_BYTES:
        why = f"the engine's description is over {inspect.MAX_TEXT_BYTES} bytes"
        return inspect.from_graph(plan, why, vendor.__name__), memory
    try:
        return inspect.from_engine(plan, text, vendor.__name__, off_dla), memory
    except ValueError as error:
        why = f"the engine inspector's answer cannot be read: {error}"
        return inspect.from_graph(plan, why, vendor.__name__), memory


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_file(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


__all__ += ["BUILD_JSON", "inspect_engine"]
