"""A study's journal: killed at any event, damaged anywhere, on a full disk, shared; and what is no journal at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.recipe import BudgetSection, SearchSection
from pipeline.search import journal as journal_module
from pipeline.search.candidates import Engine, excesses_of
from pipeline.search.journal import JournalFile
from pipeline.search.space import Choices, Numbers, Space
from pipeline.search.storage import open_storage
from pipeline.search.study import Study
from targets.errors import DiskFailure, EdgepressError, InputError

SPACE: Space = (
    Choices(key="prune.scope", values=("local", "global")),
    Numbers(key="prune.ratio", low=0.1, high=0.5, step=0.1, log=False, whole=False),
)


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs after it."""


def study(place: Path, sampler: str) -> Study:
    section = SearchSection.model_validate({"sampler": sampler, "trials": 3, "startup_trials": 2})
    return Study(open_storage(str(place)), "s", SPACE, section, 3)


def finish(one: Study) -> None:
    while (claim := one.claim()) is not None:
        ratio = float(claim.point["prune.ratio"])
        made = Engine(
            name="int8", accuracy=1 - ratio / 10, accuracy_drop=ratio / 10, latency_ms=1 - ratio,
            latency_ratio=1 - ratio, size_bytes=int(1000 * (1 - ratio)), memory_bytes=None,
        )  # fmt: skip
        one.finish(claim, made, excesses_of(made, BudgetSection(accuracy_drop=0.02)), None)


