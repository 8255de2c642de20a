"""Runs ONNX models and built engines over a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from targets.process import Limits, call_limited

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data import Split
    from targets.profile import TargetProfile

INFERENCE_TIMEOUT_S: Final = 1800.0
BUILD_TIMEOUT_S: Final = 1800.0
BATCH_SIZE: Final = 32


def run_onnx(model: Path, split: Split) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``, of an ONNX file that this project wrote; unoptimised, one thread."""
    import numpy as np

    from calibration.session import open_session
    from targets.onnxfile import io_of, open_onnx

    names = [str(output["name"]) for output in io_of(open_onnx(model))["outputs"]]
    session = open_session(model.read_bytes(), threads=1, optimize=False)
    parts: dict[str, list[Any]] = {name: [] for name in names}
    for batch in split.batches(BATCH_SIZE):
        for name, array in zip(names, session.run(names, dict(batch.inputs)), strict=True):
            parts[name].append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def build_engine(model: Path, profile: TargetProfile, precision: str, out: Path) -> dict[str, Any]:
    """Builds an engine into ``out``, in a limited child; returns its summary."""
    return call_limited(
        "targets.engines.child:build_in_child",
        {"model": str(model), "profile": profile.model_dump(mode="json"), "precision": precision, "out_folder": str(out)},
        limits=Limits(timeout_s=BUILD_TIMEOUT_S),
        what=f"building the {precision} engine",
    )


def run_engine(engine: Path, split: Split, scratch: Path, *, batch_size: int = BATCH_SIZE) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``, of a built engine, run in a limited child."""
    import numpy as np

    inputs, outputs = scratch / "inputs.npz", scratch / "outputs.npz"
    np.savez(inputs, **split.inputs)
    call_limited(
        "targets.engines.child:infer_in_child",
        {"engine_folder": str(engine), "inputs_npz": str(inputs), "out_npz": str(outputs), "batch": batch_size},
        limits=Limits(timeout_s=INFERENCE_TIMEOUT_S),
        what="running the engine over the data",
    )
    with np.load(outputs, allow_pickle=False) as archive:
        result = {name: archive[name] for name in archive.files}
    inputs.unlink()
    outputs.unlink()
    return result


def in_order(outputs: dict[str, npt.NDArray[Any]], names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """The arrays in the order of ``names``."""
    return [outputs[name] for name in names]
