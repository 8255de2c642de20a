"""Campaigns through the real device program: disturbances that are put in are found, and what is shown is true.

Where a distribution must be known, calls of known length take the place of an engine's, in the program's own loops; all
else runs real engines in real processes on this machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.benchmarking import blocks, campaign, preflight
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, Progress, Scenario, run_campaign
from pipeline.benchmarking.results import engine_result
from pipeline.benchmarking.rows import checked_row
from targets.devices import local as local_module
from targets.devices.local import LocalDevice
from targets.engines import engine
from targets.errors import DeviceError
from targets.ondevice import scenarios, timing
from targets.ondevice_pack import pack
from targets.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from targets.devices.base import RawAnswer
    from targets.engines.base import EngineBuild

QUICK = CampaignOptions(budget_s=120, seed=3, mode="quick")
SHORT = ["--warmup-s", "0", "--min-s", "0"]


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDevice:
    """This machine, with a lock and a working folder of this test's own, and short processes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(campaign, "_lengths", lambda *_: (0.02, 0.05))
    monkeypatch.setattr(preflight, "QUIET_WAIT_S", 0)
    monkeypatch.setattr(blocks, "SLOW_SENTINEL", 1e9)  # other work on this machine must not lengthen the tests
    return LocalDevice()


@pytest.fixture
def build(models: dict[str, Path], tmp_path: Path) -> EngineBuild:
    return engine("onnxruntime").build(models["fp32"], load_profile("host"), tmp_path / "engine", precision="fp32")


@pytest.fixture
def entrant(build: EngineBuild, samples: np.ndarray, tmp_path: Path) -> Entrant:
    """The tiny float engine with what it gives."""
    np.savez(tmp_path / "samples.npz", x=samples)
    with engine("onnxruntime").open(build) as runner:
        np.savez(tmp_path / "expected.npz", **{"output.y": runner.infer({"x": samples})["y"]})
    return Entrant(
        name="tiny", folder=build.folder, samples=tmp_path / "samples.npz", expected=tmp_path / "expected.npz"
    )


class Clock:
    """Stands in for the module `time` in the program's loops: only calls let it pass, so that their length is known."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def perf_counter_ns(self) -> int:
        return self.now_ns

    process_time_ns = perf_counter_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)

    def call(self, length_ns: Callable[[int], float]) -> Callable[[int], None]:
        """An engine whose call ``i`` takes ``length_ns(i)``."""

        def call(index: int) -> None:
            self.now_ns += round(length_ns(index))

        return call


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(timing, "time", fake)
    monkeypatch.setattr(scenarios, "time", fake)
    return fake


@pytest.mark.parametrize(
    ("length_ns", "kind"),
    [
        (lambda i: 200_000, "flat"),
        (lambda i: 200_000 if i < 100 else 300_000, "slowdown"),
        (lambda i: 300_000 if i < 60 else 200_000, "warmup"),
        (lambda i: 200_000 + max(0, 50 - i) * 8_000, "warmup"),
        (lambda i: 300_000 if i // 40 % 2 else 200_000, "no_steady_state"),
        (lambda i: 2_000_000 if i % 67 == 0 else 200_000, "flat"),
    ],
    ids=["flat", "step up", "step down", "ramp", "alternating", "outliers"],
)
def test_a_step_is_found(clock: Clock, length_ns: Callable[[int], float], kind: str) -> None:
    """A step, a ramp and unrest in an engine's latency are classed as what they are; single outliers are not."""
    rng = np.random.default_rng(2)
    call = clock.call(lambda i: length_ns(i) * rng.lognormal(0, 0.01))
    report = timing.timed_loop(call, expected_ns=1e6, min_iterations=200, min_s=0, cap_s=30)
    assert report["n"] == 200
    assert report["loop_wall_ns"] == report["samples_sum_ns"] == sum(report["raw"])
    rest = {
        "load_ns": 1, "first_ns": 1, "warmup_n": 10, "n_distinct": 1, "outputs_sha256": "", "outputs_ok": None,
        "mem": dict.fromkeys(("base_rss", "load_peak", "run_peak", "steady_pss", "steady_uss")),
    }  # fmt: skip
    assert checked_row({**report, **rest}, "")["class"] == kind


