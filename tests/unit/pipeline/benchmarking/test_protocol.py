"""The campaign against a synthetic device with its own clock: order, stop, budget, honesty."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any, final

import numpy as np
import pytest

from pipeline.benchmarking import protocol
from pipeline.benchmarking.analysis import find_comparison
from pipeline.benchmarking.protocol import run_campaign
from targets.devices.base import Device, RawAnswer
from targets.engines.base import EngineBuild, Port, json_bytes
from targets.errors import DeviceError, EnvironmentFailure, InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FACTS = {"fingerprint": "f", "arch": "x86_64", "usable_cores": 2, "psi_cpu_some_avg10": 0.0, "virtualised": False}


class _Time:
    """Stands in for the module `time`; only the device and sleeping let it pass."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@final
class _Synthetic(Device):
    """Engines of known latency; each process costs 0.5 s beside warm-up and timed loop."""

    kind = "synthetic"

    def __init__(self, time: _Time, median_ns: Callable[[str, int], float], **changes: object) -> None:
        self._time, self._median_ns, self._changes = time, median_ns, changes
        self.facts_raw = dict(FACTS)
        self.measured: list[str] = []

    def _run(self, folder: Path | None, command: Sequence[str], timeout_s: float) -> RawAnswer:
        options = dict(zip(command[2::2], command[3::2], strict=False))
        result: dict[str, Any] = self.facts_raw
        self._time.now_s += 0.3
        if command[0] == "measure":
            assert folder is not None
            spec = json.loads((folder / command[1] / "engine.json").read_text())
            assert spec["sha256"] == options["--engine-sha256"]
            name = spec["options"]["name"]
            self._time.now_s += 0.2 + float(options["--warmup-s"]) + float(options["--min-s"])
            result = self._measured(name, self.measured.count(name))
            self.measured.append(name)
        nonce = command[command.index("--nonce") + 1]
        document = {"command": command[0], "nonce": nonce, "result": result}
        return RawAnswer(returncode=0, stdout=json.dumps(document).encode(), stderr=b"", wall_s=0.3)

    def _measured(self, name: str, process: int) -> dict[str, Any]:
        median = int(self._median_ns(name, process))
        n = 200
        run = {
            "pid": 1, "load_ns": 5 * median, "first_ns": 2 * median, "warmup_n": 10, "n": n, "inner_loops": 1,
            "of_batches": False, "median_ns": median, "p90_ns": median, "p95_ns": median, "p99_ns": median,
            "min_ns": median, "max_ns": median, "mean_ns": median, "mad_ns": median // 100, "iqr_ns": median // 50,
            "rho1": 0.0, "drift_ratio": 1.0, "outliers": {"mild": 0, "severe": 0}, "loop_wall_ns": n * median,
            "cpu_ns": n * median, "samples_sum_ns": n * median, "invol_ctx": 0, "psi_before": 0.0, "psi_after": 0.0,
            "n_distinct": 20, "outputs_sha256": name, "outputs_ok": None, "raw": [median] * n,
            "mem": {"base_rss": 1, "load_peak": 2, "run_peak": 3, "steady_pss": 4, "steady_uss": None},
        }  # fmt: skip
        for key, change in self._changes.items():
            run[key] = change(name, process) if callable(change) else change
        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Time:
    fake = _Time()
    monkeypatch.setattr(protocol, "time", fake)
    return fake


@pytest.fixture
def engines(tmp_path: Path) -> dict[str, Path]:
    folders = {}
    for name in ("fp32", "int8"):
        folder = tmp_path / name
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
        folders[name] = folder
    return folders


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", x=np.zeros((20, 3), np.float32))
    return tmp_path / "samples.npz"


def _steady(name: str, process: int) -> float:
    return {"fp32": 2e6, "int8": 1e6}[name] * (1 + 0.001 * (process % 3))


def _noisy(name: str, process: int) -> float:
    return {"fp32": 2e6, "int8": 1e6}[name] * (1 + 0.2 * (process % 3))


