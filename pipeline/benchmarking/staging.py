"""Puts engines, samples and expected outputs of a campaign onto the device; each file is sent once."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from targets.engines.base import INSPECT_JSON, EngineBuild
from targets.errors import InputError, RefusedError
from targets.files import disk_guard, sha256_file
from targets.ondevice.arrays import read_inputs, write_arrays
from targets.ondevice.failure import Failure
from targets.ondevice_errors import from_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.benchmarking.devicebuild import BuiltThere
    from pipeline.benchmarking.deviceplacement import PlacedThere
    from pipeline.benchmarking.request import Entrant, Standing
    from targets.devices.base import Session

MAX_SAMPLES: Final = 64
_TOLD: Final = ("weights_bytes", "subnormal_weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """One engine, ready to be sent.

    Attributes:
        name: Its name in the campaign.
        build: What it is.
        folder: Its folder on the device.
        samples: Its samples, at most 64, here.
        samples_name: Their name on the device.
        samples_sha256: Of that file.
        n_distinct: How many samples there are.
        expected: What it must give, here; None compares nothing.
        expected_name: Its name on the device.
        expected_sha256: Of that file.
        built: What the device made of it, where it is built there; ``build.sha256`` is then that engine's.
        placed: Where its nodes run there, where only the device can know.
        standing: As in `Entrant`.
    """

    name: str
    build: EngineBuild
    folder: str
    samples: Path
    samples_name: str
    samples_sha256: str
    n_distinct: int
    expected: Path | None
    expected_name: str | None
    expected_sha256: str | None
    built: BuiltThere | None = None
    placed: PlacedThere | None = None
    standing: Standing | None = None

    def identity(self) -> dict[str, Any]:
        """What makes this entrant the one it is: contents, no paths."""
        return {
            "name": self.name,
            "engine": self.build.to_json(),
            "samples": self.samples_sha256,
            "expected": self.expected_sha256,
            "standing": None if self.standing is None else asdict(self.standing),
        }


def engine_folder(index: int) -> str:
    """Where the engine with that number lies on the device."""
    return f"engines/{index}"


def prepare(entrants: Sequence[Entrant], scratch: Path) -> tuple[Staged, ...]:
    """Reads and checks all that will be sent; samples are cut to 64 and written anew into ``scratch``.

    Raises:
        InputError: An engine folder, samples or expected outputs cannot be read.
        RefusedError: An engine file is not the one that its engine.json names.
    """
    return tuple(_prepare(index, entrant, scratch) for index, entrant in enumerate(entrants))


def _prepare(index: int, entrant: Entrant, scratch: Path) -> Staged:
    build = EngineBuild.read(entrant.folder)
    _check_engine(build)
    samples = scratch / f"samples-{index}.npz"
    n_distinct = _cut(entrant.samples, samples)
    digest = sha256_file(samples)
    expected_sha256 = None if entrant.expected is None else _hash_of(entrant.expected)
    return Staged(
        name=entrant.name,
        build=build,
        folder=engine_folder(index),
        samples=samples,
        samples_name=f"samples-{digest[:16]}.npz",
        samples_sha256=digest,
        n_distinct=n_distinct,
        expected=entrant.expected,
        expected_name=None if expected_sha256 is None else f"expected-{expected_sha256[:16]}.npz",
        expected_sha256=expected_sha256,
        standing=entrant.standing,
    )


def _check_engine(build: EngineBuild) -> None:
    for name, digest in {build.file: build.sha256, **build.files}.items():
        found = _hash_of(build.folder / name)
        if found != digest:
            raise RefusedError(
                f"the engine file {name} is not the one that was built",
                f"its sha256 is {found}, engine.json says {digest}",
                "build the engine again, or copy the bundle again",
            )


def _hash_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise InputError(f"cannot read {path}", str(error), "give the path of a file that can be read") from error


def _cut(source: Path, target: Path) -> int:
    """Writes the first 64 samples under the inputs' names; returns how many there are."""
    try:
        arrays = {name: array[:MAX_SAMPLES] for name, array in read_inputs(str(source)).items()}
        with disk_guard("preparing the samples", path=target.parent):
            write_arrays(str(target), arrays)
    except Failure as failure:
        raise from_failure(failure) from failure
    return min(len(array) for array in arrays.values())


def send_samples(staged: Sequence[Staged], session: Session) -> None:
    """Sends samples and expected outputs; what several engines share goes once.

    Raises:
        DeviceLost: The device stopped answering.
        EnvironmentFailure: The device has no room for it.
    """
    sent = set()
    for item in staged:
        for source, name in ((item.samples, item.samples_name), (item.expected, item.expected_name)):
            if source is not None and name is not None and name not in sent:
                session.put(source, name)
                sent.add(name)


def describe(staged: Staged) -> dict[str, Any]:
    """What benchmark.json says of an engine.

    Raises:
        InputError: There is no valid inspect.json.
    """
    build, placed, inspection = staged.build, staged.placed, inspection_of(staged.build)
    return {
        "sha256": build.sha256,
        "format": build.engine,
        "bytes": (build.folder / build.file).stat().st_size,
        "precision": build.precision,
        "runtime": build.runtime,
        "runtime_version": build.runtime_version,
        "options": dict(build.options),
        "input_shapes": {port.name: list(port.shape) for port in build.inputs},
        "dtypes": {port.name: port.dtype for port in build.inputs},
        "placement": inspection["providers"] if placed is None else dict(placed.nodes),
        "inputs_sha256": staged.samples_sha256,
        "expected_sha256": staged.expected_sha256,
        **{key: inspection[key] for key in _TOLD},
        **({} if staged.built is None else {"built_on_device": staged.built.to_json()}),
        **({} if placed is None else {"placed_on_device": placed.to_json()}),
    }


def inspection_of(build: EngineBuild) -> Mapping[str, Any]:
    """The content of an engine's inspect.json.

    Raises:
        InputError: There is none, or it is not valid.
    """
    try:
        inspection: dict[str, Any] = json.loads((build.folder / INSPECT_JSON).read_text(encoding="utf-8"))
        for key in (*_TOLD, "providers"):
            inspection[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{build.folder} was not inspected", f"{INSPECT_JSON}: {error!r}", "give the folder of a built engine"
        ) from error
    return inspection
