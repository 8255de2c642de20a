"""The content of ``build.json``: what to build from which model, every number checked before a builder sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from .failure import BAD_INPUT, REFUSED, Failure
from .session import read_json, sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

BUILD_JSON = "build.json"
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FIX = "make the bundle again with edgepress"
_LEVELS = 5
_MAX_DIMENSION = 1 << 31
_DEFAULTS: dict[str, Any] = {
    "engine": "", "optimization_level": 3, "workspace_mb": 1024, "device": "gpu", "dla_core": 0,
    "gpu_fallback": True, "version_compatible": False, "hardware_compatible": False, "cuda_graph": True,
    "compute_capabilities": [], "sparsity": [], "inputs": [], "outputs": [], "compute": {},
    "float_type": "float32", "weights_bytes": 0,
}  # fmt: skip


class BuildPlan(NamedTuple):
    """The content of ``build.json``.

    Attributes:
        model: The ONNX file's name.
        sha256: Its hash.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        shapes: Input name to its ``min``, ``opt`` and ``max`` shape; needed for inputs of free size.
        engine: ``tensorrt`` or ``tensorrt-rtx``; empty: what is installed.
        optimization_level: 0 (fast build) to 5 (fast engine).
        workspace_mb: Memory that tactics may use, in MiB.
        device: ``gpu`` or ``dla``.
        dla_core: Which DLA.
        gpu_fallback: Whether the GPU runs what the DLA cannot.
        version_compatible: Whether later versions may load the engine.
        hardware_compatible: Whether other GPUs of Ampere and later may load it.
        cuda_graph: Whether inferences are replayed from a captured graph.
        compute_capabilities: TensorRT-RTX only: the GPUs to build for (``SM86``); empty: this one.
        sparsity: Patterns of zeros that the builder may make use of: ``2:4``, or none.
        inputs: ``name``, ``dtype``, ``shape`` of each input of the model, in order; empty: as TensorRT names them.
        outputs: The same of each output.
        compute: Convolutions and matrix products of the model by node name: ``operator``, ``precision`` that the graph
            asks for, and ``macs`` of one sample.
        float_type: What the model computes in where it is not int8: ``float32``, ``float16`` or ``bfloat16``.
        weights_bytes: Size of all constants.
    """

    model: str
    sha256: str
    precision: str
    shapes: Mapping[str, Mapping[str, list[int]]]
    engine: str
    optimization_level: int
    workspace_mb: int
    device: str
    dla_core: int
    gpu_fallback: bool
    version_compatible: bool
    hardware_compatible: bool
    cuda_graph: bool
    compute_capabilities: list[str]
    sparsity: list[str]
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    compute: Mapping[str, Mapping[str, Any]]
    float_type: str
    weights_bytes: int


def read_plan(folder: Path) -> BuildPlan:
    """The build plan of ``folder``, its model checked against the hash.

    Raises:
        Failure: It is not valid, all that is wrong named (3), or the model is another one (4).
    """
    data = read_json(folder / BUILD_JSON)
    values: dict[str, Any] = {name: data.get(name, _DEFAULTS.get(name)) for name in BuildPlan._fields}
    wrong = sorted(name for name, check in _CHECKS.items() if not check(values[name]))
    if wrong or data.get("schema") != 1:
        raise Failure(
            BAD_INPUT, "build.json is not valid", "wrong or missing: {}".format(", ".join(wrong) or "schema 1"), FIX
        )
    plan = BuildPlan(**values)
    if plan.device == "dla" and plan.precision not in {"fp16", "int8"}:
        raise Failure(
            BAD_INPUT, f"the DLA does not compute in {plan.precision}", "it has fp16 and int8 units only",
            "build the fp16 or int8 candidate, or build for the GPU",
        )  # fmt: skip
    path = folder / plan.model
    if plan.model != os.path.basename(plan.model) or path.is_symlink() or not path.is_file():  # noqa: PTH119
        raise Failure(BAD_INPUT, "the model is missing", f"{plan.model!r} is no plain file in {folder}", FIX)
    found = sha256_of(path)
    if found != plan.sha256:
        raise Failure(
            REFUSED, f"{plan.model} is not the model to build", f"its sha256 is {found}, build.json says {plan.sha256}",
            "copy the bundle again",
        )  # fmt: skip
    return plan


def _whole(low: int, high: int) -> Any:  # noqa: ANN401 - a function
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _one_of(*choices: str) -> Any:  # noqa: ANN401 - a function
    return lambda value: isinstance(value, str) and value in choices


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _patterns(value: object) -> bool:
    return value in ([], ["2:4"])


def _ports(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and _text(item.get("name"))
        and _text(item.get("dtype"))
        and isinstance(item.get("shape"), list)
        and all(_size(size) or _text(size) for size in item["shape"])
        for item in value
    )


def _size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_DIMENSION


def _shapes(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(each, dict)
        and sorted(each) == ["max", "min", "opt"]
        and all(isinstance(shape, list) and all(map(_size, shape)) for shape in each.values())
        and len({len(shape) for shape in each.values()}) == 1
        and all(low <= usual <= high for low, usual, high in zip(each["min"], each["opt"], each["max"]))  # noqa: B905
        for each in value.values()
    )


def _compute(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(item, dict)
        and _text(item.get("operator"))
        and _one_of(*PRECISIONS)(item.get("precision"))
        and _whole(0, 1 << 62)(item.get("macs"))
        for item in value.values()
    )


_CHECKS = {
    "model": _text, "sha256": _text, "precision": _one_of(*PRECISIONS), "shapes": _shapes,
    "engine": _one_of("", "tensorrt", "tensorrt-rtx"), "optimization_level": _whole(0, _LEVELS),
    "workspace_mb": _whole(1, 1 << 24), "device": _one_of("gpu", "dla"), "dla_core": _whole(0, 7),
    "gpu_fallback": _flag, "version_compatible": _flag, "hardware_compatible": _flag, "cuda_graph": _flag,
    "compute_capabilities": _texts, "sparsity": _patterns, "inputs": _ports, "outputs": _ports, "compute": _compute,
    "float_type": _one_of("float32", "float16", "bfloat16"), "weights_bytes": _whole(0, 1 << 62),
}  # fmt: skip
