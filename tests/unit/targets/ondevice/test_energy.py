"""`energy` through the real program, with a counter that really runs beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.ondevice import energy, loads, telemetry
from targets.ondevice.failure import Failure
from targets.ondevice.sensors import Sensor

RAPL = "sys/class/powercap/intel-rapl:0"
WATTS = 20.0
WRAP_UJ = 30_000_000  # wraps every 1.5 s
Program = Callable[..., tuple[int, dict[str, Any], str]]
SHORT = ["--windows", "3", "--window-s", "0.5", "--idle-s", "0.5"]


def plant(root: Path, files: Mapping[str, str]) -> str:
    """Writes files whole or not at all: they are read at the same time."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)
    return str(root)


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[str]:
    """A tree whose RAPL counter advances by 20 W and wraps often."""
    root = tmp_path / "tree"
    start = time.monotonic()

    def reading() -> str:
        return str(int((time.monotonic() - start) * WATTS * 1e6) % WRAP_UJ)

    plant(root, {f"{RAPL}/name": "package-0", f"{RAPL}/max_energy_range_uj": str(WRAP_UJ), f"{RAPL}/energy_uj": "0"})
    done = threading.Event()

    def run() -> None:
        while not done.wait(0.002):
            plant(root, {f"{RAPL}/energy_uj": reading()})

    thread = threading.Thread(target=run)
    thread.start()
    yield str(root)
    done.set()
    thread.join()


def test_joules_and_latency_of_the_same_inferences(bundle: Path, program: Program, meter: str) -> None:
    """A counter at 20 W that wraps twice: 20 W gross, nothing net of idle; the times are those of these windows."""
    code, document, _ = program(
        bundle, "energy", ".", "--samples", "golden.npz", *SHORT, "--sys-root", meter, cwd=bundle
    )
    assert code == 0, document
    result = document["result"]
    assert (result["grade"], result["sensor"]["name"]) == ("C", "RAPL package-0")
    assert WATTS / 1.5 < result["avg_w"] < WATTS * 1.5
    assert WATTS / 1.5 < result["idle_w"] < WATTS * 1.5
    assert len(result["windows"]) == 3
    for row in result["windows"]:
        assert row["gross_mj"] == pytest.approx(1000 * row["avg_w"] * row["wall_ns"] / 1e9 / row["n"])
        assert row["net_mj"] == pytest.approx(
            row["gross_mj"] - 1000 * result["idle_w"] * row["wall_ns"] / 1e9 / row["n"]
        )
        assert row["wall_ns"] >= 0.5e9
        assert 1 <= row["updates"] <= row["wall_ns"] / 1e9 / 0.02 + 1
    gross = sorted(row["gross_mj"] for row in result["windows"])
    assert result["gross_mj"] == {"min": gross[0], "median": gross[1], "max": gross[2]}
    assert result["updates_min"] == min(row["updates"] for row in result["windows"])
    assert document["result"]["sys_root"] == meter
    assert len(result["engine_sha256"]) == 64
    latency, calls = result["latency"], sum(row["n"] for row in result["windows"])
    kept = calls / latency["inner_loops"] / latency["raw_stride"]
    assert kept <= len(latency["raw"]) <= kept + len(result["windows"])
    assert latency["median_ns"] * calls < 2 * sum(row["wall_ns"] for row in result["windows"])


def test_paced_inferences_keep_the_pace(bundle: Path, program: Program, meter: str) -> None:
    """At 20 ms a window of half a second holds 25 inferences, however fast the engine is, timed from the schedule."""
    arguments = ["energy", ".", "--samples", "golden.npz", *SHORT, "--period-ms", "20", "--sys-root", meter]
    code, document, _ = program(bundle, *arguments, cwd=bundle)
    assert code == 0, document
    result = document["result"]
    assert [row["n"] for row in result["windows"]] == [25, 25, 25]
    assert (result["period_ns"], result["latency"]["inner_loops"], result["latency"]["n"]) == (20_000_000, 1, 75)
    assert all(value > 0 for value in result["latency"]["raw"])


def test_without_a_sensor_there_are_no_joules(bundle: Path, program: Program, tmp_path: Path) -> None:
    """No sensor: grade E with a reason, not one figure of energy or power anywhere, and exit code 0."""
    (tmp_path / "empty").mkdir()
    arguments = ["energy", ".", "--samples", "golden.npz", "--sys-root", str(tmp_path / "empty")]
    code, document, _ = program(bundle, *arguments, cwd=bundle)
    assert code == 0
    result = document["result"]
    assert (result["grade"], result["sensor"], result["unreadable"]) == ("E", None, [])
    assert result["reason"]
    assert not [key for key in result if key.endswith(("_mj", "_w", "windows", "hz"))]


