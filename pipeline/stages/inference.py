"""Runs ONNX models and built engines over a split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from targets.errors import InputError
from targets.process import Limits, call_limited

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data import Split
    from targets.profile import TargetProfile

INFERENCE_TIMEOUT_S: Final = 1800.0
BUILD_TIMEOUT_S: Final = 1800.0
BATCH_SIZE: Final = 32


def run_onnx(model: Path, split: Split, batch_size: int = BATCH_SIZE) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``, of an ONNX file that this project wrote; unoptimised, one thread."""
    import numpy as np

    from calibration.session import Session
    from targets.onnxfile import io_of, open_stored

    description = io_of(open_stored(model).model)
    names = [str(output["name"]) for output in description["outputs"]]
    session = Session(model, threads=1, optimize=False)
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for batch in split.batches(served_batch(description, batch_size)):
        for name, array in zip(names, session.run(names, dict(batch.inputs)), strict=True):
            parts[name].append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def build_engine(model: Path, profile: TargetProfile, precision: str, out: Path) -> dict[str, Any]:
    """Builds an engine into ``out``, in a limited child; returns its summary."""
    return call_limited(
        "targets.engines.child:build_in_child",
        {
            "model": str(model),
            "profile": profile.model_dump(mode="json"),
            "precision": precision,
            "out_folder": str(out),
        },
        limits=Limits(timeout_s=BUILD_TIMEOUT_S),
        what=f"building the {precision} engine of {profile.engine.name}",
    )


def served_batch(description: Mapping[str, Any], wanted: int = BATCH_SIZE) -> int:
    """The batch size to run a model with: ``wanted``, or fewer where the model or the engine takes no more.

    Args:
        description: An ``io.json`` or ``engine.json``; a TensorRT engine says for which shapes it was built.
        wanted: How many samples at most.

    Raises:
        InputError: The model's batch size is fixed to another number.
    """
    fixed = {
        item["shape"][0] for item in description["inputs"] if item["shape"] and not isinstance(item["shape"][0], str)
    }
    if not fixed:
        shapes = description.get("options", {}).get("shapes", {})
        return min([wanted, *(int(shape["max"][0]) for shape in shapes.values())])
    if fixed != {1}:
        raise InputError(
            f"the model's batch size is fixed to {max(fixed)}",
            "samples are served one by one, and scored in batches of any size",
            "export the model with a free batch axis (dynamic_shapes, or dynamic_axes), or with batch 1",
        )
    return 1


def run_engine(
    engine: Path, split: Split, scratch: Path, *, batch_size: int = BATCH_SIZE
) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``, of a built engine, run in a limited child."""
    import numpy as np

    description = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    inputs, outputs = scratch / "inputs.npz", scratch / "outputs.npz"
    save_inputs(inputs, split)
    call_limited(
        "targets.engines.child:infer_in_child",
        {
            "engine_folder": str(engine),
            "inputs_npz": str(inputs),
            "out_npz": str(outputs),
            "batch": served_batch(description, batch_size),
        },
        limits=Limits(timeout_s=INFERENCE_TIMEOUT_S),
        what="running the engine over the data",
    )
    with np.load(outputs, allow_pickle=False) as archive:
        result = {name: archive[name] for name in archive.files}
    inputs.unlink()
    outputs.unlink()
    return result


def save_inputs(path: Path, split: Split) -> None:
    """Writes the split's inputs as ``.npz``."""
    save_arrays(path, split.inputs)


def save_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Writes arrays as ``.npz``, under any names: ``np.savez`` has no room for one called ``file``."""
    import zipfile

    from numpy.lib import format as npy

    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)


def in_order(outputs: dict[str, npt.NDArray[Any]], names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """The arrays in the order of ``names``."""
    return [outputs[name] for name in names]
