"""The sampler beside a run: what it reports, and that nothing of it outlives the run."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from targets.ondevice import telemetry
from targets.ondevice_pack import FILE_NAME, pack

CPU = "sys/devices/system/cpu"
HEAT = "sys/class/thermal/thermal_zone0/temp"
PI = "sys/devices/platform/soc/soc:firmware/get_throttled"
RAPL = "sys/class/powercap/intel-rapl:0"
PATIENCE_S = 30.0


def plant(root: Path, files: Mapping[str, str]) -> str:
    """Writes files whole or not at all: a sampler reads them at the same time."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)
    return str(root)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state == "Z"


def children() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found


BOARD = {
    f"{CPU}/online": "0-63", **{f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": "2000000" for i in range(64)},
    HEAT: "50000", PI: "0x10000", f"{RAPL}/name": "package-0", f"{RAPL}/energy_uj": "1000",
    f"{RAPL}/max_energy_range_uj": "100000000",
}  # fmt: skip


def test_a_slow_down_in_mid_run_is_seen(tmp_path: Path) -> None:
    """Clock, heat, a new throttle bit and energy that change while it samples are all in the report."""
    sampler = telemetry.start(plant(tmp_path, BOARD), period_s=0.01)
    assert sampler is not None
    handle = sampler._handle

    def seen(text: bytes) -> Callable[[], bool]:
        return lambda: text in os.pread(handle, 1 << 20, 0)

    slow = {f"{CPU}/cpu{i}/cpufreq/scaling_cur_freq": "600000" for i in range(64)}
    plant(tmp_path, {**slow, HEAT: "85000", f"{RAPL}/energy_uj": "5001000"})
    until(seen(b'"f":600000,"c":85.0'))
    plant(tmp_path, {PI: "0x50004"})
    until(seen(b'"pi_now":4'))
    plant(tmp_path, {HEAT: "70000", PI: "0x50000"})
    until(seen(b'"c":70.0'))
    report = sampler.stop()
    assert report is not None
    assert report["freq_khz"]["first"] == 2000000
    assert report["freq_khz"]["min"] == 600000
    assert report["temp_c"] == {"start": 50.0, "end": 70.0, "max": 85.0}
    assert report["throttle"] == {
        "before": {"pi_now": 0, "pi_since_boot": 1}, "after": {"pi_now": 0, "pi_since_boot": 5},
        "events": ["pi_now", "pi_since_boot"],
    }  # fmt: skip
    assert report["power_w"]["sensor"] == "RAPL package-0"
    assert report["power_w"]["mean"] > 0
    assert report["period_s"] == 0.01
    assert report["n"] >= 3


def test_samples_before_the_timed_part_are_left_out(tmp_path: Path) -> None:
    """With ``since_ns`` after the last sample nothing is reported: warm-up does not pass for the run."""
    sampler = telemetry.start(plant(tmp_path, BOARD), period_s=0.01)
    assert sampler is not None
    assert sampler.stop(time.monotonic_ns() + 10**12) is None


def test_the_sampler_is_gone_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After stop no child is left, its file was never visible for long, and a second stop is harmless."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = children()
    sampler = telemetry.start(plant(tmp_path / "tree", BOARD))
    assert sampler is not None
    assert list(folder.iterdir()) == []
    assert len(children() - before) == 1
    assert sampler.stop() is not None
    assert sampler.stop() is None
    assert children() == before


def test_the_sampler_is_niced_and_off_the_measured_cpus(tmp_path: Path) -> None:
    """It runs at the lowest priority; where the measured process is pinned and other CPUs exist, it leaves those."""
    allowed = os.sched_getaffinity(0)
    pinned = {min(allowed)}
    os.sched_setaffinity(0, pinned)
    try:
        sampler = telemetry.start(plant(tmp_path, BOARD))
    finally:
        os.sched_setaffinity(0, allowed)
    assert sampler is not None
    pid = sampler._process.pid
    nice, cpus = os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid)
    sampler.stop()
    assert nice == 19
    assert cpus.isdisjoint(pinned) or (os.cpu_count() or 1) == 1


def test_nothing_to_sample_starts_nothing(tmp_path: Path) -> None:
    """An empty tree gives None and no process."""
    before = children()
    assert telemetry.start(str(tmp_path)) is None
    assert children() == before


@pytest.mark.parametrize(
    "content", [b"\x7fELF of another machine", b"#!/bin/sh\nexit 1\n", b"#!/bin/sh\nexec sleep 0\n"]
)
def test_where_no_second_process_can_run_there_is_no_telemetry_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """An interpreter that the kernel refuses to start, as under qemu, or that ends at once: None, nothing is left."""
    broken = tmp_path / "python"
    broken.write_bytes(content)
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    before, files = children(), len(list(Path("/proc/self/fd").iterdir()))
    assert telemetry.start(plant(tmp_path / "tree", BOARD)) is None
    assert (children(), len(list(Path("/proc/self/fd").iterdir()))) == (before, files)


ORPHAN = """
import sys, time
sys.path.insert(0, sys.argv[1])
from {package} import telemetry
sampler = telemetry.start(sys.argv[2])
print(sampler._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGALRM])
def test_the_sampler_dies_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    """A measured process that is killed, or that runs into its time limit, takes the sampler with it."""
    program = tmp_path / FILE_NAME
    program.write_bytes(pack())
    root = plant(tmp_path / "tree", BOARD)
    command = [sys.executable, "-I", "-c", ORPHAN.format(package="ondevice"), str(program), root]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(how)
        parent.wait(PATIENCE_S)
        until(lambda: gone(pid))


def test_the_sampler_ends_when_its_input_does_even_if_the_kernel_would_not_say(tmp_path: Path) -> None:
    """Closed input alone ends it: `watch` by hand with no input writes its lines and returns."""
    out = tmp_path / "samples"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from targets.ondevice.telemetry import watch; "
        "watch(sys.argv[2], 0.01, sys.argv[3])"
    )
    home = str(Path(telemetry.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, home, plant(tmp_path / "tree", BOARD), str(out)],
        stdin=subprocess.DEVNULL, timeout=PATIENCE_S, check=True,
    )  # fmt: skip
    assert done.returncode == 0
    lines = out.read_text().splitlines()
    assert lines[0].startswith('{"sensors":[["rapl","RAPL package-0","C",true,[100000000]]]')
    assert lines[-1] == '{"h":{"pi_now":0,"pi_since_boot":1}}'
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_half_a_line_is_no_sample(tmp_path: Path) -> None:
    """A disk that filled up in mid-line costs that line only."""
    path = tmp_path / "samples"
    path.write_bytes(b'{"sensors":[],"h":{}}\n{"t":1,"s":{},"f":5}\n{"t":2,"s":{},"f":9')
    handle = os.open(path, os.O_RDONLY)
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as process:
        report = telemetry.Sampler(process, handle, 0.1).stop()
    assert report is not None
    assert (report["n"], report["freq_khz"], report["throttle"]) == (1, {"first": 5, "median": 5, "min": 5}, None)
