"""Layers and tensors for the report: what the quantiser, the device and the calibration know of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.modules import bases, read_modules

if TYPE_CHECKING:
    from pipeline.artifacts import LayerTimes, QuantizedModel

LISTED_TENSORS: Final = 24
_WEIGHTY: Final = ("Conv", "Gemm", "MatMul", "LSTM", "GRU")


def layer_rows(quantized: QuantizedModel) -> list[dict[str, Any]]:
    """The layers of the quantised model, in its order."""
    modules = read_modules(quantized.folder)
    return [_layer(row, modules) for row in quantized.read_json("layers.json")]


def _layer(row: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, Any]:
    return {
        "name": row["module"] or modules.get(row["node"]) or row["node"],
        "node": row["node"],
        "kind": row["op"],
        "precision": row["precision"],
        "shape": row.get("output_shape") or (),
        "snr_db": row.get("output_snr_db"),
        "weight_snr_db": row["weight_snr_db"],
        "alone_db": row.get("sensitivity_db"),
        "macs": row.get("macs"),
        "note": row["reason"],
    }


def timed_rows(times: LayerTimes, known: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The profile of what ships.

    Args:
        times: The artifact.
        known: `layer_rows` of the very model that ships, for their noise; empty where that is a float model.
    """
    results = times.results
    told = {"candidate": results["candidate"], "device": results["device"]}
    if "why" in results:
        return {**told, "why": results["why"]}
    layers = times.read_json("layers.json")["layers"]
    total = sum(layer["own_ns"] for layer in layers) or 1
    by_node = {row["node"]: row for row in known}
    return {
        **told,
        "wall_us": results["wall_ns"] / 1e3,
        "outside_us": results["outside_ns"] / 1e3,
        "attained_pct": results["pct"],
        "iterations": results["iterations"],
        "noisy": results["calibration_noisy"],
        "rows": [
            {
                "module": layer["module"],
                "node": layer["name"],
                "op": layer["op"],
                "precision": _precision(layer),
                "shape": layer["outputs"][0][1] if layer["outputs"] else (),
                "snr_db": _noise(layer, by_node, known),
                "us": layer["own_ns"] / 1e3,
                "share_ratio": layer["own_ns"] / total,
                "bound": layer["bound"] if layer["peak_known"] else "",
                "attained_pct": layer["pct"],
            }
            for layer in layers
        ],
    }


def _noise(
    layer: Mapping[str, Any], by_node: Mapping[str, Mapping[str, Any]], known: Sequence[Mapping[str, Any]]
) -> float | None:
    """By the node's name without what the runtime appends; of a multiplying node also by its module, if that is one."""
    found = next((by_node[name] for name in bases(str(layer["name"])) if name in by_node), None)
    if found is None and layer["module"] and any(part in layer["op"] for part in _WEIGHTY):
        same = [row for row in known if row["name"] == layer["module"] and row["weight_snr_db"] is not None]
        found = same[0] if len(same) == 1 else None
    return None if found is None else found["snr_db"]


def _precision(layer: Mapping[str, Any]) -> str:
    """From the types that the engine really used."""
    pair = (layer["kind"] or "").partition(".")[2]
    first = str(layer["outputs"][0][0]) if layer["outputs"] else ""
    if pair:
        return "int8" if pair[:2] in {"u8", "s8"} else {"f32": "fp32", "f16": "fp16"}.get(pair, pair)
    return {"uint8": "int8", "float": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(first, first)


def calibration_rows(quantized: QuantizedModel) -> list[dict[str, Any]]:
    """Ranges of the tensors that eight bits cost most, the worst first; the worst of all with their histograms."""
    method = quantized.results["method"]
    document = quantized.read_json("calibration.json")
    facts, histograms = document.get("facts", {}), document.get("histograms", {})
    modules = read_modules(quantized.folder)
    rows = [
        {"module": modules.get(name, "")}
        | _calibrated(name, ranges[method], method, facts.get(name, {}))
        | _bars(histograms.get(name))
        for name, ranges in document["tensors"].items()
    ]
    return sorted(rows, key=_badness)[:LISTED_TENSORS]


def _calibrated(name: str, pair: Sequence[float], method: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "tensor": name,
        "low": pair[0],
        "high": pair[1],
        "method": method,
        "seen_low": facts.get("low"),
        "seen_high": facts.get("high"),
        "outside_ratio": facts.get("outside_ratio", {}).get(method),
        "snr_db": facts.get("snr_db", {}).get(method),
    }


def _bars(found: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if found is None else {"histogram": {key: found[key] for key in ("low", "high", "counts")}}


def _badness(row: Mapping[str, Any]) -> tuple[float, float]:
    return (float("inf") if row["snr_db"] is None else row["snr_db"], row["low"] - row["high"])
