"""Profiles an engine on a device, node by node, in the user's module names, and says where time is lost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.modules import engine_modules, module_of
from pipeline.benchmarking.probes import calibrate_device
from pipeline.benchmarking.roofline import kinds_of, roofline
from pipeline.benchmarking.work import Weight, engine_weights
from targets.engines.base import ENGINE_JSON, INSPECT_JSON, EngineBuild
from targets.errors import DeviceError, InputError

if TYPE_CHECKING:
    from targets.devices.base import Session

SCHEMA: Final = 1
ITERATIONS: Final = 200
_TIMED: Final = ("onnxruntime", "openvino")
_TIMEOUT_S: Final = 180.0
_MOST_NODES: Final = 20_000
_FAR_OFF: Final = 1e15  # ns: a week and a half


def profile_engine(
    session: Session,
    folder: Path,
    samples: Path,
    *,
    iterations: int = ITERATIONS,
    affinity: str = "default",
    state: Path | None = None,
    clock: Callable[[], float] = time.time,
    brief: bool = False,
) -> dict[str, Any]:
    """Where the time of one inference goes, and how much of it the device could do without.

    Args:
        session: The device, held.
        folder: An engine folder: engine file, ``engine.json``, ``inspect.json``.
        samples: An .npz of real samples, named like the inputs or ``input.<name>``.
        iterations: Inferences to profile.
        affinity: The CPUs to use, as for ``measure``.
        state: A private folder where the device's calibration is kept; None keeps nothing.
        clock: Seconds since 1970.
        brief: Where nothing is remembered of the device, measure only the peaks that this engine asks for.

    Returns:
        What `roofline` gives, with ``device``, ``engine``, the ``calibration`` and the conditions.

    Raises:
        InputError: The engine is none whose layers are timed, or the samples do not fit.
        DeviceError: The device failed, or its answer is not usable.
    """
    build = EngineBuild.read(folder)
    if build.engine not in _TIMED:
        raise InputError(
            f"the layers of this engine cannot be timed: its runtime is {build.runtime}",
            "time per layer comes from the profilers of ONNX Runtime and OpenVINO",
            f"give a bundle whose engine is {' or '.join(_TIMED)}",
        )
    for name in (ENGINE_JSON, build.file, *build.files):
        session.put(folder / name, f"engine/{name}")
    session.put(samples, "samples.npz")
    command = ["layers", "engine", "--samples", "samples.npz", "--iterations", str(iterations), "--affinity", affinity]
    profile = checked(session.run(command, timeout_s=_TIMEOUT_S).result, build.sha256)
    weights, modules = _graph(folder, build)
    calibration = calibrate_device(
        session,
        options=_probe_options(build),
        affinity=affinity,
        state=state,
        clock=clock,
        kinds=kinds_of(profile, weights) if brief else None,
    )
    named = {str(row["name"]): _module(str(row["name"]), modules) for row in profile["nodes"]}
    facts = session.facts()
    return {
        "schema": SCHEMA,
        "device": {"name": session.name, "fingerprint": facts.fingerprint, "cpu_model": facts.cpu_model},
        "engine": {"sha256": build.sha256, "precision": build.precision, "runtime_version": profile["runtime_version"]},
        "iterations": profile["iterations"],
        "threads": profile["threads"],
        "affinity": affinity,
        **roofline(profile, weights, named, calibration),
        "calibration": calibration.to_json(),
    }


def _probe_options(build: EngineBuild) -> Mapping[str, object]:
    """How the device's peaks are measured: by ONNX Runtime, opened as the engine is, or with as many threads."""
    if build.engine == "onnxruntime":
        return build.options
    return {
        "threads": build.options["threads"],
        "providers": ["CPUExecutionProvider"],
        "allow_spinning": True,
        "memory_pattern": True,
        "denormal_as_zero": build.options["denormal_as_zero"],
        "optimization": "all",
    }


def _graph(folder: Path, build: EngineBuild) -> tuple[dict[str, Weight], dict[str, str]]:
    """What the engine file says of its nodes' weights, and their modules (as inspected, else from weight names)."""
    from targets.engines.onnxruntime import open_engine_graph
    from targets.onnxfile import open_onnx

    if build.file.endswith(".ort"):
        with open_engine_graph(build) as graph:
            engine = graph.model
    else:
        engine = open_onnx(folder / build.file)
    document = json.loads((folder / INSPECT_JSON).read_text(encoding="utf-8"))
    listed = document.get("modules")
    if not isinstance(listed, dict) or not all(isinstance(module, str) for module in listed.values()):
        listed = engine_modules(engine, {})
    made_by = {name: listed[node.name] for node in engine.graph.node if node.name in listed for name in node.output}
    return engine_weights(engine), made_by | listed


def _module(name: str, modules: Mapping[str, str]) -> str | None:
    """By the node's name, or the tensor's it makes; OpenVINO adds what became of a node behind a slash."""
    return module_of(name, modules) or module_of(name.rpartition("/")[0], modules)


def checked(profile: Mapping[str, Any], engine_sha256: str) -> dict[str, Any]:
    """The device program's answer to ``layers``, if it is whole: foreign data until here.

    Raises:
        DeviceError: Something is missing, not a number, out of range, or of another engine.
    """
    try:
        if profile["engine_sha256"] != engine_sha256:
            raise ValueError("it is of another engine")  # noqa: TRY301 - told like the others
        nodes = [_checked_node(row) for row in profile["nodes"]]
        if not 0 < len(nodes) <= _MOST_NODES:
            raise ValueError(f"it has {len(nodes)} nodes")  # noqa: TRY301
        return {
            "nodes": nodes,
            "runtime_version": str(profile["runtime_version"]),
            "threads": int(profile["threads"]),
            "iterations": int(profile["iterations"]),
            "wall_median_ns": _time(profile["wall_median_ns"]),
            "profiled_wall_median_ns": _time(profile["profiled_wall_median_ns"]),
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DeviceError(
            "the device's profile is not usable",
            f"{type(error).__name__}: {error}"[:300],
            "run the same command again",
        ) from error


def _checked_node(row: Mapping[str, Any]) -> dict[str, Any]:
    share = float(row["share_ratio"])
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share}")
    return {
        **{key: _text(row[key]) for key in ("name", "op", "provider")},
        "index": int(row["index"]),
        "median_ns": _time(row["median_ns"]),
        "share_ratio": share,
        "inputs": [_type(entry) for entry in row["inputs"]],
        "outputs": [_type(entry) for entry in row["outputs"]],
    }


def _text(value: object) -> str:
    return "".join(char if char.isprintable() else "?" for char in str(value))[:300]


def _time(value: Any) -> float:  # noqa: ANN401 - foreign
    if not 0 < float(value) < _FAR_OFF:  # also refuses NaN
        raise ValueError(f"a time of {value} ns")
    return float(value)


def _type(entry: Any) -> list[Any]:  # noqa: ANN401 - foreign
    dtype, shape = entry
    sizes = [int(size) for size in shape]
    if any(size < 0 for size in sizes) or math.prod(sizes) > 1 << 40:
        raise ValueError(f"a tensor of shape {sizes}")
    return [_text(dtype), sizes]
