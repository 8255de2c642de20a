"""What a device can do: peaks, bandwidth and dispatch cost out of the probes' times, remembered for 30 days."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from targets.errors import DeviceError
from targets.files import disk_guard, sha256_bytes, write_atomic

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = 1
VALID_S: Final = 30 * 24 * 3600
NOISY_RATIO: Final = 0.9
LEVELS: Final = ("l2", "llc", "memory")
DISPATCH: Final = "dispatch"


class Timed(Protocol):
    """What is to be known of a probe to read its time."""

    @property
    def name(self) -> str:
        """Unique."""
        ...

    @property
    def kind(self) -> str:
        """What it shows."""
        ...

    @property
    def operations(self) -> int:
        """Of one run, or nodes of a chain."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a device can do with one runtime, number of threads and set of CPUs.

    Attributes:
        id: Of device, runtime version, threads and affinity.
        runtime_version: Of the runtime on the device.
        threads: Of the runtime.
        affinity: The CPUs used, as asked for.
        peaks: Kind to operations a second: the best run of the best size.
        bandwidth: Level to bytes a second: one read and one write of every byte copied.
        caches: ``l2`` and ``llc`` in bytes, and whether they are ``assumed``.
        dispatch_ns: What one more node costs, by the slope over chains of empty nodes.
        steadiness_ratio: The worst ratio of a peak's median speed to its best.
        noisy: That ratio is below 0.9: something else ran on the device, or it changed its clock.
        skipped: Probes without an answer, and why.
        utc_s: When, in seconds since 1970.
    """

    id: str
    runtime_version: str
    threads: int
    affinity: str
    peaks: Mapping[str, float]
    bandwidth: Mapping[str, float]
    caches: Mapping[str, Any]
    dispatch_ns: float
    steadiness_ratio: float
    noisy: bool
    skipped: Mapping[str, str]
    utc_s: float

    def to_json(self) -> dict[str, Any]:
        """The document that is remembered and reported."""
        return {"schema": SCHEMA, **asdict(self)}


def calibration_id(fingerprint: str, runtime_version: str, options: Mapping[str, object], affinity: str) -> str:
    """What a calibration holds for: 16 hex digits."""
    parts = [SCHEMA, fingerprint, runtime_version, affinity]
    parts += [options.get(name) for name in ("threads", "providers", "allow_spinning")]
    return sha256_bytes(json.dumps(parts).encode())[:16]


def evaluate(
    probes: Sequence[Timed],
    answer: Mapping[str, Any],
    *,
    identity: str,
    affinity: str,
    threads: int,
    utc_s: float,
) -> Calibration:
    """Peaks, bandwidth and dispatch cost from the times that a device reported.

    Raises:
        DeviceError: A time is missing, not positive or not a number, or there are too few for the dispatch cost.
    """
    try:
        times = {str(name): (float(row["best_ns"]), float(row["median_ns"])) for name, row in answer["probes"].items()}
        copies = {
            level: (float(answer["copies"][level]["bytes"]), float(answer["copies"][level]["best_ns"]))
            for level in LEVELS
        }
        caches = {
            **{key: int(answer["caches"][key]) for key in ("l2", "llc")},
            "assumed": bool(answer["caches"]["assumed"]),
        }
        numbers = [value for pair in (*times.values(), *copies.values()) for value in pair]
        if not all(math.isfinite(value) and value > 0 for value in (*numbers, caches["l2"], caches["llc"])):
            raise ValueError("a time or size is not positive")  # noqa: TRY301 - told like the others
        best: dict[str, tuple[float, float]] = {}
        for probe in probes:
            if probe.kind != DISPATCH and probe.name in times:
                fastest, median = times[probe.name]
                best[probe.kind] = max(
                    best.get(probe.kind, (0.0, 0.0)), (probe.operations / fastest * 1e9, fastest / median)
                )
        chains = [(probe.operations, times[probe.name][0]) for probe in probes if probe.kind == DISPATCH]
        steadiness = min(ratio for _, ratio in best.values())
        return Calibration(
            id=identity,
            runtime_version=str(answer["runtime_version"]),
            threads=threads,
            affinity=affinity,
            peaks={kind: rate for kind, (rate, _) in sorted(best.items())},
            bandwidth={level: moved / nanoseconds * 1e9 for level, (moved, nanoseconds) in copies.items()},
            caches=caches,
            dispatch_ns=slope(chains),
            steadiness_ratio=steadiness,
            noisy=steadiness < NOISY_RATIO,
            skipped={str(name): str(why) for name, why in answer.get("skipped", {}).items()},
            utc_s=utc_s,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DeviceError(
            "the device's calibration is not usable",
            f"{type(error).__name__}: {error}",
            "run the same command again when nothing else runs on the device",
        ) from error


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Least-squares slope of ``(nodes, nanoseconds)``, not below zero.

    Raises:
        ValueError: Fewer than two different numbers of nodes.
    """
    if len({x for x, _ in points}) < 2:  # noqa: PLR2004 - a slope needs two
        raise ValueError("a slope needs two lengths")
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return max(0.0, sum((x - mean_x) * (y - mean_y) for x, y in points) / spread)


def calibration_path(state: Path, identity: str) -> Path:
    """Where a calibration is remembered."""
    return state / "devices" / f"roofline-{identity}.json"


def read_calibration(state: Path, identity: str, now_s: float) -> Calibration | None:
    """What is remembered, None where there is nothing, it is over 30 days old, from the future, or cannot be read."""
    try:
        document = json.loads(calibration_path(state, identity).read_text(encoding="utf-8"))
        if document.pop("schema") != SCHEMA or document["id"] != identity:
            return None
        found = Calibration(**document)
        rates = [*found.peaks.values(), *found.bandwidth.values()]
        usable = all(rate > 0 for rate in rates) and found.dispatch_ns >= 0 and set(found.bandwidth) == set(LEVELS)
        return found if usable and 0 <= now_s - found.utc_s <= VALID_S else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_calibration(state: Path, calibration: Calibration) -> None:
    """Remembers it, whole or not at all.

    Raises:
        EnvironmentFailure: The disk is full, or the folder is not writable.
    """
    path = calibration_path(state, calibration.id)
    with disk_guard(f"making {path.parent}", path=state):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, json.dumps(calibration.to_json(), indent=1, sort_keys=True).encode(), 0o600)
