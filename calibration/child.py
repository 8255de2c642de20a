"""What runs in the limited child process: calibrate, quantise, and measure what int8 costs at the output."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from calibration.collect import METHODS, collect
from calibration.qdq import LayerPrecision, quantize_model, snr_db
from calibration.samples import CalibrationSet
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calibration.session import Array
    from calibration.table import CalibrationTable

AUTO: Final = "auto"
_HOLD_BACK_EVERY: Final = 5


def quantize_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Quantises a model; for `targets.process.call_limited`.

    Args:
        request: ``model`` and ``samples`` (paths of ``.onnx`` and ``.npz``), ``scheme``, ``method`` (one of `METHODS`
            or ``auto``), ``threads``, ``batch_size`` (a batch size fixed in the model goes before), ``out_folder``
            (exists). ``auto`` takes the method with the best output SNR on every fifth sample, which the ranges have
            not seen (a model of fixed batch size: on all samples).

    Returns:
        ``{int8_nodes, float_nodes, method, output_snr_db, snr_db_by_method, samples, constant_tensors}``. The
        folder then holds ``model.onnx``, ``io.json``, ``calibration.json`` and ``layers.json``.

    Raises:
        InputError: As `collect` and `quantize_model`.
    """
    model, out = Path(str(request["model"])), Path(str(request["out_folder"]))
    threads = int(str(request["threads"]))
    dialect = scheme(str(request["scheme"]))
    fixed = _fixed_batch(model)
    samples = CalibrationSet.load(Path(str(request["samples"])), batch_size=fixed or int(str(request["batch_size"])))
    method = str(request["method"])
    seen, held = samples.split(_HOLD_BACK_EVERY) if method == AUTO and not fixed else (samples, samples)
    table = collect(model, seen, threads=threads, methods=tuple(METHODS) if method == AUTO else (method,))
    wanted = _outputs(model, held, threads=threads)
    tried: dict[str, tuple[float, tuple[LayerPrecision, ...], bytes]] = {}
    for name in table.methods:
        layers = quantize_model(model, table, dialect, name, out / "model.onnx")
        snr = output_snr_db(wanted, _outputs(out / "model.onnx", held, threads=threads))
        tried[name] = snr, layers, (out / "model.onnx").read_bytes()
    best = max(tried, key=lambda name: tried[name][0])
    snr, layers, data = tried[best]
    (out / "model.onnx").write_bytes(data)
    table.save(out / "calibration.json")
    _write(out / "io.json", io_of(open_onnx(out / "model.onnx")))
    _write(out / "layers.json", [asdict(layer) for layer in layers])
    int8 = sum(layer.precision == "int8" for layer in layers)
    return {
        "int8_nodes": int8,
        "float_nodes": len(layers) - int8,
        "method": best,
        "output_snr_db": snr,
        "snr_db_by_method": {name: result[0] for name, result in tried.items()},
        "samples": len(samples),
        "constant_tensors": constant_tensors(table),
    }


def output_snr_db(reference: list[Array], other: list[Array]) -> float:
    """Signal-to-noise ratio over all outputs together, in dB.

    Raises:
        InputError: An output of either model holds NaN or Inf.
    """
    exact, found = (np.concatenate([a.astype(np.float64).reshape(-1) for a in side]) for side in (reference, other))
    if not np.isfinite(exact).all():
        raise InputError(
            "an output of the float model holds NaN or Inf",
            "what int8 costs cannot be measured against it",
            "look at the last layers (a logarithm of zero, a division by zero), or repair the model",
        )
    if not np.isfinite(found).all():
        raise InputError(
            "the int8 model gives NaN or Inf",
            "the float model does not on the same samples",
            "keep this model in float",
        )
    return snr_db(exact, found)


def constant_tensors(table: CalibrationTable) -> list[str]:
    """Activations that had one single value over all samples: dead layers, or samples that do not reach them."""
    ends = {name: [end for pair in ranges.values() for end in pair] for name, ranges in table.tensors.items()}
    return sorted(name for name, values in ends.items() if min(values) == max(values))


def _fixed_batch(model: Path) -> int | None:
    """The only batch size the model takes, None when it is free."""
    sizes = [spec["shape"][0] for spec in io_of(open_onnx(model))["inputs"] if spec["shape"]]
    return next((size for size in sizes if isinstance(size, int)), None)


def _outputs(path: Path, samples: CalibrationSet, *, threads: int) -> list[Array]:
    """Outputs, flat; Q/DQ is computed in float, so that this CPU's int8 shortcuts do not sway the choice."""
    session = Session(open_onnx(path).SerializeToString(), threads=threads, optimize=False)
    batches = [session.run(None, batch) for batch in samples]
    return [np.concatenate([part.reshape(-1) for part in parts]) for parts in zip(*batches, strict=True)]


def _write(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")
