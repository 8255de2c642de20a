"""What runs in limited child processes: calibrate, and quantise with what pays."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from calibration.auto import GAIN_DB, TARGET_SNR_DB, TIME_BUDGET_S, Algorithms, AutoSettings, choose, snr_by_method
from calibration.candidates import Observed, Workshop
from calibration.collect import MEMORY_MB, collect
from calibration.doctor import MIN_SAMPLES, diagnose
from calibration.fidelity import Judge, output_snr_db
from calibration.layout import turn_images
from calibration.modelfile import open_float
from calibration.portable import make_portable
from calibration.samples import CalibrationSet
from calibration.series import lift_series
from calibration.table import CalibrationTable
from targets.costs import COSTS
from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx, open_stored
from targets.scheme import scheme
from targets.telling import teller_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from calibration.doctor import Finding
    from calibration.sampling import Every
    from targets.scheme import QuantScheme

__all__ = [
    "calibrate_in_child",
    "constant_tensors",
    "output_snr_db",
    "quantize_in_child",
    "sample_sets",
    "strings",
    "write_json",
]

_HOLD_BACK_EVERY: Final = 5


def calibrate_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Measures the ranges of every method; for `targets.process.call_limited`.

    Every fifth sample is held back: nothing that is chosen or learned sees it (all are seen where the model takes only
    batches of one fixed size above 1).

    Args:
        request: ``model`` and ``samples`` (paths of ``.onnx`` and ``.npz``), ``threads``, ``batch_size`` (a batch size
            fixed in the model goes before), ``out`` (path of the table to write), and if wished ``observe`` and
            ``memory_mb`` as `collect` takes them, ``min_samples``, ``validation`` (``.npz`` of samples as evaluation
            sees them), ``numbers`` (what errors call each sample), ``labels`` and ``validation_labels``
            (``.npy`` of class numbers).

    Returns:
        ``{samples, held_back, constant_tensors, findings}``; findings as `calibration.doctor` makes them.

    Raises:
        InputError: As `collect`.
    """
    model = Path(str(request["model"]))
    samples, seen, held = sample_sets(request, model)
    table = collect(model, seen, threads=_count(request, "threads"), every=_every(request), memory_mb=_memory(request))
    table.save(Path(str(request["out"])))
    return {
        "samples": len(samples),
        "held_back": 0 if held is seen else len(held),
        "constant_tensors": constant_tensors(table),
        "findings": [asdict(one) for one in _findings(request, model, table, len(samples), seen)],
    }


