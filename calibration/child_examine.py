"""What runs in a limited child process: what can be told of a finished Q/DQ model, layer by layer and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir

from calibration.child import sample_sets, strings, write_json
from calibration.modelfile import open_float
from calibration.nodesnr import outputs_by_node
from calibration.paying import float_cost_us
from calibration.placement import place
from calibration.prepare import prepare
from calibration.rules_reasons import ON_REQUEST
from calibration.sensitivity import SAMPLES, sensitivity
from calibration.subset import spread
from calibration.table import CalibrationTable
from calibration.work import macs
from targets.costs import COSTS
from targets.errors import InputError
from targets.onnxfile import open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from calibration.samples import CalibrationSet
    from targets.scheme import QuantScheme

SATURATING: Final = frozenset({"ort-x86", "openvino"})
"""Dialects with weights of 8 bits that also run on x86 CPUs whose int8 products saturate."""

_MOST_MACS: Final = 1e11
"""Work that `auto` takes for sensitivity: some ten seconds on one core."""

_MOST_LAYERS: Final = 100


def examine_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Adds what each layer costs to ``layers.json`` and forecasts other CPUs; for `targets.process.call_limited`.

    Args:
        request: ``model`` (the float model), ``samples``, ``batch_size``, ``threads``, ``scheme``, ``method``,
            ``table`` and ``out_folder`` as for `calibration.child.quantize_in_child`, which has been there;
            ``sensitivity`` (``off``, ``on``, or ``auto``: when it is little work) and ``forecast`` (true or false); if
            wished ``float_nodes``, ``modules`` (node -> module path) and ``float_out`` (the float model behind the
            Q/DQ file).

    Returns:
        ``sensitivity``: ``{unit, costs, snr_db, samples}``, or None where it was not measured; ``costs`` says how they
        were found: ``predicted`` or ``counted`` (multiply-accumulates). Each row of ``layers.json`` then holds
        ``output_snr_db``, how near that node's output is to the float model's, and ``output_shape`` (None where not
        known); with a quantised weight also ``sensitivity_db`` (output SNR with that layer alone in int8),
        ``spared_db``, ``cost`` and ``macs``; layers that are float on request have none, for they have nothing to give.
        ``forecast``: ``{snr_db, agreement, safe, saturating, samples}`` of x86 CPUs without VNNI; None where the
        dialect does not go there, or ``{unknown: reason}``.

    Raises:
        InputError: As `sensitivity`.
    """
    model, out = Path(str(request["model"])), Path(str(request["out_folder"]))
    threads, dialect = int(str(request["threads"])), scheme(str(request["scheme"]))
    _, _, held = sample_sets(request, model)
    wanted = str(request["sensitivity"])
    looked: dict[str, object] | None = None
    _add_outputs(request, out, held, threads)
    if wanted == "on" or (wanted == "auto" and _is_little(model, dialect, held, threads)):
        looked = _sensitivity(request, model, out, dialect, held, threads)
    goes_there = bool(request["forecast"]) and dialect.name in SATURATING
    return {"sensitivity": looked, "forecast": _forecast(out / "model.onnx", held, threads) if goes_there else None}


def _add_outputs(request: Mapping[str, object], out: Path, held: CalibrationSet, threads: int) -> None:
    given = Path(str(request.get("float_out", "")))
    parent = given if given.is_file() else Path(str(request["model"]))
    found = outputs_by_node(parent, out / "model.onnx", held, threads=threads)
    rows: list[dict[str, Any]] = json.loads((out / "layers.json").read_text("utf-8"))
    for row in rows:
        known = found.get(row["node"])
        row |= {"output_snr_db": known and known.snr_db, "output_shape": known and known.shape}
    write_json(out / "layers.json", rows)


def _is_little(model: Path, dialect: QuantScheme, held: CalibrationSet, threads: int) -> bool:
    prepared = prepare(open_float(model))
    placement = place(prepared.graph, dialect)
    work = 2.0 * len(placement.weights) * SAMPLES * sum(macs(prepared, placement, held, threads=threads).values())
    return work <= _MOST_MACS and len(placement.weights) <= _MOST_LAYERS


def _sensitivity(
    request: Mapping[str, object], model: Path, out: Path, dialect: QuantScheme, held: CalibrationSet, threads: int
) -> dict[str, object]:
    table, modules = CalibrationTable.load(Path(str(request["table"]))), request.get("modules", {})
    assert isinstance(modules, Mapping)
    rows: list[dict[str, Any]] = json.loads((out / "layers.json").read_text("utf-8"))
    spared = {
        str(row["node"]) for row in rows if row["reason"] == ON_REQUEST
    }  # they are float already: nothing to give
    float_nodes = frozenset(strings(request, "float_nodes")) | spared
    found = sensitivity(
        model,
        table,
        dialect,
        str(request["method"]),
        held,
        threads=threads,
        float_nodes=float_nodes,
        latency_us=_float_cost_us(model, dialect, held, threads, float_nodes),
        modules=modules,
    )
    prepared = prepare(open_float(model))
    work = macs(prepared, place(prepared.graph, dialect), held, threads=threads)
    by_node = {layer.node: layer for layer in found.layers}
    for row in rows:
        if (layer := by_node.get(row["node"])) is not None:
            row |= {"sensitivity_db": layer.alone_db, "spared_db": layer.spared_db, "cost": layer.cost}
            row |= {"module": layer.module, "macs": work[layer.node]}
    write_json(out / "layers.json", rows)
    costs = "predicted" if found.unit == "us" else "counted"
    return {"unit": found.unit, "costs": costs, "snr_db": found.snr_db, "samples": found.samples}


def _float_cost_us(
    model: Path, dialect: QuantScheme, held: CalibrationSet, threads: int, float_nodes: frozenset[str]
) -> dict[str, float] | None:
    """Predicted microseconds, where the dialect has figures."""
    costs = COSTS.get(dialect.name)
    if costs is None:
        return None
    prepared = prepare(open_float(model))
    return float_cost_us(prepared, dialect, costs, held, threads=threads, float_nodes=float_nodes)


def _forecast(model: Path, held: CalibrationSet, threads: int) -> dict[str, object]:
    from calibration.saturation import forecast

    try:
        found = forecast(model, spread(held, SAMPLES, ir.from_proto(open_onnx(model)).graph), threads=threads)
    except InputError as error:
        return {"unknown": f"{error.what}: {error.why}"}
    answer = asdict(found)
    return {
        "snr_db": answer["output_snr_db"],
        "agreement": answer["agreement"],
        "safe": found.safe,
        "saturating": list(found.saturating),
        "samples": answer["samples"],
    }