def test_it_stops_when_the_interval_is_reached(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """A steady machine needs seven blocks, says that the interval was reached, and gives the verdict."""
    campaign = run_campaign(engines, samples, _Synthetic(clock, _steady), budget_s=1000, seed=1)
    assert campaign["campaign"]["blocks"] == 7
    assert campaign["campaign"]["stop"] == "interval"
    assert campaign["quality"]["grade"] == "A"
    assert campaign["results"]["int8"]["latency_ms"]["value"] == pytest.approx(1.001, rel=1e-3)
    assert campaign["results"]["fp32"]["throughput"]["ips"] == pytest.approx(500, rel=1e-2)
    found = find_comparison(campaign, "int8", "fp32")
    assert found["verdict"] == "faster"
    assert found["ratio"] == pytest.approx(0.5)
    mirrored = find_comparison(campaign, "fp32", "int8")
    assert mirrored["verdict"] == "slower"
    assert mirrored["ratio"] == pytest.approx(2.0)
    json.dumps(campaign, allow_nan=False)


@pytest.mark.parametrize("budget_s", [3.0, 6.0, 20.0, 45.0])
def test_the_budget_holds(clock: _Time, engines: dict[str, Path], samples: Path, budget_s: float) -> None:
    """On a noisy machine the campaign ends within its budget and one process, and says so."""
    begin = clock.now_s
    campaign = run_campaign(engines, samples, _Synthetic(clock, _noisy), budget_s=budget_s, seed=1)
    longest = 0.5 + campaign["campaign"]["warmup_s"] + campaign["campaign"]["timed_s"]
    assert clock.now_s - begin <= budget_s + longest
    assert campaign["campaign"]["stop"] == "budget"
    assert campaign["campaign"]["blocks"] == len(campaign["campaign"]["order"]) >= 1


def test_twenty_seconds_are_enough_for_seven_blocks(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """The lengths of a process are fitted to the budget: 20 s hold the seven blocks of two engines."""
    campaign = run_campaign(engines, samples, _Synthetic(clock, _steady), budget_s=20, seed=1)
    assert campaign["campaign"]["blocks"] == 7
    assert campaign["campaign"]["stop"] == "interval"


def test_few_blocks_give_no_verdict(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """Below three blocks nothing is claimed, however large the difference, and the quality says why."""
    campaign = run_campaign(engines, samples, _Synthetic(clock, _steady), budget_s=3, seed=1)
    assert campaign["campaign"]["blocks"] < 3
    assert campaign["comparison"][0]["verdict"] == "not shown"
    assert any("blocks only" in reason for reason in campaign["quality"]["reasons"])
    assert "W-FEW" in {warning["code"] for warning in campaign["warnings"]}


def test_a_budget_below_one_block_is_an_error(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """Where not even one block fits, there is no result but an error that names the key to change."""
    with pytest.raises(EnvironmentFailure, match="budget_s"):
        run_campaign(engines, samples, _Synthetic(clock, _steady), budget_s=0.5, seed=1)


def test_order_is_random_balanced_and_seeded(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """Every block runs each engine once; each second block reverses the one before; the seed decides."""
    three = {**engines, "again": engines["fp32"]}

    def order(seed: int) -> list[list[str]]:
        campaign = run_campaign(three, samples, _Synthetic(clock, _noisy), budget_s=1000, seed=seed)
        found: list[list[str]] = campaign["campaign"]["order"]
        return found

    first = order(1)
    assert len(first) == protocol.LOOKS[-1]
    assert all(sorted(block) == sorted(three) for block in first)
    assert all(first[i + 1] == first[i][::-1] for i in range(0, len(first), 2))
    assert order(1) == first
    assert order(2) != first
    assert len({tuple(block) for block in first}) > 2


def test_changing_outputs_void_the_engine(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """An engine whose outputs differ between processes gets grade F and no comparison."""
    device = _Synthetic(
        clock, _steady, outputs_sha256=lambda name, process: f"{name}{process if name == 'int8' else 0}"
    )
    campaign = run_campaign(engines, samples, device, budget_s=1000, seed=1)
    assert campaign["quality"]["grade"] == "F"
    assert campaign["comparison"] == []
    assert campaign["results"]["int8"]["outputs_ok"] is False
    with pytest.raises(InputError, match="not compared"):
        find_comparison(campaign, "int8", "fp32")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"invol_ctx": 100}, "W-NOISY-CPU"),
        ({"psi_after": 30.0}, "W-NOISY-CPU"),
        ({"cpu_ns": 10**8}, "W-NOISY-CPU"),
        ({"iqr_ns": 10**6}, "W-DISPERSION"),
        ({"drift_ratio": 0.8}, "W-UNSTEADY"),
        ({"inner_loops": 4}, "W-TIMER"),
        ({"n_distinct": 3}, "W-SAME-INPUT"),
        ({"outputs_ok": False}, "W-OUTPUT"),
        ({"mad_ns": 1}, "W-BETWEEN-PROCESS"),
    ],
)
def test_each_condition_has_its_warning(
    clock: _Time, engines: dict[str, Path], samples: Path, changes: dict[str, Any], code: str
) -> None:
    """A steady campaign has no warning; each disturbance brings the one that names it, with evidence and fix."""
    calm = run_campaign(engines, samples, _Synthetic(clock, _steady), budget_s=1000, seed=1)
    assert calm["warnings"] == []
    campaign = run_campaign(engines, samples, _Synthetic(clock, _steady, **changes), budget_s=1000, seed=1)
    assert {warning["code"] for warning in campaign["warnings"]} == {code}
    assert all(warning["evidence"] and warning["fix"] for warning in campaign["warnings"])
    assert campaign["quality"]["grade"] != "A" or all(w["severity"] == "note" for w in campaign["warnings"])


def test_a_busy_virtual_machine_is_named(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """A device that never gets quiet is waited for a bounded time, measured all the same, and marked."""
    device = _Synthetic(clock, _steady)
    device.facts_raw.update(psi_cpu_some_avg10=60.0, virtualised=True, governor="powersave")
    begin = clock.now_s
    campaign = run_campaign(engines, samples, device, budget_s=1000, seed=1)
    assert campaign["campaign"]["quiet_at_start"] is False
    assert clock.now_s - begin < 100
    assert {"W-VIRTUAL", "W-GOVERNOR"} <= {warning["code"] for warning in campaign["warnings"]}
    assert campaign["quality"]["grade"] == "B"


def test_raw_samples_round_trip(clock: _Time, engines: dict[str, Path], samples: Path, tmp_path: Path) -> None:
    """The side file holds every sample; benchmark.json holds none."""
    raw = tmp_path / "raw.json.gz"
    device = _Synthetic(clock, _steady, raw=lambda name, process: [3, 1, 2 + process])
    campaign = run_campaign(engines, samples, device, budget_s=1000, seed=1, raw_path=raw)
    rows = json.loads(gzip.decompress(raw.read_bytes()))
    assert len(rows) == len(campaign["runs"]) == 14
    assert np.cumsum(rows[0]["delta_ns"]).tolist() == [3, 1, 2]
    assert not any("raw" in run for run in campaign["runs"])


def test_nothing_to_measure_is_an_error(clock: _Time, samples: Path) -> None:
    """No engine is an input error, not an empty report."""
    with pytest.raises(InputError):
        run_campaign({}, samples, _Synthetic(clock, _steady), budget_s=10, seed=1)


def test_a_lost_device_is_not_a_result(clock: _Time, engines: dict[str, Path], samples: Path) -> None:
    """When the device is lost in mid-campaign, a partial set is never shown as final."""

    def lost(name: str, process: int) -> float:
        if process == 2:
            raise DeviceError("the device is gone", "no answer", "reconnect it")
        return _steady(name, process)

    with pytest.raises(DeviceError, match="gone"):
        run_campaign(engines, samples, _Synthetic(clock, lost), budget_s=1000, seed=1)