def told(one: Study) -> list[Any]:
    return [(tuple(sorted(done.point.items())), done.engine, done.excesses) for done in one.tried()]


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the given event on this process writes nothing more; of the first it writes a half."""
    real, seen = JournalFile.append_logs, []

    def append(self: JournalFile, logs: list[dict[str, Any]]) -> None:
        seen.append(1)
        if len(seen) < number:
            real(self, logs)
            return
        if len(seen) == number and number % 3:
            line = json.dumps(logs[0]).encode()
            with self._path.open("ab") as file:
                file.write(line[: len(line) // 2] if number % 3 == 1 else line)
        raise Killed

    monkeypatch.setattr(JournalFile, "append_logs", append)


@pytest.mark.parametrize(
    ("sampler", "stride"),
    [
        ("tpe", 20),  # no multiple of three: the three ways to die
        ("grid", 16),
        *(pytest.param(name, 1, marks=pytest.mark.long) for name in ("tpe", "grid", "nsga2", "random")),
    ],
)
def test_killed_at_any_event_a_study_ends_as_an_undisturbed_one(
    sampler: str, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise R1: a search killed before, in the midst of, or after any event of its journal tries the same."""
    whole = study(tmp_path / "whole", sampler)
    finish(whole)
    events = (tmp_path / "whole").read_bytes().count(b"\n")
    assert events > 20
    for number in range(1 + stride // 2, events + 1, stride):
        place = tmp_path / str(number)
        with monkeypatch.context() as patched:
            die_at(number, patched)
            with pytest.raises(Killed):
                finish(study(place, sampler))
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.search.workers.has_ended", lambda _holder: True)
            again = study(place, sampler)
            finish(again)
        assert told(again) == told(whole), f"another search after a death at event {number} of {events}"


def test_nobody_takes_what_a_living_worker_draws(tmp_path: Path) -> None:
    """Promise R5: between drawing and marking, a candidate is left only when all others that joined have ended."""
    one = study(tmp_path / "s", "tpe")
    one._draw(0)  # and not marked yet
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try:
            holder = subprocess.run(
                [sys.executable, "-c", f"""
import os
from targets.devices import holder
start, os.getpid = holder._start_of({other.pid}), lambda: {other.pid}
holder._start_of = lambda pid: start
print(holder.this_process())
"""],
                capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            ).stdout.strip()  # fmt: skip
            one._study.set_user_attr("joined somebody", holder)
            claim = study(tmp_path / "s", "tpe").claim()
            assert claim is not None
            assert {0, 1} == {trial.number for trial in one._counted()}, "what somebody may be drawing was taken"
        finally:
            other.kill()
    last = study(tmp_path / "s", "tpe")
    assert last.claim() is not None
    assert 0 not in {trial.number for trial in last._counted()}, "what a dead worker half drew is drawn anew"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    place = tmp_path_factory.mktemp("whole") / "s"
    finish(study(place, "random"))
    return place.read_bytes()


@settings(max_examples=25)
@given(data=st.data())
def test_damage_is_told_or_changes_nothing(
    data: st.DataObject, journal: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Promise R4: a flipped bit anywhere is told in three lines, or costs the last event; never another finding."""
    place = tmp_path_factory.mktemp("flipped") / "s"
    bit = data.draw(st.integers(0, len(journal) * 8 - 1))
    flipped = bytearray(journal)
    flipped[bit // 8] ^= 1 << bit % 8
    place.write_bytes(flipped)
    events = journal.splitlines()
    try:
        found = list(JournalFile(place).read_logs(0))
    except InputError as error:
        assert "study" in error.what  # noqa: PT017 - or nothing is raised
        assert place.read_bytes().startswith(bytes(flipped[:60])), "a damaged study was written to"
        return
    expected = [{k: v for k, v in json.loads(line).items() if k != "sha256"} for line in events]
    kept = [{k: v for k, v in event.items() if k in wanted} for event, wanted in zip(found, expected, strict=False)]
    assert kept == expected[: len(kept)]  # a flip in the name of the seal takes that line's seal away, and no more
    assert len(kept) >= len(expected) - 1


@pytest.mark.parametrize(
    "content",
    [b"task = 'classification'\n", b"{}\n", b'{"a":1}\n', b"half a line that is none", b"\0" * 50, b"[" * 9999 + b"\n"],
)
def test_what_is_no_study_is_left_alone(content: bytes, tmp_path: Path) -> None:
    """Promise R12: a file that was named by mistake is refused in three lines, and stays as it is."""
    place = tmp_path / "mine.toml"
    place.write_bytes(content)
    with pytest.raises(InputError, match="is no study"):
        open_storage(str(place))
    assert place.read_bytes() == content


@pytest.mark.parametrize(
    "event", [{"op_code": 99}, {"op_code": 4, "study_id": 7}, {"op_code": "x"}, {"op_code": 0, "worker_id": []}]
)
def test_events_without_sense_are_told(event: dict[str, Any], tmp_path: Path) -> None:
    """Promise S5: whole lines that mean nothing end in three lines, not in a traceback."""
    place = tmp_path / "s"
    place.write_bytes(json.dumps(event).encode() + b"\n")
    with pytest.raises(InputError, match="damaged"):
        open_storage(str(place))


def test_a_pipe_is_no_study(tmp_path: Path) -> None:
    """Promise R15: nobody waits for a pipe."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(EdgepressError):
        open_storage(str(tmp_path / "pipe"))


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R3: exit 5 in three lines, no half event, and the same study goes on."""
    place = tmp_path / "s"
    one = study(place, "tpe")
    before = place.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(DiskFailure, match="No space left on device"):
            one.claim()
    assert place.read_bytes() == before
    finish(study(place, "tpe"))


def test_events_are_on_the_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R2: an event is fsynced, whole, before the search goes on, and so is the journal's folder."""
    place, synced = tmp_path / "s", list[bytes]()
    folders: list[Path] = []
    monkeypatch.setattr(journal_module, "fsync_folder", folders.append)
    monkeypatch.setattr(os, "fsync", lambda _descriptor: synced.append(place.read_bytes()))
    file = JournalFile(place)
    assert folders == [tmp_path]
    synced.clear()
    file.append_logs([{"op_code": 0}])
    assert [data.count(b"\n") for data in synced] == [1]


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Promise R5: processes that write at once wait for each other; every event of each is there, in its order."""
    place, count = tmp_path / "s", 60
    children = []
    for writer in range(3):
        child = os.fork()
        if child == 0:
            file = JournalFile(place)
            for number in range(count):
                file.append_logs([{"op_code": 0, "writer": writer, "number": number}])
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    found = list(JournalFile(place).read_logs(0))
    for writer in range(3):
        assert [event["number"] for event in found if event["writer"] == writer] == [*range(count)]


def test_half_an_event_of_a_dead_neighbour_is_cut_off(tmp_path: Path) -> None:
    """Promise R5: a worker that has the journal open writes behind the last whole line, not behind somebody's half."""
    mine = JournalFile(tmp_path / "s")
    mine.append_logs([{"op_code": 0, "number": 0}])
    with (tmp_path / "s").open("ab") as file:
        file.write(b'{"op_code":0,"num')
    mine.append_logs([{"op_code": 0, "number": 1}])
    assert [event["number"] for event in mine.read_logs(0)] == [0, 1]


def test_no_pickle_of_a_server_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise S1: a shared Redis gives events, never the snapshots that optuna would unpickle."""
    from optuna.storages import journal
    from optuna.storages.journal._base import BaseJournalSnapshot

    class Server(journal.BaseJournalBackend, BaseJournalSnapshot):
        def __init__(self, url: str) -> None:
            self.logs: list[dict[str, Any]] = []

        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return self.logs[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            self.logs += logs

        def load_snapshot(self) -> bytes:
            raise AssertionError("a pickle was asked for")

        def save_snapshot(self, snapshot: bytes) -> None:
            raise AssertionError("a pickle was written")

    monkeypatch.setattr(journal, "JournalRedisBackend", Server)
    storage = open_storage("redis://host")
    finish(Study(storage, "s", SPACE, SearchSection.model_validate({"sampler": "random", "trials": 2}), 3))
