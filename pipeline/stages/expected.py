"""What a candidate must answer on the device: its outputs as this machine computes them, and how exact they must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stages.answers import answers
from pipeline.stages.bundle import golden_atol

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.artifacts import CandidateBuild
    from pipeline.data import Split
    from targets.profile import TargetProfile


def write_expected(build: CandidateBuild, split: Split, profile: TargetProfile, scratch: Path, out: Path) -> None:
    """Writes ``output.<name>`` of every sample, and ``atol.<name>``, the error that each output may have.

    The engine itself gives the answers, run in a fresh process, where this machine computes as the target does; else
    its graph does, computed otherwise (`pipeline.stages.answers`).

    Args:
        build: The candidate.
        split: The samples to be timed, in order; answered one by one.
        profile: The target with the engine that was built.
        scratch: A folder for files in passing.
        out: The .npz to write.
    """
    from targets.ondevice.arrays import write_arrays

    engine = build.read_json("engine.json")
    outputs = answers(build.folder, split, profile, scratch, batch_size=1)
    arrays: dict[str, Any] = {f"output.{name}": array for name, array in outputs.items()}
    for name, array in outputs.items():
        arrays[f"atol.{name}"] = _scalar(golden_atol(array, engine["precision"]))
    write_arrays(str(out), arrays)


def _scalar(value: float) -> npt.NDArray[Any]:
    import numpy as np

    return np.asarray(value, np.float64)
