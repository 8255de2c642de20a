"""One campaign: all engines interleaved in blocks on one device, a fresh process each, within a budget of time."""

from __future__ import annotations

import datetime as dt
import gzip
import json
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.analysis import analyse, precise_enough
from targets.engines.base import INSPECT_JSON, EngineBuild
from targets.errors import EnvironmentFailure, InputError
from targets.files import disk_guard, sha256_file, write_atomic
from targets.ondevice.arrays import read_inputs, write_arrays
from targets.ondevice.failure import Failure
from targets.ondevice_errors import from_failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from targets.devices.base import Device, DeviceFacts

LOOKS: Final = (7, 10, 15, 20, 30)  # the interval is looked at only then; more looks would narrow it falsely
MIN_BLOCKS: Final = 3
TARGET_HALF_WIDTH: Final = 0.01
MAX_SAMPLES: Final = 64
_START_S: Final = 0.6  # a process of the device program apart from warm-up and timed loop, before one was seen
_WARMUP_S: Final = (0.15, 0.5)
_TIMED_S: Final = (0.3, 1.5)
_WARMUP_SHARE: Final = 0.25
_QUIET_PRESSURE: Final = 5.0
_QUIET_LOAD: Final = 0.3
_QUIET_WAIT_S: Final = 5.0
_PROCESS_TIMEOUT_S: Final = 120.0
_NOTHING: Final[Mapping[str, Path]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a campaign is doing: which engine of which block, and how much of the budget is used."""

    block: int
    engine: str
    elapsed_s: float
    budget_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    warmup_s: float
    timed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sitting:
    """What stays the same in a campaign."""

    folder: Path
    names: tuple[str, ...]
    builds: tuple[EngineBuild, ...]
    expected: frozenset[str]
    device: Device
    lengths: _Lengths
    begin_s: float
    budget_s: float
    on_progress: Callable[[Progress], None]

    def elapsed_s(self) -> float:
        return time.monotonic() - self.begin_s


def run_campaign(
    engines: Mapping[str, Path],
    samples: Path,
    device: Device,
    *,
    budget_s: float,
    seed: int,
    expected: Mapping[str, Path] = _NOTHING,
    noise_ratio: float = 0.0,
    raw_path: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures all engines on one device and compares them.

    It stops at 7, 10, 15, 20 or 30 blocks when every engine's 95 % interval is within 1 %, or when the budget is used;
    it never runs longer than the budget and one process.

    Args:
        engines: Engine folders by name; each engine is compared with those before it.
        samples: An .npz of real preprocessed samples, named like the inputs (or ``input.<name>``).
        device: Where to measure.
        budget_s: Wall-clock time for everything.
        seed: Of the random order of engines in a block.
        expected: For some engines, an .npz of the outputs (``output.<name>``) that they must give for the samples.
        noise_ratio: How much an engine differed from itself on this device (A/A), when known.
        raw_path: Where to write all samples (``.json.gz``, delta-coded); None keeps only their summaries.
        on_progress: Called before each process.

    Returns:
        The content of ``benchmark.json``.

    Raises:
        InputError: There is no engine, or the samples do not fit.
        EnvironmentFailure: The budget does not even cover one block.
        DeviceError: The device was lost or gave garbage.
    """
    if not engines or budget_s <= 0:
        raise InputError(
            "there is nothing to measure",
            f"{len(engines)} engines, budget {budget_s} s",
            "give engines and a budget_s > 0",
        )
    begin = time.monotonic()
    started = dt.datetime.now(dt.UTC)
    builds = tuple(EngineBuild.read(folder) for folder in engines.values())
    facts, quiet = _wait_for_quiet(device, min(_QUIET_WAIT_S, budget_s / 8))
    with tempfile.TemporaryDirectory(prefix="edgepress-") as folder, disk_guard("preparing the benchmark"):
        sitting = _Sitting(
            folder=Path(folder),
            names=tuple(engines),
            builds=builds,
            expected=frozenset(expected),
            device=device,
            lengths=_lengths(budget_s - (time.monotonic() - begin), len(engines), facts.wall_s),
            begin_s=begin,
            budget_s=budget_s,
            on_progress=on_progress,
        )
        n_distinct = _stage(sitting, samples, expected)
        inputs_sha256 = sha256_file(sitting.folder / "samples.npz")
        runs, order, stop = _blocks(sitting, random.Random(seed))  # noqa: S311 - an order, not a secret
    complete = len(order)
    if not complete:
        raise EnvironmentFailure(
            f"the benchmark budget of {budget_s:g} s does not cover one block",
            f"{len(runs)} of {len(engines)} engines were measured in {time.monotonic() - begin:.1f} s",
            "raise budget_s in the recipe's [benchmark]",
        )
    if raw_path is not None:
        write_raw(runs, raw_path)
    rows = [{key: value for key, value in run.items() if key != "raw"} for run in runs]
    described = {name: _describe(build) for name, build in zip(sitting.names, builds, strict=True)}
    kept = [run for run in runs if run["block"] < complete]
    return {
        "schema_version": 1,
        "campaign": {
            "utc_start": started.isoformat(timespec="seconds"),
            "wall_s": round(time.monotonic() - begin, 3),
            "budget_s": budget_s,
            "seed": seed,
            "blocks": complete,
            "order": order,
            "stop": stop,
            "quiet_at_start": quiet,
            "target_half_width_ratio": TARGET_HALF_WIDTH,
            "warmup_s": sitting.lengths.warmup_s,
            "timed_s": sitting.lengths.timed_s,
        },
        "device": dict(facts.raw),
        "engines": described,
        "scenario": {"kind": "latency", "batch": 1, "concurrency": 1, "period_ns": None, "affinity": "default"},
        "inputs": {"source": "real", "n_distinct": n_distinct, "sha256": inputs_sha256},
        "runs": rows,
        **analyse(
            {name: [run for run in kept if run["engine"] == name] for name in sitting.names},
            described,
            facts.raw,
            noise_ratio=noise_ratio,
            quiet=quiet,
        ),
    }


def write_raw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """All samples as gzipped JSON: one list of nanoseconds a run, each number the difference to the one before."""
    rows = [
        {
            "engine": run["engine"],
            "block": run["block"],
            "inner_loops": run["inner_loops"],
            "delta_ns": [now - before for before, now in zip([0, *run["raw"][:-1]], run["raw"], strict=True)],
        }
        for run in runs
    ]
    write_atomic(path, gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), mtime=0))