def test_throughput_is_inferences_by_time(clock: Clock) -> None:
    """With two modes of latency, throughput is N / T, far from one over the median."""
    call = clock.call(lambda i: 4_000_000 if i % 5 < 2 else 500_000)
    began = clock.now_ns
    report = scenarios.throughput([call], 4, scenarios.Limits(min_iterations=100, min_s=0, cap_s=30))
    found = report["scenario_result"]
    assert found["inferences"] == 400
    assert found["ips"] == pytest.approx(400 / ((clock.now_ns - began) / 1e9)) == pytest.approx(4 / 0.0019)
    assert found["ips"] < 0.3 * 4e9 / report["median_ns"]


def _measured(local: LocalDevice, entrant: Entrant, *options: str) -> dict[str, Any]:
    with local.session() as session:
        session.put(entrant.folder, "e")
        session.put(entrant.samples, "s.npz")
        return dict(session.run(["measure", "e", "--samples", "s.npz", *options], timeout_s=60).result)


@pytest.mark.parametrize(("iterations", "licensed"), [(661, False), (662, True)])
def test_p99_needs_its_licence(local: LocalDevice, entrant: Entrant, iterations: int, *, licensed: bool) -> None:
    """p99 is nothing at 661 inferences, with the reason, and a figure at 662."""
    row = _measured(local, entrant, *SHORT, "--min-iterations", str(iterations))
    assert row["n"] == iterations
    steady = {"rho1": 0.0, "class": "flat", "steady_from": 0}  # whatever else this machine does meanwhile
    tail = engine_result([{**checked_row(row, row["engine_sha256"]), **steady}])["tail_ms"]["p99"]
    assert (tail["value"] is not None) is licensed
    assert tail["n"] == iterations
    assert licensed or "need 662, have 661" in tail["reason"]


def test_wrong_outputs_are_worthless(local: LocalDevice, entrant: Entrant, tmp_path: Path) -> None:
    """An engine that does not give what it must gets grade F, whatever its latency; the right one does not."""
    with np.load(entrant.expected or "") as arrays:
        wrong = arrays["output.y"].copy()
    wrong[-1, 0] += 0.5
    np.savez(tmp_path / "wrong.npz", **{"output.y": wrong})
    liar = Entrant(name="liar", folder=entrant.folder, samples=entrant.samples, expected=tmp_path / "wrong.npz")
    found = run_campaign([entrant, liar], local, QUICK)
    assert found["campaign"]["blocks"] == 3
    assert {name: result["outputs_ok"] for name, result in found["results"].items()} == {"tiny": True, "liar": False}
    assert found["quality"]["grade"] == "F"
    assert found["quality"]["engines"]["liar"]["grade"] == "F"
    assert {warning["engine"] for warning in found["warnings"] if warning["code"] == "W-OUTPUT"} == {"liar"}
    assert found["comparison"] == []


