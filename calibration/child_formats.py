"""What runs in a limited child process: conversion to a format beside static int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from calibration.child import sample_sets, write_json
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from calibration.formats import FormatReport

HALF_BATCH: Final = 8


def convert_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Converts a float model; for `targets.process.call_limited`.

    Args:
        request: ``model`` (the float model), ``precision`` (``fp16``, ``bf16``, ``int8-dynamic``, ``int8-weights`` or
            ``int4-weights``), ``weight_bits`` (of dynamic int8: 7 or 8), ``samples`` (``.npz``; what overflows 16 bits
            on them stays float32), ``threads`` and ``out_folder`` (exists).

    Returns:
        ``{changed, left, before_bytes, after_bytes, lowest_snr_db}``, the first two counts of nodes. The folder then
        holds ``model.onnx``, ``io.json`` and ``format.json``.

    Raises:
        InputError: The model cannot be converted.
    """
    model, precision, out = Path(str(request["model"])), str(request["precision"]), Path(str(request["out_folder"]))
    report = _convert(request, model, precision, out / "model.onnx")
    write_json(out / "io.json", io_of(open_onnx(out / "model.onnx")))
    write_json(out / "format.json", asdict(report))
    return {
        "changed": len(report.changed),
        "left": len(report.left),
        "before_bytes": report.before_bytes,
        "after_bytes": report.after_bytes,
        "lowest_snr_db": round(min(report.snr_db.values()), 3) if report.snr_db else None,
    }


def _convert(request: Mapping[str, object], model: Path, precision: str, out: Path) -> FormatReport:
    if precision in {"fp16", "bf16"}:
        from calibration.half import HalfSettings, convert_half

        dtype: Literal["float16", "bfloat16"] = "float16" if precision == "fp16" else "bfloat16"
        samples, _, _ = sample_sets({**request, "batch_size": HALF_BATCH}, model)
        threads = int(str(request["threads"]))
        return convert_half(model, out, HalfSettings(dtype=dtype), samples=samples, threads=threads)
    if precision == "int8-dynamic":
        from calibration.dynamic import quantize_dynamic_model

        return quantize_dynamic_model(model, out, weight_bits=int(str(request["weight_bits"])))
    from calibration.weightonly import WeightOnlySettings, quantize_weights_only

    bits: Mapping[str, Literal[4, 8]] = {"int4-weights": 4, "int8-weights": 8}
    return quantize_weights_only(model, out, WeightOnlySettings(bits=bits[precision]))
