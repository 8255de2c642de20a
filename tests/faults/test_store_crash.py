"""Kills, disk faults and the order of system calls, by strace."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

_CALLS = ("openat", "write", "fsync", "rename", "renameat", "mkdir", "mkdirat", "unlink", "unlinkat", "fchmod", "flock")
_SET = ",".join(f"?{call}" for call in _CALLS)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0"} | {
    name: os.environ[name]
    for name in ("PYTHONPATH",)
    if name in os.environ  # the mutation check tests a copy
}


def _trace(strace: str, argv: list[str], folder: Path, *options: str) -> subprocess.CompletedProcess[bytes]:
    folder.mkdir(exist_ok=True)
    command = [
        strace,
        "-f",
        "-qq",
        "-o",
        str(folder / "trace"),
        *options,
        *argv,
        str(folder / "cache"),
        str(folder / "log"),
    ]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, env=_ENVIRONMENT)


@pytest.fixture(scope="module")
def moments(strace: str, publisher_argv: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int]]:
    """Every (system call, how many of its kind so far) from the first touch of the cache to the end."""
    folder = tmp_path_factory.mktemp("reference")
    assert _trace(strace, publisher_argv, folder, "-e", f"trace={_SET}").returncode == 0
    seen: Counter[str] = Counter()
    found, started = [], False
    for line in (folder / "trace").read_text().splitlines():
        call = re.match(r"\d+\s+(\w+)\(", line)
        if call:
            seen[call[1]] += 1
            started = started or str(folder / "cache") in line
            if started:
                found.append((call[1], seen[call[1]]))
    assert len(found) > 40
    return found


def _kill_at(
    moment: tuple[str, int], strace: str, argv: list[str], folder: Path, publisher: ModuleType, invariants: ModuleType
) -> bool:
    call, number = moment
    done = _trace(strace, argv, folder, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
    finished = invariants.check_store(folder / "cache", after_next_run=False)
    log = folder / "log"
    logged_before = log.read_text().split() if log.exists() else []
    digests = publisher.run(folder / "cache", log)
    assert digests == publisher.run(folder / "other", folder / "other-log")
    assert invariants.check_store(folder / "cache", after_next_run=True) == {"export", "quantize"}
    redone = log.read_text().split()[len(logged_before) :]
    assert not finished & set(redone), f"a finished stage was run again after a kill at {moment}"
    return done.returncode != 0


def test_kill_at_any_call_loses_nothing(
    moments: list[tuple[str, int]],
    strace: str,
    publisher_argv: list[str],
    tmp_path: Path,
    publisher: ModuleType,
    invariants: ModuleType,
) -> None:
    """Kill -9 at a system call leaves a sound store, and the same command ends with the same digests."""
    sample = moments[:: max(1, len(moments) // 14)]
    killed = [
        _kill_at(moment, strace, publisher_argv, tmp_path / str(index), publisher, invariants)
        for index, moment in enumerate(sample)
    ]
    assert sum(killed) >= len(sample) - 1  # the very last call may come too late to kill


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_kill_at_every_call_loses_nothing(
    moments: list[tuple[str, int]],
    strace: str,
    publisher_argv: list[str],
    tmp_path: Path,
    publisher: ModuleType,
    invariants: ModuleType,
) -> None:
    """Kill -9 at every single system call leaves a sound store, and the same command ends with the same digests."""
    killed = [
        _kill_at(moment, strace, publisher_argv, tmp_path / str(index), publisher, invariants)
        for index, moment in enumerate(moments)
    ]
    assert sum(killed) >= len(moments) - 3


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ("fsync", "EIO"),
        ("fsync", "ENOSPC"),
        ("rename", "EROFS"),
        ("rename", "EDQUOT"),
        ("write", "ENOSPC"),
        ("mkdir", "ENOSPC"),
        ("openat", "EMFILE"),
        ("write", "EIO"),
    ],
)
def test_disk_fault_is_a_clean_stop(
    call: str,
    error: str,
    moments: list[tuple[str, int]],
    strace: str,
    publisher_argv: list[str],
    tmp_path: Path,
    publisher: ModuleType,
    invariants: ModuleType,
) -> None:
    """A disk that fails stops the run with exit code 5 and three lines; the store is sound and the run resumable."""
    numbers = [number for name, number in moments if name == call]
    if not numbers:
        pytest.skip(f"Python makes no {call} system call on this architecture")
    number = numbers[len(numbers) // 3]
    inject = f"inject={call}:error={error}:when={number}"
    done = _trace(strace, publisher_argv, tmp_path, "-e", f"trace={call}", "-e", inject)
    assert done.returncode == 5, done.stderr.decode()
    told = json.loads(done.stdout)
    assert all(told[part] and "\n" not in told[part] for part in ("what", "why", "fix"))
    invariants.check_store(tmp_path / "cache", after_next_run=False)
    publisher.run(tmp_path / "cache", tmp_path / "log")
    assert invariants.check_store(tmp_path / "cache", after_next_run=True) == {"export", "quantize"}


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE"])
def test_disk_faults_at_every_call_are_clean_stops(
    error: str,
    moments: list[tuple[str, int]],
    strace: str,
    publisher_argv: list[str],
    tmp_path: Path,
    publisher: ModuleType,
    invariants: ModuleType,
) -> None:
    """Promise R3: whichever call fails, however: exit 5 in three lines or a whole run, and a store that goes on."""
    expected = publisher.run(tmp_path / "calm", tmp_path / "calm-log")
    stopped = 0
    for index, (call, number) in enumerate(moments):
        folder = tmp_path / str(index)
        inject = f"inject={call}:error={error}:when={number}"
        done = _trace(strace, publisher_argv, folder, "-e", f"trace={call}", "-e", inject)
        if done.returncode == 5:
            stopped += 1
            told = json.loads(done.stdout)
            assert all(told[part] and "\n" not in told[part] for part in ("what", "why", "fix"))
        elif done.returncode != 0:  # the fault met Python itself (a module, its output), or the log of this test
            assert str(folder / "cache") not in done.stderr.decode(), f"{error} at {call} {number} is no clean stop"
        if (folder / "cache").exists():
            invariants.check_store(folder / "cache", after_next_run=False)
        assert publisher.run(folder / "cache", folder / "log") == expected
        invariants.check_store(folder / "cache", after_next_run=True)
    assert stopped > len(moments) // 3


def test_order_on_disk(strace: str, publisher_argv: list[str], tmp_path: Path) -> None:
    """Each file is fsynced before it gets its name, folders before the record, and the record's folder last."""
    assert _trace(strace, publisher_argv, tmp_path, "-y", "-e", "trace=fsync,?rename,?renameat").returncode == 0
    cache = str(tmp_path / "cache")
    synced: set[str] = set()
    pending: set[str] = set()
    records = blobs = 0
    for line in (tmp_path / "trace").read_text().splitlines():
        if fsync := re.search(r"fsync\(\d+<([^>]+)>", line):
            synced.add(fsync[1])
            pending.discard(fsync[1])
        elif rename := re.search(r'rename(?:at)?\(.*?"([^"]+)".*?"([^"]+)"', line):
            source, target = rename.groups()
            assert source in synced, f"{source} got its name before it was fsynced"
            folder = str(Path(target).parent)
            if folder == f"{cache}/ac":
                records += 1
                assert not pending, f"the record came before {pending} were fsynced"
                assert blobs == 2 * records, "the record came before its two blobs had their names"
            blobs += folder.startswith(f"{cache}/cas/")
            pending.add(folder)
    assert records == 2
    assert not pending, f"{pending} were never fsynced"