def test_a_plugged_battery_is_no_sensor_and_says_so(bundle: Path, program: Program, tmp_path: Path) -> None:
    """A phone on USB: grade E at once, the reason names the battery and what to do."""
    supply = "sys/class/power_supply"
    root = plant(tmp_path / "phone", {
        f"{supply}/battery/type": "Battery", f"{supply}/battery/status": "Charging",
        f"{supply}/battery/current_now": "900000", f"{supply}/battery/voltage_now": "4000000",
        f"{supply}/usb/type": "USB", f"{supply}/usb/online": "1",
    })  # fmt: skip
    code, document, _ = program(bundle, "energy", ".", "--samples", "golden.npz", "--sys-root", root, cwd=bundle)
    assert code == 0
    result = document["result"]
    assert (result["grade"], result["charging"], result["ac_power"]) == ("E", True, True)
    assert "battery" in result["reason"]
    assert "unplug" in result["unreadable"][0]["fix"]


def test_a_sensor_that_vanishes_in_mid_run_gives_an_error_not_a_number() -> None:
    """Readings that end before the last stretch, or begin after the first: a failure of the device, no joules."""
    sensor = Sensor("rapl", "RAPL package-0", "C", counter=True, wraps=(WRAP_UJ,))
    spans = [loads.Span(i * 10**9, (i + 1) * 10**9, 5, 0, (10**6,) * 5) for i in range(1, 6)]
    load = loads.plan(1.0, None, 1e6, 1)

    def answer(first_s: float, last_s: float) -> dict[str, Any]:
        times = range(int(first_s * 1e9), int(last_s * 1e9), 10**7)
        samples = [{"t": t, "s": {sensor.name: [t, t // 10**3 * 20 % WRAP_UJ]}} for t in times]
        record = telemetry.Record([sensor], samples, {}, {})
        recorded = energy._Recorded(record, [spans[0], spans[-1]], spans[1:-1], load, plugged=False)
        return energy._answer(recorded, ["CPUExecutionProvider"])

    assert answer(0.9, 6.1)["avg_w"] == pytest.approx(20)
    assert answer(0.9, 6.1)["gross_mj"]["median"] == pytest.approx(4000)
    assert answer(0.9, 6.1)["net_mj"]["max"] == pytest.approx(0, abs=1e-6)
    for first_s, last_s in ((0.9, 5.9), (1.1, 6.1), (0.9, 1.0)):
        with pytest.raises(Failure, match="stopped answering"):
            answer(first_s, last_s)


def test_a_gpu_counter_says_nothing_of_a_cpu_and_the_other_way_round() -> None:
    """NVML is used for engines on a GPU, RAPL for those on the CPU, a board's rail for both."""
    rail, rapl, gpu = (
        Sensor(kind, kind, grade, counter=True) for kind, grade in (("ina", "B"), ("rapl", "C"), ("nvml", "C"))
    )
    assert energy.usable([rail, rapl, gpu], ["CPUExecutionProvider"]) == [rail, rapl]
    assert energy.usable([rail, rapl, gpu], ["CUDAExecutionProvider", "CPUExecutionProvider"]) == [rail, gpu]
    assert energy.usable([gpu], ["CPUExecutionProvider"]) == []


@pytest.mark.parametrize(("expected_ns", "inner", "stride"), [(1e6, 1, 5), (1e5, 1, 50), (1e4, 64, 8), (5e9, 1, 1)])
def test_times_kept_of_a_window_are_few_and_even(expected_ns: float, inner: int, stride: int) -> None:
    """Ten seconds keep about two thousand times, whatever one call takes."""
    load = loads.plan(10.0, None, expected_ns, inner)
    assert (load.inner, load.stride) == (inner, stride)
    assert loads.plan(10.0, 33_000_000, expected_ns, inner).inner == 1


def test_every_call_of_a_window_is_counted() -> None:
    """N is the number of calls, their numbers run from 0, and a slow call still makes a window of one."""
    calls: list[int] = []
    span = loads.window(calls.append, loads.plan(0.05, None, 1e4, 8))
    assert calls == list(range(span.n))
    assert span.n % 8 == 0
    assert span.seconds >= 0.05
    slow = loads.window(lambda _: time.sleep(0.02), loads.plan(0.001, None, 2e7, 1))
    assert (slow.n, len(slow.samples_ns)) == (1, 1)


def test_frames_that_cannot_start_in_time_are_counted_late() -> None:
    """A call of three periods makes all that follow late, and their latency holds the wait."""
    span = loads.window(lambda _: time.sleep(0.03), loads.plan(0.05, 10_000_000, 3e7, 1))
    assert (span.n, span.late_n) == (5, 4)
    assert np.all(np.diff(span.samples_ns) > 0)
