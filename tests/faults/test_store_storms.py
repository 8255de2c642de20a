"""Random kills, disk faults at every call, and garbage collection in the midst of runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

_GC = (
    "import sys, time; from pathlib import Path; from pipeline.store import Store\n"
    "from targets.errors import EnvironmentFailure\n"
    "store, end = Store(Path(sys.argv[1])), time.monotonic() + float(sys.argv[2])\n"
    "done = 0\n"
    "while time.monotonic() < end:\n"
    "    try: store.gc(max_age_days=1); done += 1\n"
    "    except EnvironmentFailure as error: assert 'a run is using it' in error.why\n"
    "    time.sleep(0.002)\n"
    "print(done)\n"
)


def _kill_after(seconds: float, argv: list[str], cache: Path, log: Path) -> int:
    with subprocess.Popen([*argv, str(cache), str(log)], stdout=subprocess.DEVNULL) as process:
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        return process.wait()


def _span_s(argv: list[str], folder: Path) -> float:
    """How long the run takes on this machine just now: kills are spread over it."""
    begin = time.monotonic()
    subprocess.run([*argv, str(folder / "timed"), str(folder / "timed-log")], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def _storm(count: int, argv: list[str], folder: Path, publisher: ModuleType, invariants: ModuleType) -> int:
    """How many of the kills came in time."""
    dice, killed = random.Random(0), 0
    expected = publisher.run(folder / "calm", folder / "calm-log")
    span_s = _span_s(argv, folder)
    for number in range(count):
        cache = folder / f"cache{number % 7}"  # some start afresh, some go on where another died
        killed += _kill_after(dice.uniform(0.1, 0.9) * span_s, argv, cache, folder / "log") == -signal.SIGKILL
        if cache.exists():
            invariants.check_store(cache, after_next_run=False)
        if dice.random() < 0.2:
            assert publisher.run(cache, folder / "log") == expected
            invariants.check_store(cache, after_next_run=True)
    for number in range(min(7, count)):
        assert publisher.run(folder / f"cache{number}", folder / "log") == expected
    return killed


def test_a_few_random_kills_lose_nothing(
    tmp_path: Path, publisher_argv: list[str], publisher: ModuleType, invariants: ModuleType
) -> None:
    """Promise R1: killed at a random instant, without strace, the store is sound and the digests are the same."""
    assert _storm(12, publisher_argv, tmp_path, publisher, invariants) >= 3


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_hundred_random_kills_lose_nothing(
    tmp_path: Path, publisher_argv: list[str], publisher: ModuleType, invariants: ModuleType
) -> None:
    """Promise R1: three hundred kills at random instants."""
    assert _storm(300, publisher_argv, tmp_path, publisher, invariants) >= 100


def test_too_many_open_files_is_a_clean_stop(
    tmp_path: Path, publisher: ModuleType, publisher_argv: list[str], invariants: ModuleType
) -> None:
    """Promise R3: at the limit of open files (EMFILE) nothing is published, and the fix names ulimit -n."""
    told = ""
    for limit in (3, 4, 5, 6, 7, 8):
        program = (
            "import resource, sys; from pathlib import Path\n"
            "import pipeline.store.store, pipeline.store.garbage, shutil, tempfile, ctypes, json\n"  # paid for before
            "from pipeline.store import Store; from targets.errors import EnvironmentFailure\n"
            "store = Store(Path(sys.argv[1])); folder = Path(sys.argv[2])\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
            "try: store.publish(folder, 64 * 'b', stage='wide', meta={})\n"
            "except EnvironmentFailure as error: sys.stderr.write(str(error)); sys.exit(error.exit_code)\n"
        )
        folder = tmp_path / "wide"
        folder.mkdir(exist_ok=True)
        for number in range(3):
            (folder / f"{number}.bin").write_bytes(b"x" * 100)
        cache = tmp_path / "cache"
        publisher.run(cache, tmp_path / "log")
        done = subprocess.run(
            [sys.executable, "-c", program, str(cache), str(folder)], capture_output=True, text=True, check=False,
            env=dict(os.environ), timeout=60,
        )  # fmt: skip
        assert done.returncode in {0, 5}, done.stderr
        told += done.stderr
        expected = {"export", "quantize"} | ({"wide"} if done.returncode == 0 else set())
        assert invariants.check_store(cache, after_next_run=False) - {"wide"} == expected - {"wide"}
        publisher.run(cache, tmp_path / "log")
        invariants.check_store(cache, after_next_run=True)
    assert "ulimit -n" in told, "no limit was low enough to be met"


def test_gc_never_removes_what_is_in_use(
    tmp_path: Path, publisher_argv: list[str], publisher: ModuleType, invariants: ModuleType
) -> None:
    """Promise R16: with collections all the time, runs on one store end as calm ones, and each stage ran once."""
    cache, log = tmp_path / "cache", tmp_path / "log"
    expected = publisher.run(tmp_path / "calm", tmp_path / "calm-log")
    storm = subprocess.Popen([sys.executable, "-c", _GC, str(cache), "4"], stdout=subprocess.PIPE, text=True)
    try:
        running = [subprocess.Popen([*publisher_argv, str(cache), str(log)], stdout=subprocess.PIPE) for _ in range(4)]
        answers = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        assert answers == [expected] * 4
        assert log.read_text().split() == ["export", "quantize"]
        collected, _ = storm.communicate(timeout=60)
    finally:
        storm.kill()
        storm.wait()
    assert storm.returncode == 0
    assert int(collected) > 0, "nothing was ever collected"
    assert invariants.check_store(cache, after_next_run=True) == {"export", "quantize"}


def test_a_second_store_version_is_left_alone(tmp_path: Path, publisher: ModuleType) -> None:
    """Promise R11: a record of another version is neither read nor deleted, and its blobs stay through gc."""
    from pipeline.store import Store

    cache = tmp_path / "cache"
    publisher.run(cache, tmp_path / "log")
    record = next((cache / "ac").iterdir())
    document = json.loads(record.read_bytes())
    blob = document["files"][0][1]
    newer = record.with_name("f" * 64 + ".json")
    newer.write_bytes(json.dumps({"schema": 99, "anything": [blob]}).encode())
    record.unlink()
    store = Store(cache)
    assert store.reuse("f" * 64) is None
    store.gc(max_age_days=0.0)
    assert newer.exists()
    assert (cache / "cas" / blob[:2] / blob).exists()
    assert not list((cache / "quarantine").iterdir())
