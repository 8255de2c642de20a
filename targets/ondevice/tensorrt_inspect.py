"""What became of a model in an engine: asked and actual precision, fallbacks, reformats, and the verdict."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING, Any

from .failure import DEVICE, Failure
from .tensorrt_layers import Layer, read_layers
from .tensorrt_module import RTX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .build_plan import BuildPlan

MAX_TEXT_BYTES = 64 << 20
_KNOWN = ("fp32", "fp16", "bf16", "int8")
SCOPE_GRAPH = "as the graph asks for it; what the engine makes of that was not seen"
SCOPE_ENGINE = "as built, told by the engine inspector of this device"
NO_DRIVER = "no NVIDIA driver answers here, so the engine cannot be opened"
_RTX_INT8 = (
    "TensorRT-RTX keeps int8 weights of convolutions on the disk and computes convolutions in float: Q/DQ makes this "
    "file smaller and its convolutions no faster; only matrix products read int8"
)


def from_graph(plan: BuildPlan, why: str, runtime: str) -> dict[str, Any]:
    """The inspection where no engine can be opened: what the graph asks for, and why nothing more is known.

    Args:
        plan: What was built, or is to be.
        why: Why no engine was opened.
        runtime: The vendor's module that builds it.
    """
    asked = {name: str(item["precision"]) for name, item in plan.compute.items()}
    result = _result(plan, asked, SCOPE_GRAPH, runtime)
    result.update(
        inspected=why,
        actual_precision="unknown" if asked else "fp32",
        fallbacks=_others(plan, asked),
        precisions={**dict.fromkeys(_KNOWN, 0), "unknown": len(asked)},
        nodes=dict(sorted(collections.Counter(str(item["operator"]) for item in plan.compute.values()).items())),
    )
    if runtime == RTX and "int8" in asked.values():
        products = [item for item in plan.compute.values() if "Conv" not in item["operator"]]
        eight = sum(item["macs"] for item in products if item["precision"] == "int8")
        macs = result["compute"]["macs"]
        result.update(warnings=[_RTX_INT8], int8_mac_ratio=round(eight / macs, 6) if macs else 0.0)
    return result


def from_engine(plan: BuildPlan, text: str, runtime: str, off_dla: Sequence[str] = ()) -> dict[str, Any]:
    """The inspection of an engine that was opened.

    Args:
        plan: What was built.
        text: The engine inspector's JSON.
        runtime: The vendor's module.
        off_dla: Layers of the network that the DLA was known not to take.

    Raises:
        ValueError: The text says nothing of layers.
    """
    layers = read_layers(text)
    actual = _actual(layers, plan.compute)
    result = _result(plan, actual, SCOPE_ENGINE, runtime)
    counts = collections.Counter(actual.values())
    eight = collections.Counter(layer.kind for layer in layers if layer.precision == "int8" and not layer.reformat)
    on_gpu = [layer.name for layer in layers if plan.device == "dla" and not (layer.dla or layer.reformat)]
    result.update(
        precisions={name: counts.get(name, 0) for name in (*_KNOWN, "unknown")},
        nodes=dict(sorted(collections.Counter(layer.kind for layer in layers).items())),
        int8_nodes=dict(sorted(eight.items())),
        int8_node_ratio=round(sum(eight.values()) / len(layers), 6),
        providers=_units(layers),
        fallbacks=list(dict.fromkeys([*_others(plan, actual), *off_dla, *on_gpu])),
        reformats=sum(layer.reformat for layer in layers),
        warnings=[_RTX_INT8] if runtime == RTX and plan.precision == "int8" else [],
    )
    if plan.device == "dla":
        result["compute"]["elsewhere"] = sum(layer.compute and not layer.dla for layer in layers)
    return result


def check(result: Mapping[str, Any], model: str) -> None:
    """Refuses an engine that is not what was asked for.

    Raises:
        Failure: Nothing runs in the asked precision, or nothing runs on the DLA (6).
    """
    asked, compute, found = result["requested_precision"], result["compute"], result["precisions"]
    total = compute["total"]
    if result["inspected"] or not total:
        return
    if not found.get(asked, 0) and not found["unknown"]:
        kinds = ", ".join(f"{count} in {name}" for name, count in found.items() if count)
        raise Failure(
            DEVICE, f"{model} was to run in {asked}, and nothing does",
            f"of {total} convolutions and matrix products run {kinds}",
            "this TensorRT, or this GPU, has no kernels for it: ask for another precision",
        )  # fmt: skip
    if compute.get("elsewhere", 0) and not result["providers"].get("DLA", 0):
        raise Failure(
            DEVICE, f"{model} was to run on the DLA, and nothing does",
            f"all {total} convolutions and matrix products fell back to the GPU",
            "build for the GPU, or ask for fp16",
        )  # fmt: skip


def _actual(layers: Iterable[Layer], compute: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Precision by convolution or matrix product: by node where the engine names nodes, else by layer."""
    found: dict[str, str] = {}
    for layer in layers:
        known = [name for name in layer.sources if name in compute]
        for name in known:
            if layer.compute or layer.opaque or layer.dla:
                # Of a subgraph only the input's type is told, and that is not the type of each product inside.
                found[name] = layer.precision if layer.compute else "unknown"
        if layer.compute and not known:
            found[layer.name] = layer.precision
    missing = {name: "unknown" for name in compute if name not in found}
    opaque = any(layer.opaque or layer.dla for layer in layers)
    named = any(name in compute for name in found)
    # Where no name is known layers and nodes cannot be matched: what is seen counts, unless it hides something.
    return {**found, **(missing if named or opaque or not found else {})}


def _others(plan: BuildPlan, precision: Mapping[str, str]) -> list[str]:
    """Convolutions and matrix products that are not in the precision that the model asks for there."""
    asked = {name: str(item["precision"]) for name, item in plan.compute.items()}
    return [name for name, found in precision.items() if found not in {asked.get(name, plan.precision), "unknown"}]


def _result(plan: BuildPlan, precision: Mapping[str, str], scope: str, runtime: str) -> dict[str, Any]:
    macs = {name: int(item["macs"]) for name, item in plan.compute.items()}
    eight = [name for name, found in precision.items() if found == "int8"]
    total_macs, eight_macs = sum(macs.values()), sum(macs.get(name, 0) for name in eight)
    known = [found for found in dict.fromkeys(precision.values()) if found != "unknown"]
    return {
        "engine": "tensorrt-rtx" if runtime == RTX else "tensorrt",
        "scope": scope,
        "requested_precision": plan.precision,
        "actual_precision": _word(known, len(precision)),
        "nodes": {}, "int8_nodes": {}, "providers": {}, "int8_node_ratio": 0.0,
        "compute": {"total": len(precision), "int8": len(eight), "macs": total_macs, "int8_macs": eight_macs},
        "precisions": {},
        "int8_mac_ratio": round(eight_macs / total_macs, 6) if total_macs else 0.0,
        "float_compute": [name for name, found in precision.items() if found in {"fp32", "fp16", "bf16"}],
        "fallbacks": [], "reformats": 0, "weights": {}, "weights_bytes": plan.weights_bytes, "subnormal_weights": 0,
        "inspected": "", "warnings": [],
    }  # fmt: skip


def _word(found: list[str], total: int) -> str:
    if not found:
        return "unknown" if total else "fp32"
    return found[0] if len(found) == 1 else "mixed"


def _units(layers: Sequence[Layer]) -> dict[str, int]:
    dla = sum(layer.dla for layer in layers)
    return {name: count for name, count in (("GPU", len(layers) - dla), ("DLA", dla)) if count}
