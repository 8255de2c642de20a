"""Interrupted campaigns: what is on the disk counts, what is torn does not, the rest is measured as if nothing was."""

from __future__ import annotations

import copy
import datetime as dt
import os
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.benchmarking import journal
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from targets.engines.base import EngineBuild
from targets.errors import DeviceError, DeviceLost
from targets.files import sha256_file

if TYPE_CHECKING:
    from collections.abc import Callable

Make = Any  # the fixture that makes a synthetic device
Lent = Any  # such a device
LONG = CampaignOptions(budget_s=1000, seed=1)
LOST = DeviceLost("device 'synthetic' was lost", "no answer for 15 s while it ran measure", "reconnect it")


def _varied(name: str, block: int) -> float:
    return {"fp32": 2e6, "int8": 1e6}[name] * (1 + 0.002 * ((block * 7919) % 11))


def _lose(after: int, error: Exception = LOST) -> Callable[[list[str]], None]:
    """Lets a device fail at the measurement after so many."""
    seen: list[str] = []

    def before(command: list[str]) -> None:
        if command[0] == "measure":
            if len(seen) == after:
                raise error
            seen.append(command[1])

    return before


def _stable(document: dict[str, Any]) -> dict[str, Any]:
    """A campaign without what may differ: times of the host, and the mark of the interruption."""
    document = copy.deepcopy(document)
    for key in ("utc_start", "id", "monotonic_s", "wall_s", "resumed_blocks"):
        del document["campaign"][key]
    document["warnings"] = [item for item in document["warnings"] if item["code"] != "W-RESUMED"]
    del document["noise"]["aa"]["utc"]
    document["quality"]["reasons"] = [text for text in document["quality"]["reasons"] if "W-RESUMED" not in text]
    return document


def _files(state: Path) -> list[Path]:
    return sorted((state / "campaigns").glob("*.jsonl"))


def _interrupted(make: Make, entrants: list[Entrant], state: Path, after: int) -> Lent:
    """A device that was lost after so many measurements, and is there again."""
    device = make(_varied)
    device.before = _lose(after)
    with pytest.raises(DeviceLost):
        run_campaign(entrants, device, LONG, state=state)
    device.before = lambda command: None
    return device