def test_an_empty_battery_forbids_measuring(
    local: LocalDevice, entrant: Entrant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the program reads of a battery in /sys reaches the campaign: below 15 % nothing is measured."""
    battery = tmp_path / "tree" / "sys" / "class" / "power_supply" / "BAT0"
    battery.mkdir(parents=True)
    for name, text in (("type", "Battery"), ("status", "Discharging"), ("capacity", "14")):
        (battery / name).write_text(text + "\n")
    original = local_module._LocalSession._run

    def run(self: local_module._LocalSession, command: Sequence[str], timeout_s: float) -> RawAnswer:
        return original(self, [*command, "--sys-root", str(tmp_path / "tree")], timeout_s)

    monkeypatch.setattr(local_module._LocalSession, "_run", run)
    with pytest.raises(DeviceError, match="14 %"):
        run_campaign([entrant], local, QUICK)
    (battery / "capacity").write_text("15\n")
    found = run_campaign([entrant], local, QUICK)
    assert found["device"]["battery_pct"] == 15
    assert "W-SIMULATED" in {warning["code"] for warning in found["warnings"]}


def _wide_model(path: Path, floats: int) -> Path:
    """A model with one intermediate tensor of so many floats, and next to no weights."""
    constants = {
        "shape": np.array([1, floats], np.int64),
        "axes": np.array([1, 2, 3], np.int64),
        "wide": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0),
        helper.make_node("Unsqueeze", ["m", "wide"], ["u"]),
        helper.make_node("Expand", ["u", "shape"], ["e"]),
        helper.make_node("ReduceMax", ["e", "wide"], ["y"], keepdims=1),
    ]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def test_a_short_peak_of_memory_is_seen(local: LocalDevice, entrant: Entrant, tmp_path: Path) -> None:
    """64 MB that an inference touches for some milliseconds are in the run peak, and not in the load peak."""
    peaks = {}
    for name, floats in (("narrow", 64), ("wide", 16 << 20)):
        model = _wide_model(tmp_path / f"{name}.onnx", floats)
        built = engine("onnxruntime").build(model, load_profile("host"), tmp_path / name, precision="fp32")
        wide = Entrant(name=name, folder=built.folder, samples=entrant.samples)
        peaks[name] = _measured(local, wide, *SHORT, "--min-iterations", "3", "--cap-s", "1")["mem"]
    assert peaks["narrow"]["peaks_split"]
    assert peaks["wide"]["run_peak"] - peaks["narrow"]["run_peak"] > 60e6
    assert peaks["wide"]["load_peak"] - peaks["narrow"]["load_peak"] < 20e6


STEPPED = """
import sys, time
sys.path.insert(0, sys.argv[1])
steps = iter(range(1, 10**9))
time.time = lambda: 4e9 * (next(steps) % 2)
time.time_ns = lambda: int(time.time() * 1e9)
from ondevice.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_a_stepped_wall_clock_changes_nothing(build: EngineBuild, entrant: Entrant, tmp_path: Path) -> None:
    """With a wall clock that jumps by a century at each reading, every duration is that of the steady clock."""
    program = tmp_path / "ondevice.pyz"
    program.write_bytes(pack())
    arguments = ["measure", str(build.folder), "--samples", str(entrant.samples), "--min-iterations", "200"]
    begin = time.perf_counter_ns()
    done = subprocess.run(
        [sys.executable, "-I", "-c", STEPPED, str(program), *arguments, "--warmup-s", "0.05", "--min-s", "0.1",
         "--sentinel", "before", "--sentinel-repeats", "3"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    took_ns = time.perf_counter_ns() - begin
    row = json.loads(done.stdout)["result"]
    durations = [row[key] for key in ("import_ns", "load_ns", "first_ns", "loop_wall_ns", "samples_sum_ns")]
    durations += [*row["raw"], row["sentinel"]["before"]["wall_ns"]]
    assert min(durations) > 0
    assert max(durations) < took_ns
    assert sum(row["raw"]) == row["samples_sum_ns"] <= row["loop_wall_ns"]
    assert row["loop_wall_ns"] >= 0.1e9


def _programs_of(parent: int) -> Iterator[int]:
    """Device programs that measure just now, among the descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat, words = (entry / "stat").read_text(), (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            parents[int(entry.name)] = (int(stat.rpartition(")")[2].split()[1]), words)
    for pid, (_, words) in parents.items():
        above = pid
        while above in parents and above != parent:
            above = parents[above][0]
        if above == parent and b"measure" in words and words[2].endswith(b"ondevice.pyz"):
            yield pid


def _kill_soon() -> None:
    """Ends the device program of this process as soon as it measures."""
    for _ in range(200):
        programs = list(_programs_of(os.getpid()))
        for pid in programs:
            os.kill(pid, signal.SIGKILL)
        if programs:
            return
        time.sleep(0.02)


def test_killed_in_mid_block(local: LocalDevice, entrant: Entrant, tmp_path: Path) -> None:
    """A device program killed in mid-block is an error of the device; finished blocks are kept, a re-run continues."""
    two = [entrant, Entrant(name="again", folder=entrant.folder, samples=entrant.samples)]
    killers: list[threading.Thread] = []

    def kill_third(at: Progress) -> None:
        if at.block == 2 and not killers:
            killers.append(threading.Thread(target=_kill_soon))
            killers[0].start()

    with pytest.raises(DeviceError, match="after block 2 of 3"):
        run_campaign(two, local, QUICK, state=tmp_path / "state", on_progress=kill_third)
    killers[0].join()
    assert len(list((tmp_path / "state" / "campaigns").glob("*.jsonl"))) == 1
    seen: list[int] = []
    found = run_campaign(two, local, QUICK, state=tmp_path / "state", on_progress=lambda at: seen.append(at.block))
    assert set(seen) == {2}
    assert found["campaign"]["resumed_blocks"] == 2
    assert found["campaign"]["blocks"] == 3
    assert [run["block"] for run in found["runs"] if "discarded" not in run] == [0, 0, 1, 1, 2, 2]
    assert "W-RESUMED" in {warning["code"] for warning in found["warnings"]}
    assert list((tmp_path / "state" / "campaigns").iterdir()) == []


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(kind="paced", period_ms=2.0),
        pytest.param(Scenario(kind="throughput", batch=2, concurrency=2), marks=pytest.mark.long),
        Scenario(kind="cold"),
        pytest.param(Scenario(kind="sustained", duration_s=1.0), marks=pytest.mark.long),
    ],
    ids=lambda scenario: scenario.kind,
)
def test_every_scenario_runs(local: LocalDevice, entrant: Entrant, scenario: Scenario) -> None:
    """Each scenario goes through the real program and gives its figures."""
    options = CampaignOptions(budget_s=120, mode="quick", scenario=scenario)
    found = run_campaign([entrant], local, options)
    result = found["results"]["tiny"]
    assert found["campaign"]["blocks"] == (1 if scenario.kind == "sustained" else 3)
    assert {run["scenario"] for run in found["runs"]} == {scenario.kind}
    assert result["outputs_ok"] is True
    assert found["scenario"]["kind"] == scenario.kind
    json.dumps(found, allow_nan=False)


def test_a_ramp_lengthens_the_warm_up(
    local: LocalDevice, entrant: Entrant, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is still getting faster in the timed loop has the first block repeated with twice the warm-up."""
    begun: list[float] = []

    def ramping(command: Sequence[str], result: dict[str, Any]) -> dict[str, Any]:
        """The program's warm-up and loop over a call that is slow for the first 0.038 s of a process."""
        options = dict(zip(command[2::2], command[3::2], strict=False))
        begun.append(float(options["--warmup-s"]))
        slow_until = clock.now_ns + 38_000_000
        call = clock.call(lambda _: 150_000 if clock.now_ns < slow_until else 100_000)
        timing.warm_up(call, min_iterations=10, min_s=begun[-1], cap_s=10)
        report = timing.timed_loop(call, expected_ns=1e6, min_iterations=200, min_s=0.05, cap_s=9)
        return {**result, **report}

    original = local_module._LocalSession._run

    def run(self: local_module._LocalSession, command: Sequence[str], timeout_s: float) -> RawAnswer:
        answer = original(self, command, timeout_s)
        document = json.loads(answer.stdout)
        if command[0] == "measure":
            document["result"] = ramping(command, document["result"])
        return replace(answer, stdout=json.dumps(document).encode())

    monkeypatch.setattr(local_module._LocalSession, "_run", run)
    found = run_campaign([entrant], local, QUICK)
    first = [run for run in found["runs"] if run.get("discarded") == "warmup"]
    assert [(run["class"], run["attempt"]) for run in first] == [("warmup", 0)]
    assert begun == [0.02, 0.04, 0.04, 0.04]
    assert found["campaign"]["repeated"] == {"sentinel": 0, "warmup": 1}
    assert found["campaign"]["blocks"] == 3
