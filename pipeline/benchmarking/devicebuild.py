"""Puts engines onto a device, and has those made there that hold for one device only; what was made is judged."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from pipeline.benchmarking.deviceplacement import NotPlacedThere, placed_there
from targets.engines.base import ENGINE_JSON
from targets.engines.inspection import Inspection, asked_in, check_precision
from targets.errors import DeviceError, DeviceLost, InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pipeline.benchmarking.staging import Staged
    from targets.devices.base import Session
    from targets.engines.base import EngineBuild

BUILD_TIMEOUT_S: Final = 3600.0
"""Builders time many kernels, and boards are slow."""

_SHA256_DIGITS: Final = 64
_FIX: Final = "check that the device is sound and runs the program that was sent to it, then run the same command again"
_FIELDS: Final = frozenset(field.name for field in fields(Inspection))


@final
class NotBuiltThere(DeviceError):
    """The device cannot build this engine, or built something else than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltThere:
    """An engine as the device made it.

    Attributes:
        sha256: Of the engine file there.
        size_bytes: Its size.
        build_s: How long that took.
        runtime_version: Of the runtime that built it.
        inspection: What was built, `Inspection` as plain data.
        warnings: What is not as it was asked for.
    """

    sha256: str
    size_bytes: int
    build_s: float
    runtime_version: str
    inspection: Mapping[str, Any]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What benchmark.json says of it."""
        return {
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "build_s": self.build_s,
            "runtime_version": self.runtime_version,
            "inspection": dict(self.inspection),
            "warnings": list(self.warnings),
        }


Made = dict[tuple[str, str], "BuiltThere | NotBuiltThere"]
"""What a device made, or could not make, in this session: by folder there and hash of what was sent."""


def put_engine(build: EngineBuild, folder: str, session: Session, made: Made | None = None) -> BuiltThere | None:
    """Sends an engine to the relative path ``folder`` on the device, and builds it there where that must be.

    Args:
        build: The engine.
        folder: Where it goes.
        session: The device.
        made: What was made in this session before: that is not built again, and what is made is noted.

    Returns:
        What the device made; None where the engine was sent as it runs.

    Raises:
        NotBuiltThere: The device cannot build it, or built something else than was asked for.
        DeviceError: It gives no valid answer.
        DeviceLost: It stopped answering.
        EnvironmentFailure: It has no room.
    """
    for name in (ENGINE_JSON, build.file, *build.files):
        session.put(build.folder / name, f"{folder}/{name}")
    if not build.build_on_device:
        return None
    made = {} if made is None else made
    key = (folder, build.sha256)
    if key not in made:
        try:
            made[key] = _made(build, folder, session)
        except NotBuiltThere as error:
            made[key] = error
    found = made[key]
    if isinstance(found, NotBuiltThere):
        raise found
    return found


def _made(build: EngineBuild, folder: str, session: Session) -> BuiltThere:
    try:
        answer = session.run(["build", folder], timeout_s=BUILD_TIMEOUT_S).result
    except DeviceLost:
        raise
    except (DeviceError, InputError) as error:
        raise NotBuiltThere(error.what, error.why, error.fix) from error
    return _built(build, answer)


def send_engines(
    staged: Sequence[Staged], session: Session, required: Collection[str] | None, made: Made | None = None
) -> tuple[tuple[Staged, ...], dict[str, dict[str, str]]]:
    """Sends all engines, builds there what must be, and has nodes counted that only the device can place.

    Args:
        staged: The engines.
        session: The device.
        required: Names of those without which nothing is to be measured; None for all.
        made: As for `put_engine`.

    Returns:
        Those that are ready, with what the device made of them; and why the others are not: what, why, fix by name.

    Raises:
        InputError: An engine was not inspected.
        DeviceError: A required one cannot be built or placed there, or none can; or the device was lost.
    """
    ready, failed = [], dict[str, DeviceError]()
    for item in staged:
        try:
            built = put_engine(item.build, item.folder, session, made)
            placed = placed_there(item, session)
        except (NotBuiltThere, NotPlacedThere) as error:
            if required is None or item.name in required:
                raise
            failed[item.name] = error
            continue
        if built is not None:
            there = replace(item.build, sha256=built.sha256, runtime_version=built.runtime_version)
            item = replace(item, build=there, built=built)  # noqa: PLW2901 - the same engine, as it is now
        ready.append(replace(item, placed=placed))
    if not ready:
        raise next(iter(failed.values()))
    return tuple(ready), {name: {"what": e.what, "why": e.why, "fix": e.fix} for name, e in failed.items()}


def _built(build: EngineBuild, answer: Mapping[str, Any]) -> BuiltThere:
    digest, size, took = answer.get("sha256"), answer.get("bytes"), answer.get("build_ns")
    wrong = [
        key
        for key, right in {
            "sha256": isinstance(digest, str) and len(digest) == _SHA256_DIGITS,
            "bytes": _is_count(size),
            "build_ns": _is_count(took),
            "version": isinstance(answer.get("version"), str),
            "inspection": isinstance(answer.get("inspection"), dict),
        }.items()
        if not right
    ]
    if wrong:
        raise _not_valid(", ".join(wrong))
    found, warnings = _judged(build, answer["inspection"])
    return BuiltThere(
        sha256=str(digest),
        size_bytes=int(str(size)),
        build_s=round(int(str(took)) / 1e9, 3),
        runtime_version=str(answer["version"]),
        inspection=found,
        warnings=warnings,
    )


def _judged(build: EngineBuild, data: Mapping[str, Any]) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The device's inspection and what is not as asked in it, held to the same rule as a build on this machine."""
    known: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in _FIELDS
    }
    try:
        own = {"requested_precision": build.precision, "asked": asked_in(build.folder)}
        inspection = Inspection(**(known | own))
        found = (*inspection.warnings, *check_precision(Path(build.file), inspection))
        found = tuple(dict.fromkeys(str(line) for line in found))
    except InputError as error:
        what = f"the engine that the device built is not what was asked for: {error.what}"
        raise NotBuiltThere(what, error.why, error.fix) from error
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise _not_valid(f"inspection: {str(error)[:200]}") from error
    return inspection.to_json(), found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _not_valid(wrong: str) -> DeviceError:
    return DeviceError("the device gave no valid answer", f"build: {wrong} missing or wrong", _FIX)
