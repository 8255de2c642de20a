"""A stranger's ONNX file, in limited children: read and written anew, then run over the data for the first time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.axes import fix_axes
from calibration.child import write_json
from calibration.joining import joined
from calibration.modelfile import open_float
from calibration.placement import place
from calibration.prepare import prepare
from calibration.samples import CalibrationSet
from calibration.session import Session
from calibration.work import macs
from targets.onnxfile import io_of, open_onnx
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping


def import_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Checks ``model`` and writes ``model.onnx``, external data within, and ``io.json`` into ``out``.

    Returns:
        ``io``, and the number of ``parameters``.

    Raises:
        InputError: As `targets.onnxfile.open_onnx`.
        RefusedError: As `targets.onnxfile.open_onnx`.
    """
    model, out = open_onnx(Path(request["model"])), Path(request["out"])
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    io = io_of(model)
    write_json(out / "io.json", io)
    return {"io": io, "parameters": sum(math.prod(tensor.dims) for tensor in model.graph.initializer)}


def fix_axes_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Gives the free axes of ``model.onnx`` in ``out`` their ``sizes``, and writes its ``io.json`` anew.

    Returns:
        ``io``.
    """
    out = Path(request["out"])
    model = open_onnx(out / "model.onnx")
    fix_axes(model, {str(name): int(size) for name, size in request["sizes"].items()})
    (out / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    io = io_of(model)
    write_json(out / "io.json", io)
    return {"io": io}


def run_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Runs ``model`` over ``inputs`` (an ``.npz``) in batches of ``batch``, unoptimised and on one thread.

    Returns:
        ``outputs``: their names, in the model's order; their values lie in ``out``, as ``0.npy`` and so on.

    Raises:
        InputError: The model fails on the data, or has an output whose size depends on values.
        EnvironmentFailure: Memory ran out.
    """
    names, batch = [str(name) for name in request["outputs"]], int(request["batch"])
    with np.load(request["inputs"], allow_pickle=False) as archive:
        inputs = {name: archive[name] for name in archive.files}
    session = Session(Path(request["model"]), threads=1, optimize=False)
    parts = [
        session.run(names, {name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, len(next(iter(inputs.values()))), batch)
    ]
    for number, (name, arrays) in enumerate(zip(names, zip(*parts, strict=True), strict=True)):
        np.save(Path(request["out"], f"{number}.npy"), joined(arrays, name), allow_pickle=False)
    return {"outputs": names}


def weigh_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Multiply-accumulates of one sample in layers with weights: of ``model``, for one sample of ``inputs``.

    Returns:
        ``macs``.

    Raises:
        InputError: The model fails on the data.
    """
    prepared = prepare(open_float(Path(request["model"])))
    placement = place(prepared.graph, scheme("ort-arm64"))
    with np.load(request["inputs"], allow_pickle=False) as archive:
        samples = CalibrationSet({name: archive[name] for name in archive.files}, batch_size=int(request["batch"]))
    return {"macs": round(sum(macs(prepared, placement, samples, threads=1).values()))}
