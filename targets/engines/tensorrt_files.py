"""``model.onnx`` and ``build.json``: all that a device needs to build an engine."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from targets.engines.base import EngineBuild, json_bytes, ports
from targets.engines.onnxweights import Graph, write_graph
from targets.engines.opened import in_one_file
from targets.engines.tensorrt_check import gpus_of
from targets.engines.tensorrt_graph import demand_precision, facts_of, plain_model
from targets.engines.tensorrt_weights import in_float
from targets.files import sha256_file, write_atomic
from targets.ondevice.timing_cache import FACTS
from targets.onnxfile import io_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from targets.onnxfile import TensorSpec
    from targets.options import Precision, TensorRtOptions
    from targets.profile import TargetProfile

MODEL: Final = "model.onnx"
BUILD: Final = "build.json"


def write_plan(
    model: Path, profile: TargetProfile, options: TensorRtOptions, precision: Precision, out: Path
) -> dict[str, Any]:
    """Writes ``model.onnx`` and ``build.json`` into ``out``; the plan.

    Raises:
        InputError: The model is not in that precision, or has weights that cannot be stored as the profile says.
    """
    plain = plain_model(in_one_file(model).model)
    if options.weights == "float":
        in_float(plain, model)
    facts = facts_of(plain)
    demand_precision(model.name, facts, precision)
    digests = write_graph(Graph(path=model, model=plain), out / MODEL)
    io = io_of(plain)
    is_rtx = options.name == "tensorrt-rtx"
    plan: dict[str, Any] = {
        "schema": 1,
        "engine": options.name,
        "model": MODEL,
        "sha256": digests[MODEL],
        "precision": precision,
        "shapes": _shapes(io["inputs"], options.batch),
        **{name: getattr(options, name) for name in _COPIED},
        "sparsity": list(options.sparsity),
        "compute_capabilities": [_sm(name) for name in gpus_of(profile, options)] if is_rtx else [],
        "timing_cache": [] if is_rtx else list(FACTS),
        "inputs": [dict(item) for item in io["inputs"]],
        "outputs": [dict(item) for item in io["outputs"]],
        **asdict(facts),
    }
    write_atomic(out / BUILD, json_bytes(plan))
    return plan


def waiting_build(out: Path, plan: dict[str, Any], precision: Precision) -> EngineBuild:
    """The build of a folder whose engine the device makes."""
    return EngineBuild(
        folder=out,
        engine="tensorrt",
        file=MODEL,
        runtime="tensorrt",
        runtime_version="",
        precision=precision,
        options={name: plan[name] for name in (*_COPIED, "sparsity", "shapes")},
        inputs=ports(plan["inputs"]),
        outputs=ports(plan["outputs"]),
        sha256=plan["sha256"],
        files={BUILD: sha256_file(out / BUILD)},
        model=MODEL,
        build_on_device=True,
    )


_COPIED: Final = (
    "optimization_level", "workspace_mb", "device", "dla_core", "gpu_fallback", "version_compatible",
    "hardware_compatible", "cuda_graph",
)  # fmt: skip


def _shapes(inputs: Sequence[TensorSpec], batch: tuple[int, int, int]) -> dict[str, dict[str, list[int]]]:
    """Smallest, usual and largest shape of every input whose batch axis is free; the other axes are fixed."""
    return {
        spec["name"]: {
            name: [size, *(int(fixed) for fixed in spec["shape"][1:])]
            for name, size in zip(("min", "opt", "max"), batch, strict=True)
        }
        for spec in inputs
        if spec["shape"] and not isinstance(spec["shape"][0], int)
    }


def _sm(compute_capability: str) -> str:
    return "SM" + compute_capability.replace(".", "")