@pytest.mark.parametrize("after", [3, 6, 10, 19])
def test_a_continued_campaign_equals_an_undisturbed_one(
    synthetic: Make, entrants: list[Entrant], tmp_path: Path, after: int
) -> None:
    """Lost anywhere, connected again: the re-run keeps the finished blocks, and the result is that of one sitting."""
    undisturbed = run_campaign(entrants, synthetic(_varied), LONG, state=tmp_path / "a")
    device = _interrupted(synthetic, entrants, tmp_path / "b", after)
    before = len(device.measured)
    continued = run_campaign(entrants, device, LONG, state=tmp_path / "b")
    assert continued["campaign"]["resumed_blocks"] == after // 3
    assert len(device.measured) - before == len(continued["runs"]) - 3 * (after // 3)
    assert _stable(continued) == _stable(undisturbed)
    assert "W-RESUMED" in {warning["code"] for warning in continued["warnings"]}
    assert _files(tmp_path / "b") == []


def test_the_error_says_how_far_it_was(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """A lost device is named with the blocks that are done; that they are kept is said only when it is so."""
    device = synthetic(_varied)
    device.before = _lose(13)
    with pytest.raises(DeviceLost) as kept:
        run_campaign(entrants, device, LONG, state=tmp_path)
    assert kept.value.what == "device 'synthetic' was lost after block 4 of 7"
    assert "no answer for 15 s" in kept.value.why
    assert "4 finished blocks are kept" in kept.value.fix
    device = synthetic(_varied)
    device.before = _lose(13)
    with pytest.raises(DeviceLost) as gone:
        run_campaign(entrants, device, LONG)
    assert "kept" not in gone.value.fix


def test_other_faults_of_a_device_keep_blocks_too(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Garbage in mid-campaign is an error, never a result from what there was; finished blocks are kept."""
    device = synthetic(_varied)
    device.before = _lose(7, DeviceError("the device gave no valid answer", "half a document", "check it"))
    with pytest.raises(DeviceError, match="after block 2 of 7"):
        run_campaign(entrants, device, LONG, state=tmp_path)
    device.before = lambda command: None
    assert run_campaign(entrants, device, LONG, state=tmp_path)["campaign"]["resumed_blocks"] == 2


def test_the_host_may_be_killed(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Kill -9 of the measuring process loses only the block it was in."""
    child = os.fork()
    if child == 0:
        device = synthetic(_varied)
        device.before = lambda command: os.kill(os.getpid(), signal.SIGKILL) if len(device.measured) == 8 else None
        run_campaign(entrants, device, LONG, state=tmp_path / "b")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    device = synthetic(_varied)
    device.finished = 2
    continued = run_campaign(entrants, device, LONG, state=tmp_path / "b")
    assert continued["campaign"]["resumed_blocks"] == 2
    assert _stable(continued) == _stable(run_campaign(entrants, synthetic(_varied), LONG, state=tmp_path / "a"))


def test_without_a_block_it_begins_anew(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Attempts that were all discarded cost a re-run nothing: it starts afresh, with its whole budget."""
    slow = {"before": {"wall_ns": 200_000_000, "cpu_ns": 200_000_000}, "after": None}
    device = synthetic(_varied, sentinel=slow)
    device.before = _lose(4)
    with pytest.raises(DeviceLost, match="after block 0 of 7"):
        run_campaign(entrants, device, LONG, state=tmp_path)
    fresh = run_campaign(entrants, synthetic(_varied), LONG, state=tmp_path)
    assert fresh["campaign"]["resumed_blocks"] == 0
    assert fresh["campaign"]["repeated"] == {"sentinel": 0, "warmup": 0}


def test_the_budget_is_that_of_the_whole_campaign(
    clock: Any,  # noqa: ANN401 - a fixture that no test can import
    synthetic: Make,
    entrants: list[Entrant],
    tmp_path: Path,
) -> None:
    """What an interrupted campaign had used of its budget is not given again."""
    options = CampaignOptions(budget_s=60, seed=1)
    device = synthetic(lambda name, block: 1e6 * (1 + 0.3 * (block % 2)))
    device.before = _lose(16)
    with pytest.raises(DeviceLost):
        run_campaign(entrants, device, options, state=tmp_path)
    device.before = lambda command: None
    begin = clock.now_s
    found = run_campaign(entrants, device, options, state=tmp_path)
    assert found["campaign"]["resumed_blocks"] == 5
    assert found["campaign"]["stop"] == "budget"
    assert clock.now_s - begin < 30
    assert found["campaign"]["wall_s"] < 65


def test_a_torn_end_is_ignored(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Cut anywhere, a journal gives the entries before the cut, never a wrong one; it is whole again after."""
    _interrupted(synthetic, entrants, tmp_path, 10)
    path = _files(tmp_path)[0]
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    now = dt.datetime.now(dt.UTC)
    rng = np.random.default_rng(5)
    for cut in [*rng.integers(0, len(data), 30).tolist(), *ends, ends[-1] - 1]:
        path.write_bytes(data[:cut])
        found = journal.recall(tmp_path, path.stem, now)
        whole = sum(end <= cut for end in ends) - 1
        assert (0 if found is None else len(found[1])) == max(0, whole)
    path.write_bytes(data[: ends[2] + 5])
    device = synthetic(_varied)
    device.finished, device.before = 2, _lose(3)
    with pytest.raises(DeviceLost):
        run_campaign(entrants, device, LONG, state=tmp_path)
    found = journal.recall(tmp_path, path.stem, now)
    assert found is not None
    assert [item.block for item in found[1]] == [0, 1, 2]


def test_a_damaged_entry_ends_the_journal(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """A flipped bit anywhere makes that entry and those after it count as never written."""
    _interrupted(synthetic, entrants, tmp_path, 10)
    path = _files(tmp_path)[0]
    data = path.read_bytes()
    rng = np.random.default_rng(6)
    for at in rng.integers(0, len(data), 40).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        found = journal.recall(tmp_path, path.stem, dt.datetime.now(dt.UTC))
        line = data[:at].count(b"\n")
        if line == 0:
            assert found is None
            path.parent.mkdir(exist_ok=True)
        else:
            assert (0 if found is None else len(found[1])) == line - 1


@pytest.mark.parametrize("age", [dt.timedelta(hours=25), dt.timedelta(hours=-1)])
def test_an_expired_journal_is_ignored(
    synthetic: Make, entrants: list[Entrant], tmp_path: Path, age: dt.timedelta
) -> None:
    """Blocks of over a day ago, or of a clock that was wrong, are not used; their file is removed."""
    device = _interrupted(synthetic, entrants, tmp_path, 10)
    path = _files(tmp_path)[0]
    name = path.stem
    assert journal.recall(tmp_path, name, dt.datetime.now(dt.UTC)) is not None
    assert journal.recall(tmp_path, name, dt.datetime.now(dt.UTC) + age) is None
    assert not path.exists()
    device.finished = 0
    assert run_campaign(entrants, device, LONG, state=tmp_path)["campaign"]["resumed_blocks"] == 0


def _other_engine(entrant: Entrant) -> None:
    (entrant.folder / "engine.onnx").write_bytes(b"another")
    build = EngineBuild.read(entrant.folder)
    text = (entrant.folder / "engine.json").read_text()
    (entrant.folder / "engine.json").write_text(text.replace(build.sha256, sha256_file(entrant.folder / "engine.onnx")))


def _other_options(entrant: Entrant) -> None:
    text = (entrant.folder / "engine.json").read_text()
    (entrant.folder / "engine.json").write_text(text.replace('"threads": 1', '"threads": 2').replace(
        '"threads":1', '"threads":2'
    ))  # fmt: skip


def _other_samples(entrant: Entrant) -> None:
    np.savez(entrant.samples, x=np.ones((20, 3), np.float32))


@pytest.mark.parametrize("change", [_other_engine, _other_options, _other_samples])
def test_something_else_is_another_campaign(
    synthetic: Make, entrants: list[Entrant], tmp_path: Path, change: Callable[[Entrant], None]
) -> None:
    """Blocks are never mixed with those of another engine, other options or other samples."""
    _interrupted(synthetic, entrants, tmp_path, 10)
    change(entrants[1])
    assert run_campaign(entrants, synthetic(_varied), LONG, state=tmp_path)["campaign"]["resumed_blocks"] == 0


def test_another_device_or_seed_is_another_campaign(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """Blocks are never mixed with those of another device or of other options of the campaign."""
    _interrupted(synthetic, entrants, tmp_path, 10)
    device = synthetic(_varied)
    device.facts_raw["fingerprint"] = "g"
    assert run_campaign(entrants, device, LONG, state=tmp_path)["campaign"]["resumed_blocks"] == 0
    other = CampaignOptions(budget_s=1000, seed=2)
    assert run_campaign(entrants, synthetic(_varied), other, state=tmp_path)["campaign"]["resumed_blocks"] == 0


def test_paths_do_not_matter(synthetic: Make, entrants: list[Entrant], tmp_path: Path) -> None:
    """The same contents at another place are the same campaign; the journal names no path and is private."""
    device = _interrupted(synthetic, entrants, tmp_path / "state", 10)
    text = _files(tmp_path / "state")[0].read_text()
    assert str(tmp_path) not in text
    mode = stat.S_IMODE(_files(tmp_path / "state")[0].stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
    moved = []
    for entrant in entrants:
        folder = entrant.folder.rename(tmp_path / f"moved-{entrant.name}")
        samples = tmp_path / f"moved-{entrant.name}.npz"
        samples.write_bytes(entrant.samples.read_bytes())
        moved.append(Entrant(name=entrant.name, folder=folder, samples=samples))
    assert run_campaign(moved, device, LONG, state=tmp_path / "state")["campaign"]["resumed_blocks"] == 3


def test_blocks_are_on_the_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise R2: each line of a campaign's journal is fsynced, whole, and so is the folder with its name."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    synced: list[bytes] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        synced.append(Path(f"/proc/self/fd/{descriptor}").read_bytes() if is_file else b"")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    header = journal.Header(
        utc_start="2026-01-01T00:00:00+00:00", quiet=True, twin=False, warmup_s=1.0, timed_s=1.0, sentinel={}
    )
    with journal.open_journal(state, "c", header, ()) as opened:
        opened.append(journal.Pass(
            block=0, attempt=0, order=("a",), rows=({"raw": [1]},), discarded=None, warmup_s=1.0, length_s=1.0,
            elapsed_s=1.0, waited_s=0.0,
        ))  # fmt: skip
    lines = [data.count(b"\n") for data in synced if data]
    assert lines == [1, 2], "a line was not on the disk when it was said to be"
    assert len(synced) == 3, "the folder with the journal's name was not fsynced"