def quantize_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Quantises a model; for `targets.process.call_limited`.

    Args:
        request: As for `calibrate_in_child` without ``out``; and ``scheme``, ``method`` (a range method or ``auto``),
            ``out_folder`` (exists), and if wished: ``table`` (path of what `calibrate_in_child` wrote for the same
            samples; measured again without it), ``algorithms`` (``auto`` or a list; none without it), ``labels`` (path
            of an ``.npy`` of class numbers of the samples), ``float_nodes``, ``seed``, ``target_snr_db``, ``gain_db``,
            ``time_budget_s``, ``float_out`` (where to write the float model that the Q/DQ file was made from, which
            algorithms may have changed) and ``tell`` (`targets.telling`: gets ``{kind: "begin", step}`` before a step
            that learns and ``{kind: "step", ...}``, a `Tried`, after each).

    Returns:
        ``{int8_nodes, float_nodes, method, algorithms, output_snr_db, agreement, snr_db_by_method, tried, stopped,
        portable, samples, constant_tensors}``, ``portable`` as `finish_for_cpus` gives it. The folder then holds
        ``model.onnx``, ``io.json``, ``calibration.json`` and ``layers.json``.

    Raises:
        InputError: As `collect`, `quantize_model` and `choose`.
    """
    model, out = Path(str(request["model"])), Path(str(request["out_folder"]))
    threads = _count(request, "threads")
    settings = _settings(request)
    samples, seen, held = sample_sets(request, model)
    table = _table(request, model, seen)
    dialect = scheme(str(request["scheme"]))
    labels = _labels(request, "labels", len(samples))
    kept = labels if labels is None or held is seen else labels[_HOLD_BACK_EVERY - 1 :: _HOLD_BACK_EVERY]
    judge = Judge(model, held, labels=kept, threads=threads)
    wide = judge if held is samples else Judge(model, samples, labels=labels, threads=threads)
    with TemporaryDirectory() as folder, teller_of(request) as tell:
        workshop = Workshop(
            model,
            table,
            seen,
            scheme=dialect,
            folder=Path(folder),
            threads=threads,
            seed=int(str(request.get("seed", 0))),
            observed=Observed(every=_every(request), memory_mb=_memory(request)),
        )
        result = choose(
            workshop,
            judge,
            settings,
            wide=wide,
            float_nodes=strings(request, "float_nodes"),
            on_step=lambda tried: tell({"kind": "step", **asdict(tried)}),
            on_begin=lambda step: tell({"kind": "begin", "step": step}),
        )
        (out / "model.onnx").write_bytes(result.candidate.path.read_bytes())
        portable = finish_for_cpus(out / "model.onnx", dialect)
        fidelity = judge(out / "model.onnx") if portable else result.fidelity
        if "float_out" in request:
            Path(str(request["float_out"])).write_bytes(open_float(result.candidate.float_model).SerializeToString())
    result.candidate.table.save(out / "calibration.json")
    layers = result.candidate.layers
    write_json(out / "io.json", io_of(open_onnx(out / "model.onnx")))
    write_json(out / "layers.json", [asdict(layer) for layer in layers])
    int8 = sum(layer.precision == "int8" for layer in layers)
    return {
        "int8_nodes": int8,
        "float_nodes": len(layers) - int8,
        "method": result.candidate.choice.method,
        "algorithms": sorted(result.candidate.choice.algorithms),
        "output_snr_db": fidelity.snr_db,
        "agreement": fidelity.agreement,
        "snr_db_by_method": dict(snr_by_method(result.tried)),
        "tried": [asdict(one) for one in result.tried],
        "stopped": result.stopped,
        "portable": portable,
        "samples": len(samples),
        "constant_tensors": constant_tensors(table),
    }


def constant_tensors(table: CalibrationTable) -> list[str]:
    """Activations that had one single value over all samples: dead layers, or samples that do not reach them."""
    ends = {name: [end for pair in ranges.values() for end in pair] for name, ranges in table.tensors.items()}
    return sorted(name for name, values in ends.items() if min(values) == max(values))


def finish_for_cpus(path: Path, dialect: QuantScheme) -> dict[str, object] | None:
    """Last changes to a Q/DQ file of a dialect that CPUs run.

    Every CPU rounds its sums alike, images have one layout, and series get a fourth dimension where that is needed.

    Returns:
        ``{adjusted, left}``: nodes with the share that their scale was raised by, and those that may still differ, with
        the reason; None in other dialects.
    """
    if dialect.style != "operators":
        return None
    quantized = open_onnx(path)
    report = make_portable(quantized)
    if dialect.sums_of_series == "in 4-d":
        lift_series(quantized)
    if dialect.name in COSTS:
        turn_images(quantized, COSTS[dialect.name])
    path.write_bytes(quantized.SerializeToString(deterministic=True))
    return {"adjusted": dict(report.adjusted), "left": dict(report.left)}


def write_json(path: Path, data: object) -> None:
    """Writes plain data; the same data give the same bytes."""
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", "utf-8")


def _settings(request: Mapping[str, object]) -> AutoSettings:
    wanted = request.get("algorithms", ())
    algorithms = wanted if isinstance(wanted, str) else tuple(str(name) for name in cast("list[object]", wanted))
    return AutoSettings(
        method=str(request["method"]),
        algorithms=cast("Algorithms", algorithms),
        target_snr_db=float(str(request.get("target_snr_db", TARGET_SNR_DB))),
        gain_db=float(str(request.get("gain_db", GAIN_DB))),
        time_budget_s=float(str(request.get("time_budget_s", TIME_BUDGET_S))),
    )


def sample_sets(request: Mapping[str, object], model: Path) -> tuple[CalibrationSet, CalibrationSet, CalibrationSet]:
    """All samples, those that may be seen, those held back."""
    fixed = _fixed_batch(model)
    samples = CalibrationSet.load(Path(str(request["samples"])), batch_size=fixed or _count(request, "batch_size"))
    if "numbers" in request:
        samples = samples.numbered([int(str(number)) for number in cast("list[object]", request["numbers"])])
    if fixed is not None and fixed > 1:
        return samples, samples, samples
    return samples, *samples.split(_HOLD_BACK_EVERY)


def _table(request: Mapping[str, object], model: Path, seen: CalibrationSet) -> CalibrationTable:
    if "table" not in request:
        threads = _count(request, "threads")
        return collect(model, seen, threads=threads, every=_every(request), memory_mb=_memory(request))
    table = CalibrationTable.load(Path(str(request["table"])))
    table.check_data(seen.content_sha256)
    return table


def _findings(
    request: Mapping[str, object], model: Path, table: CalibrationTable, count: int, seen: CalibrationSet
) -> list[Finding]:
    """The doctor looks at the samples that were seen, and counts those held back too."""
    validation = None
    if "validation" in request:
        validation = CalibrationSet.load(Path(str(request["validation"])), batch_size=seen.batch_size)
        validation = None if len(validation) % (_fixed_batch(model) or 1) else validation
    labels = _labels(request, "labels", count)
    if labels is not None and len(seen) < count:
        labels = np.delete(labels, np.s_[_HOLD_BACK_EVERY - 1 :: _HOLD_BACK_EVERY])
    return diagnose(
        table,
        seen,
        model,
        validation,
        labels,
        int(str(request.get("min_samples", MIN_SAMPLES))),
        held_back=count - len(seen),
        validation_labels=_labels(request, "validation_labels", None),
    )


def _labels(request: Mapping[str, object], name: str, count: int | None) -> NDArray[np.integer] | None:
    """Class numbers in a file; ``count`` of them, if given."""
    if request.get(name) is None:
        return None
    path = Path(str(request[name]))
    try:
        labels: NDArray[np.integer] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"the labels {path.name} cannot be read", " ".join(str(error).split())[:200], "write them with numpy.save"
        ) from error
    if count is not None and labels.shape != (count,):
        raise InputError(
            f"there are labels of shape {list(labels.shape)} for {count} samples",
            "each sample has one class number",
            "give one label for each sample, or none",
        )
    return labels


def _fixed_batch(model: Path) -> int | None:
    """The only batch size the model takes, None when it is free."""
    sizes = [spec["shape"][0] for spec in io_of(open_stored(model).model)["inputs"] if spec["shape"]]
    return next((size for size in sizes if isinstance(size, int)), None)


def _count(request: Mapping[str, object], name: str) -> int:
    return int(str(request[name]))


def _every(request: Mapping[str, object]) -> Every:
    return cast("Every", str(request.get("observe", "sampled")))  # `collect` refuses what it does not know


def _memory(request: Mapping[str, object]) -> int:
    return int(str(request.get("memory_mb", MEMORY_MB)))


def strings(request: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A list of texts in a request; empty where it is not there."""
    return tuple(str(item) for item in cast("list[object]", request.get(name, ())))
