"""Accuracy on a device: the engine that is timed answers a whole split there, in pieces of bounded size."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.devicebuild import Made, NotBuiltThere, put_engine
from pipeline.benchmarking.staging import engine_folder
from targets.engines.base import EngineBuild
from targets.errors import DeviceError, InputError
from targets.files import disk_guard

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.tasks import Task
    from targets.devices.base import Device, Session

PIECE_BYTES: Final = 16 << 20
MAX_PIECE_SAMPLES: Final = 4096
_PIECE_TIMEOUT_S: Final = 900.0
_INPUTS: Final = "accuracy/inputs.npz"
_RESULT: Final = "result.npz"

Arrays = Mapping[str, "npt.NDArray[Any]"]
OnShare = Callable[[float, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What engines are scored on.

    Attributes:
        inputs: One array for each input of the model, ``(N, ...)``.
        labels: ``(N, ...)``; None where the task has none.
    """

    inputs: Arrays
    labels: npt.NDArray[Any] | None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def score_on_device(
    engines: Mapping[str, Path],
    samples: Labelled,
    task: Task,
    device: Device,
    scratch: Path,
    *,
    required: Collection[str] | None = None,
    made: Made | None = None,
    on_share: OnShare = lambda _done, _engine: None,
) -> dict[str, dict[str, Any]]:
    """The task's metric of every engine, from answers that the device gave.

    A task without labels compares with the first engine, the uncompressed one.

    Args:
        engines: Engine folders by name.
        samples: All of one split.
        task: Its metric counts.
        device: Where to run; held for the whole of it.
        scratch: A folder for files in passing.
        required: Names of the engines that must be scored; others that cannot be built on the device are left out.
            None: all must.
        made: Engines that were built there in this session: noted, and not built again.
        on_share: Told the share done, and which engine is being scored.

    Returns:
        By name: ``value``, ``metric``, ``samples``, ``device``, ``engine_sha256``.

    Raises:
        InputError: There is nothing to score, or an engine's folder is none.
        DeviceError: The device was lost, is in use, or its answers are not of the engine's outputs.
    """
    if not engines or not len(samples):
        raise InputError(
            "there is nothing to score", f"{len(engines)} engines, {len(samples)} samples", "give at least one of each"
        )
    answers: dict[str, Arrays] = {}
    hashes: dict[str, str] = {}
    with device.session() as session:
        for index, (name, folder) in enumerate(engines.items()):

            def told(share: float, index: int = index, name: str = name) -> None:
                on_share((index + share) / len(engines), name)

            told(0.0)
            try:
                answers[name], hashes[name] = _answers(session, index, folder, samples, scratch, told, made)
            except NotBuiltThere:
                if required is None or name in required or (index == 0 and not task.needs_labels):
                    raise  # without the uncompressed one there is nothing to compare the others with
    if not answers:
        return {}
    reference = list(next(iter(answers.values())).values())
    return {
        name: {
            "value": task.score(list(outputs.values()), samples.labels, reference),
            "metric": task.metric,
            "samples": len(samples),
            "device": device.name,
            "engine_sha256": hashes[name],
        }
        for name, outputs in answers.items()
    }


def pieces(inputs: Arrays, batch: int) -> Iterator[slice]:
    """Consecutive slices over all samples, each of at most `PIECE_BYTES` of inputs and whole batches where they fit."""
    total = len(next(iter(inputs.values())))
    sample_bytes = max(1, sum(array.nbytes for array in inputs.values()) // max(1, total))
    fitting = min(MAX_PIECE_SAMPLES, max(1, PIECE_BYTES // sample_bytes))
    size = max(1, fitting - fitting % batch if fitting >= batch else fitting)
    for start in range(0, total, size):
        yield slice(start, min(total, start + size))


def _answers(
    session: Session,
    index: int,
    folder: Path,
    samples: Labelled,
    scratch: Path,
    told: Callable[[float], None],
    made: Made | None,
) -> tuple[Arrays, str]:
    """All outputs of one engine, by name in the engine's order, and the engine's hash."""
    import numpy as np

    from pipeline.stages.inference import save_arrays, served_batch

    engine = EngineBuild.read(folder)
    remote = engine_folder(index)
    built = put_engine(engine, remote, session, made)
    digest = engine.sha256 if built is None else built.sha256
    batch = served_batch(engine.to_json())
    names = [port.name for port in engine.outputs]
    rows: list[Arrays] = []
    for piece in pieces(samples.inputs, batch):
        local, result = scratch / "piece.npz", scratch / _RESULT
        with disk_guard("writing samples for the device", path=scratch):
            save_arrays(local, {name: array[piece] for name, array in samples.inputs.items()})
        session.put(local, _INPUTS)
        command = ["infer", remote, "--inputs", _INPUTS, "--out", _RESULT, "--batch", str(batch)]
        answer = session.run(command, timeout_s=_PIECE_TIMEOUT_S, fetch=result)
        _check_engine(answer.result, digest)
        rows.append(_outputs(result, names, piece.stop - piece.start))
        result.unlink()
        told(piece.stop / len(samples))
    return {name: np.concatenate([row[name] for row in rows]) for name in names}, digest


def _check_engine(result: Mapping[str, Any], digest: str) -> None:
    if result.get("engine_sha256") != digest:
        raise DeviceError(
            "the device answered for another engine",
            f"its sha256 is {result.get('engine_sha256')}, asked for {digest}",
            "check that nobody else works in the device's folder, then run the same command again",
        )


def _outputs(path: Path, names: list[str], samples: int) -> Arrays:
    """The arrays that came back, which are of exactly these outputs and of so many samples."""
    import numpy as np

    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _not_valid(f"result.npz cannot be read: {error}") from error
    if sorted(found) != sorted(names):
        raise _not_valid(f"it holds {sorted(found)[:8]}, the engine gives {sorted(names)[:8]}")
    for name, array in found.items():
        if array.ndim < 1 or len(array) != samples:
            raise _not_valid(f"output {name!r} has shape {array.shape}, asked for {samples} samples")
        if array.dtype.kind not in "fiub":
            raise _not_valid(f"output {name!r} holds {array.dtype}")
    return {name: found[name] for name in names}


def _not_valid(why: str) -> DeviceError:
    return DeviceError(
        "the device gave no valid outputs", why, "run `edgepress verify` on the bundle there, then try again"
    )
