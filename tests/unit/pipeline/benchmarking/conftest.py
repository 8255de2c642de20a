"""A synthetic device with its own clock: engines of known latency, disturbances on demand, no wall clock anywhere."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest

from pipeline.benchmarking import blocks, campaign, preflight
from pipeline.benchmarking.campaign import Entrant
from targets.devices.base import Device, RawAnswer, Session
from targets.engines.base import EngineBuild, Port, json_bytes
from targets.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

FACTS = {"fingerprint": "f", "arch": "x86_64", "usable_cores": 2, "psi_cpu_some_avg10": 0.0, "virtualised": False}
SENTINEL = {"repeats": 4, "wall_ns": 100_000_000, "cpu_ns": 100_000_000}


class Time:
    """Stands in for the module `time`; only the device and sleeping let it pass."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@final
class Synthetic(Device):
    """Engines of known latency; each process costs 0.5 s beside warm-up and timed loop.

    ``median_ns(name, block)`` gives the latency, ``changes`` replace fields of a row (a value, or a function of name
    and block); the block is the number of passes that were finished, so that interruptions change nothing.
    """

    name = "synthetic"
    kind = "local"

    def __init__(self, time: Time, median_ns: Callable[[str, int], float], /, **changes: object) -> None:
        self._time, self._median_ns, self._changes = time, median_ns, changes
        self.facts_raw: dict[str, Any] = dict(FACTS)
        self.measured: list[str] = []
        self.commands: list[list[str]] = []
        self.files: set[str] = set()
        self.finished = 0
        self.names: dict[str, str] = {}
        self.before: Callable[[list[str]], None] = lambda command: None
        self.builds: dict[str, dict[str, Any]] = {}  # by folder: a result of build or placement, or an error

    @contextlib.contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        yield _SyntheticSession(self)

    def answer(self, command: Sequence[str]) -> RawAnswer:
        self.before(list(command))
        self._time.now_s += 0.3
        result: dict[str, Any] = {"facts": self.facts_raw, "sentinel": SENTINEL}.get(command[0], {})
        if command[0] == "measure":
            result = self._measure(command)
        nonce = command[command.index("--nonce") + 1]
        answer = {"command": command[0], "nonce": nonce, "result": result}
        if command[0] in {"build", "placement"}:
            answer |= self.builds[command[1]]
        code = 6 if "error" in answer else 0
        return RawAnswer(returncode=code, stdout=json.dumps(answer).encode(), stderr=b"", wall_s=0.3)

    def _measure(self, command: Sequence[str]) -> dict[str, Any]:
        options = dict(zip(command[2::2], command[3::2], strict=False))
        assert {f"{command[1]}/engine.json", options["--samples"]} <= self.files
        name = self.names[options["--engine-sha256"]]
        self.commands.append(list(command))
        self._time.now_s += 0.2 + float(options.get("--warmup-s", 0)) + float(options.get("--min-s", 0))
        self._time.now_s += float(options.get("--duration-s", 0))
        row = self._row(name, options)
        self.measured.append(name)
        self.finished += "after" in options.get("--sentinel", "")
        return row

    def _row(self, name: str, options: dict[str, str]) -> dict[str, Any]:
        median, n = int(self._median_ns(name, self.finished)), 100
        when = options.get("--sentinel", "").split(",")
        at = {"wall_ns": SENTINEL["wall_ns"], "cpu_ns": SENTINEL["cpu_ns"]}
        row = {
            "pid": 1, "load_ns": 5 * median, "first_ns": 2 * median, "warmup_n": 10, "warmup_median_ns": median, "n": n,
            "inner_loops": 1, "of_batches": False, "median_ns": median, "p90_ns": median, "p95_ns": median,
            "p99_ns": median, "min_ns": median, "max_ns": median, "mean_ns": median, "mad_ns": median // 100,
            "iqr_ns": median // 50, "rho1": 0.0, "outliers": {"mild": 0, "severe": 0}, "loop_wall_ns": n * median,
            "cpu_ns": n * median, "overhead_ns": 100, "samples_sum_ns": n * median, "invol_ctx": 0, "steal_ticks": 0,
            "psi_before": 0.0, "psi_after": 0.0, "minor_faults": 0, "major_faults": 0, "swap_bytes": 0,
            "n_distinct": 20, "outputs_sha256": name, "outputs_ok": None, "raw": [median] * n, "affinity": None,
            "engine_sha256": options["--engine-sha256"], "runtime_version": "1", "import_ns": 1, "telemetry": None,
            "scenario": options["--scenario"], "providers": ["CPUExecutionProvider"],
            "sentinel": {key: at if key in when else None for key in ("before", "after")},
            "mem": {"base_rss": 1, "load_peak": 2, "run_peak": 3, "steady_pss": 4, "steady_uss": None,
                    "peaks_split": True},
        }  # fmt: skip
        for key, change in self._changes.items():
            row[key] = change(name, self.finished) if callable(change) else change
        return row


@final
class _SyntheticSession(Session):
    name = "synthetic"

    def __init__(self, device: Synthetic) -> None:
        self._device = device

    def _put(self, source: Path, name: str) -> None:
        self._device.files.add(name)

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        return self._device.answer(command)

    def _fetch(self, name: str, target: Path) -> None:
        raise AssertionError("a campaign fetches nothing")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The time of campaign and device."""
    fake = Time()
    for module in (blocks, campaign, preflight):
        monkeypatch.setattr(module, "time", fake)
    return fake


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Twenty samples for the engines."""
    np.savez(tmp_path / "samples.npz", x=np.zeros((20, 3), np.float32))
    return tmp_path / "samples.npz"


@pytest.fixture
def entrants(tmp_path: Path, samples: Path) -> list[Entrant]:
    """Two engine folders, fp32 and int8."""
    return [_entrant(tmp_path / name, name, samples) for name in ("fp32", "int8")]


def _entrant(folder: Path, name: str, samples: Path) -> Entrant:
    folder.mkdir()
    (folder / "engine.onnx").write_bytes(name.encode())
    EngineBuild(
        folder=folder, engine="onnxruntime", file="engine.onnx", runtime="onnxruntime", runtime_version="1",
        precision="fp32", options={"threads": 1, "name": name}, sha256=sha256_file(folder / "engine.onnx"),
        inputs=(Port(name="x", dtype="float32", shape=("batch", 3)),),
        outputs=(Port(name="y", dtype="float32", shape=("batch", 2)),),
    ).write()  # fmt: skip
    facts = {"providers": {"CPUExecutionProvider": 3}, "weights_bytes": 4, "subnormal_weights": 0}
    (folder / "inspect.json").write_bytes(json_bytes(facts))
    return Entrant(name=name, folder=folder, samples=samples)


@pytest.fixture
def synthetic(clock: Time, entrants: list[Entrant]) -> Callable[..., Synthetic]:
    """Makes a synthetic device: ``synthetic(median_ns, **changes)``, by default steady engines of 2 and 1 ms."""

    def make(median_ns: Callable[[str, int], float] | None = None, /, **changes: object) -> Synthetic:
        device = Synthetic(clock, median_ns or steady, **changes)
        device.names = {EngineBuild.read(entrant.folder).sha256: entrant.name for entrant in entrants}
        return device

    return make


def steady(name: str, block: int) -> float:
    """Two engines, 2 and 1 ms, that hardly vary."""
    return {"fp32": 2e6, "int8": 1e6}[name] * (1 + 0.001 * (block % 3))