def _lengths(left_s: float, engines: int, start_s: float) -> _Lengths:
    """Warm-up and timed length of a process so that seven blocks fit into the time left, within fixed limits."""
    process = 0.9 * left_s / (engines * LOOKS[0]) - max(_START_S, start_s + 0.2)
    return _Lengths(
        warmup_s=round(_clamp(process * _WARMUP_SHARE, *_WARMUP_S), 3),
        timed_s=round(_clamp(process * (1 - _WARMUP_SHARE), *_TIMED_S), 3),
    )


def _clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _wait_for_quiet(device: Device, patience_s: float) -> tuple[DeviceFacts, bool]:
    """The device's facts once nothing else uses its CPU, or after ``patience_s``; and whether it was quiet."""
    begin = time.monotonic()
    while True:
        facts = device.facts()
        pressure, load = facts.raw.get("psi_cpu_some_avg10"), facts.raw.get("loadavg_1min")
        if pressure is not None:
            quiet = pressure < _QUIET_PRESSURE
        else:
            quiet = load is not None and load < _QUIET_LOAD * (facts.cores or 1)
        if quiet or time.monotonic() - begin + 1.0 > patience_s:
            return facts, quiet
        time.sleep(0.5)


def _stage(sitting: _Sitting, samples: Path, expected: Mapping[str, Path]) -> int:
    """Lays engines, samples and expected outputs out in the working folder; returns the number of distinct samples."""
    try:
        arrays = {name: array[:MAX_SAMPLES] for name, array in read_inputs(str(samples)).items()}
        write_arrays(str(sitting.folder / "samples.npz"), arrays)
    except Failure as failure:
        raise from_failure(failure) from failure
    for index, (name, build) in enumerate(zip(sitting.names, sitting.builds, strict=True)):
        folder = sitting.folder / "engines" / str(index)
        folder.mkdir(parents=True)
        shutil.copyfile(build.folder / build.file, folder / build.file)
        shutil.copyfile(build.folder / "engine.json", folder / "engine.json")
        if name in expected:
            shutil.copyfile(expected[name], folder / "expected.npz")
    return min(len(array) for array in arrays.values())


def _blocks(sitting: _Sitting, rng: random.Random) -> tuple[list[dict[str, Any]], list[list[str]], str]:
    """All runs, the order of each complete block, and why the campaign stopped."""
    runs: list[dict[str, Any]] = []
    order: list[list[str]] = []
    indices = list(range(len(sitting.names)))
    while len(order) < LOOKS[-1]:
        block, block_begin = len(order), sitting.elapsed_s()
        if block % 2 == 0:
            rng.shuffle(indices)
        else:
            indices.reverse()  # balanced: what came first comes last
        for position, index in enumerate(indices):
            if sitting.elapsed_s() >= sitting.budget_s:
                return runs, order, "budget"
            runs.append(_run(sitting, index, block, position))
        order.append([sitting.names[index] for index in indices])
        if len(order) in LOOKS and precise_enough(runs, sitting.names, TARGET_HALF_WIDTH):
            return runs, order, "interval"
        length = sitting.elapsed_s() - block_begin
        if len(order) >= MIN_BLOCKS and sitting.elapsed_s() + length > sitting.budget_s:
            return runs, order, "budget"
    return runs, order, "blocks"


def _run(sitting: _Sitting, index: int, block: int, position: int) -> dict[str, Any]:
    name, build, lengths = sitting.names[index], sitting.builds[index], sitting.lengths
    sitting.on_progress(Progress(block=block, engine=name, elapsed_s=sitting.elapsed_s(), budget_s=sitting.budget_s))
    command = [
        "measure", f"engines/{index}", "--samples", "samples.npz", "--engine-sha256", build.sha256,
        "--warmup-s", str(lengths.warmup_s), "--min-s", str(lengths.timed_s), "--cap-s", str(4 * lengths.timed_s),
        "--min-iterations", "100" if lengths.timed_s >= _TIMED_S[1] else "50",
    ]  # fmt: skip
    if name in sitting.expected:
        command += ["--expected", f"engines/{index}/expected.npz"]
    answer = sitting.device.run(sitting.folder, command, timeout_s=_PROCESS_TIMEOUT_S)
    return {"engine": name, "block": block, "order": position, "wall_s": round(answer.wall_s, 4), **answer.result}


def _describe(build: EngineBuild) -> dict[str, Any]:
    inspection = json.loads((build.folder / INSPECT_JSON).read_text(encoding="utf-8"))
    return {
        "sha256": build.sha256,
        "format": "onnx",
        "bytes": (build.folder / build.file).stat().st_size,
        "precision": build.precision,
        "runtime": build.runtime,
        "runtime_version": build.runtime_version,
        "options": dict(build.options),
        "placement": inspection["providers"],
        "weights_bytes": inspection["weights_bytes"],
        "subnormal_weights": inspection["subnormal_weights"],
    }
