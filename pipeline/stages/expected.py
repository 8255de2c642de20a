"""What a candidate must answer on the device: its outputs as this machine computes them, and how exact they must be."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.stages.answers import answers
from pipeline.stages.bundle import golden_atol
from targets import machine
from targets.scheme import scheme

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.artifacts import CandidateBuild
    from pipeline.data import Split
    from targets.profile import TargetProfile


def write_expected(build: CandidateBuild, split: Split, profile: TargetProfile, scratch: Path, out: Path) -> None:
    """Writes ``output.<name>`` of every sample, and ``atol.<name>``, the error that each output may have.

    Where this machine computes int8 as the target does, the engine itself gives the answers, run in a fresh process.
    Where its int8 products would saturate and the target's do not (8-bit weights on x86 without VNNI), they come from
    the same file with Q/DQ in float arithmetic. Where the engine does not run here, ONNX Runtime answers on its graph.

    Args:
        build: The candidate.
        split: The samples to be timed, in order; answered one by one.
        profile: The target with the engine that was built.
        scratch: A folder for files in passing.
        out: The .npz to write.
    """
    from targets.ondevice.arrays import write_arrays

    engine = build.read_json("engine.json")
    if engine["precision"] != "int8" or engine["engine"] != "onnxruntime" or computes_alike(profile):
        outputs = answers(build.folder, split, profile, scratch, batch_size=1)
    else:
        outputs = _in_float(build, split)
    arrays: dict[str, Any] = {f"output.{name}": array for name, array in outputs.items()}
    for name, array in outputs.items():
        arrays[f"atol.{name}"] = _scalar(golden_atol(array, engine["precision"]))
    write_arrays(str(out), arrays)


def computes_alike(profile: TargetProfile) -> bool:
    """Whether int8 sums on this machine are exact, as they are on the target."""
    if machine.provides(profile.hardware.arch, profile.hardware.isa) or machine.arch() != "x86_64":
        return True
    return scheme(profile.quantization.scheme).weight_bits < 8 or bool(  # noqa: PLR2004 - 7-bit weights never saturate
        machine.cpu_features() & {"avx512_vnni", "avx_vnni"}
    )


def _in_float(build: CandidateBuild, split: Split) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    from calibration.session import Session

    engine = build.read_json("engine.json")
    names = [str(item["name"]) for item in engine["outputs"]]
    model = build.folder / (engine.get("model") or engine["file"])
    session = Session(model.read_bytes(), threads=1, optimize=False)
    rows = [session.run(names, dict(batch.inputs)) for batch in split.batches(1)]
    return {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)}


def _scalar(value: float) -> npt.NDArray[Any]:
    import numpy as np

    return np.asarray(value, np.float64)
