"""pipeline.store.store: what was put in comes out, or nothing does."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.store import Entry, Store, make_key
from targets.errors import EnvironmentFailure, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

_KEY = make_key({"stage": "export"})
_CONTENT = {"model.onnx": b"weights" * 500, "deep/io.json": b"{}", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    result = tmp_path / "result"
    for name, data in _CONTENT.items():
        (result / name).parent.mkdir(parents=True, exist_ok=True)
        (result / name).write_bytes(data)
    return result


@pytest.fixture
def damages() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, damages: list[str]) -> Store:
    return Store(tmp_path / "cache", on_damage=damages.append)


@pytest.fixture
def entry(store: Store, folder: Path) -> Entry:
    return store.publish(folder, _KEY, stage="export", meta={"ratio": 0.25})


def _blob(store: Store, entry: Entry, name: str = "model.onnx") -> Path:
    sha256 = {ref.name: ref.sha256 for ref in entry.files}[name]
    return store.root / "cas" / sha256[:2] / sha256


def _again(store: Store, damages: list[str]) -> Store:
    """The same store in what stands for a new process: nothing is known to be good."""
    return Store(store.root, on_damage=damages.append)


def test_published_comes_back(store: Store, entry: Entry, tmp_path: Path, damages: list[str]) -> None:
    """A result is reused, read and copied out as it was published, by this process and by the next."""
    for reader in (store, _again(store, damages)):
        assert reader.reuse(_KEY) == entry
        assert reader.entries() == [entry]
        assert reader.read_bytes(entry, "model.onnx") == _CONTENT["model.onnx"]
    store.materialize(entry, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == _CONTENT
    assert [ref.size_bytes for ref in entry.files] == [len(_CONTENT[ref.name]) for ref in entry.files]
    assert damages == []
    assert store.verify() == []


def test_unknown_key_is_none(store: Store) -> None:
    """A key that was never published is None; what is no key is our own bug."""
    assert store.reuse(_KEY) is None
    with pytest.raises(ValueError, match="not a sha256"):
        store.reuse("../../etc/passwd")


def test_blobs_are_read_only_and_private_from_the_copies(store: Store, entry: Entry, tmp_path: Path) -> None:
    """Blobs are 0444, and changing a copy does not change the store (no hard links)."""
    store.materialize(entry, tmp_path / "out")
    (tmp_path / "out" / "model.onnx").write_bytes(b"changed")
    assert _blob(store, entry).stat().st_mode & 0o777 == 0o444
    assert store.reuse(_KEY) == entry
    assert store.verify() == []


def _flip(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as rot does: same size, mode and time


def _truncate(path: Path, kept: float) -> None:
    """Cuts the tail off, at least one byte."""
    path.chmod(0o644)
    os.truncate(path, int((path.stat().st_size - 1) * kept))
    path.chmod(0o444)


def _link(path: Path) -> None:
    copy = path.with_name("elsewhere")
    path.rename(copy)
    path.symlink_to(copy)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _as_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


_DAMAGES: list[Callable[[Path], None]] = [
    _flip, _link, _as_folder, _as_pipe, Path.unlink,
    functools.partial(_truncate, kept=0.0), functools.partial(_truncate, kept=0.5),
    functools.partial(_truncate, kept=1.0),
]  # fmt: skip
_NAMES = ["flip", "link", "folder", "pipe", "missing", "empty", "half", "one-byte-less"]


@pytest.mark.parametrize("harm", _DAMAGES, ids=_NAMES)
@pytest.mark.parametrize("is_first_use", [True, False])
def test_damaged_blob_is_never_used(
    harm: Callable[[Path], None],
    is_first_use: bool,  # noqa: FBT001
    store: Store,
    entry: Entry,
    folder: Path,
    damages: list[str],
) -> None:
    """Damage of a blob is noticed, told, quarantined and healed, at first use and after a good use too."""
    if not is_first_use:
        assert store.reuse(_KEY) == entry
    harm(_blob(store, entry))
    assert store.reuse(_KEY) is None
    assert len(damages) == 1
    assert "moved to quarantine" in damages[0]
    assert store.entries() == []
    assert list((store.root / "quarantine").iterdir())
    assert store.publish(folder, _KEY, stage="export", meta={"ratio": 0.25}) == entry
    assert store.reuse(_KEY) == entry


@pytest.mark.parametrize("harm", _DAMAGES, ids=_NAMES)
def test_damaged_record_is_never_used(
    harm: Callable[[Path], None], store: Store, entry: Entry, folder: Path, damages: list[str]
) -> None:
    """Damage of a record is noticed, told, quarantined and healed; a missing one is just not there."""
    harm(store.root / "ac" / f"{_KEY}.json")
    assert store.reuse(_KEY) is None
    assert len(damages) == (harm is not Path.unlink)
    store.publish(folder, _KEY, stage="export", meta={"ratio": 0.25})
    assert store.reuse(_KEY) == entry


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_noticed(where: float, bit: int, store: Store, folder: Path) -> None:
    """Whatever bit of a blob flips, it is not used."""
    entry = store.publish(folder, _KEY, stage="export", meta={})
    blob = _blob(store, entry)
    data = bytearray(blob.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    blob.unlink()
    blob.write_bytes(data)
    assert store.reuse(_KEY) is None


@pytest.mark.parametrize("harm", _DAMAGES, ids=_NAMES)
def test_publishing_heals_a_bad_blob(
    harm: Callable[[Path], None], store: Store, entry: Entry, folder: Path, damages: list[str]
) -> None:
    """Publishing writes over a bad blob of the same name; it does not believe what is there."""
    harm(_blob(store, entry))
    store.publish(folder, make_key({"stage": "other"}), stage="other", meta={})
    assert store.reuse(_KEY) == entry
    assert damages == []


@pytest.mark.parametrize("harm", _DAMAGES, ids=_NAMES)
def test_damage_between_reuse_and_use_is_told(
    harm: Callable[[Path], None], store: Store, entry: Entry, tmp_path: Path
) -> None:
    """A blob that is damaged after it was checked is not copied out: the run stops and says to run again."""
    assert store.reuse(_KEY) == entry
    harm(_blob(store, entry))
    with pytest.raises(EnvironmentFailure, match="run the same command again"):
        store.materialize(entry, tmp_path / "out")
    assert not (tmp_path / "out" / "model.onnx").exists()
    with pytest.raises(EnvironmentFailure, match="run the same command again"):
        store.read_bytes(entry, "model.onnx")


def test_verify_finds_all(store: Store, entry: Entry, folder: Path) -> None:
    """Verify names every damage once, also in blobs of no result, and afterwards there is none."""
    (folder / "model.onnx").write_bytes(b"another")
    other = store.publish(folder, make_key({"stage": "other"}), stage="other", meta={})
    (store.root / "ac" / f"{other.key}.json").unlink()
    _flip(_blob(store, entry))
    _flip(_blob(store, other))
    assert [line.split()[0] for line in store.verify()] == ["cache", "blob"]
    assert store.verify() == []
    assert store.entries() == []


@pytest.mark.parametrize("kind", ["link", "pipe", "folder link"])
def test_only_plain_files_are_published(kind: str, store: Store, folder: Path) -> None:
    """A link or a pipe in a result is refused, and nothing is published."""
    if kind == "pipe":
        os.mkfifo(folder / "odd")
    else:
        (folder / "odd").symlink_to("/etc" if kind == "folder link" else "/etc/hostname")
    with pytest.raises(RefusedError, match="odd"):
        store.publish(folder, _KEY, stage="export", meta={})
    assert store.reuse(_KEY) is None
    assert list(store.root.glob("cas/*/*")) == []


def test_empty_result_is_our_bug(store: Store, tmp_path: Path) -> None:
    """A stage without any result is not published; small results alone are enough."""
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no result"):
        store.publish(tmp_path / "nothing", _KEY, stage="gate", meta={})
    entry = store.publish(tmp_path / "nothing", _KEY, stage="gate", meta={"verdict": "ship"}, measured=True)
    assert store.reuse(_KEY) == entry
    assert entry.measured


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE])
@pytest.mark.parametrize("call", ["fsync", "fchmod", "open"])
def test_disk_fault_publishes_nothing(
    number: int, call: str, store: Store, entry: Entry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk fault while publishing is told in three lines, leaves no temporary, and old results are whole."""
    original = getattr(os, call)

    def fail(*arguments: object, **options: object) -> object:
        if call == "open" and not (isinstance(arguments[1], int) and arguments[1] & os.O_EXCL):
            return original(*arguments, **options)
        raise OSError(number, os.strerror(number))

    (folder / "model.onnx").write_bytes(b"x" * 1_200_000)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(EnvironmentFailure) as caught:
            store.publish(folder, make_key({"stage": "other"}), stage="other", meta={})
    assert str(caught.value).count("\n") == 2
    assert str(store.root) in caught.value.what
    assert "EDGEPRESS_CACHE" in caught.value.fix
    assert list((store.root / "tmp").iterdir()) == []
    assert store.reuse(_KEY) == entry
    assert store.verify() == []
    assert store.entries() == [entry]


def test_disk_fault_of_a_stage_is_told(store: Store) -> None:
    """A full disk while a stage works in its folder is an EnvironmentFailure; a bug of the stage stays what it is."""
    with pytest.raises(EnvironmentFailure, match="EDGEPRESS_CACHE"), store.scratch():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError), store.scratch() as scratch:
        (scratch / "missing").read_text()
    assert list((store.root / "tmp").iterdir()) == []


def test_record_of_another_version_stays(store: Store, entry: Entry) -> None:
    """A record of another version is ignored, and neither it nor its blobs are deleted, until everything goes."""
    record = store.root / "ac" / f"{'cd' * 32}.json"
    record.write_text(f'{{"schema": 2, "blobs": ["{entry.files[-1].sha256}"]}}')
    (store.root / "ac" / f"{_KEY}.json").unlink()
    assert store.reuse("cd" * 32) is None
    assert store.entries() == []
    assert store.verify() == []
    store.gc(max_age_days=0)
    assert record.exists()
    assert [path.name for path in store.root.glob("cas/*/*")] == [entry.files[-1].sha256]
    store.gc(everything=True)
    assert not record.exists()
    assert list(store.root.glob("cas/*/*")) == []


def test_gc_removes_what_is_old_and_unneeded(store: Store, entry: Entry, folder: Path, tmp_path: Path) -> None:
    """Results unused for longer than the age go with the blobs nobody else needs; what was reused lately stays."""
    (folder / "model.onnx").write_bytes(b"other")
    other = store.publish(folder, make_key({"stage": "other"}), stage="other", meta={})
    for key in (entry.key, other.key):
        os.utime(store.root / "ac" / f"{key}.json", (1, 1))
    assert store.reuse(_KEY) == entry  # used now
    shutil.copytree(tmp_path / "result", store.root / "tmp" / "left")
    report = store.gc(max_age_days=30)
    assert (report.removed_entries, report.kept_entries) == (1, 1)
    assert report.removed_bytes >= len(b"other")
    assert store.entries() == [entry]
    assert store.reuse(_KEY) == entry
    assert sorted(path.name for path in store.root.glob("cas/*/*")) == sorted(ref.sha256 for ref in entry.files)
    assert list((store.root / "tmp").iterdir()) == []
    assert store.gc().kept_entries == 1


def test_gc_keeps_off_a_live_run(store: Store, entry: Entry) -> None:
    """While a run uses the store nothing is collected, and the message says so; afterwards it is."""
    with Store(store.root).session(), pytest.raises(EnvironmentFailure, match="a run is using it"):
        store.gc(everything=True)
    assert store.reuse(_KEY) == entry
    assert store.gc(everything=True).removed_entries == 1


def test_session_removes_leftovers_of_the_dead_only(store: Store) -> None:
    """A new session removes the temporary folders of dead processes and leaves those of living ones."""
    (store.root / "tmp" / "dead").mkdir()
    (store.root / "tmp" / "dead" / "file").write_text("x")
    with store.scratch() as alive, Store(store.root).session():
        assert list((store.root / "tmp").iterdir()) == [alive]
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, None])
def test_filesystem_without_locks_is_refused(number: int | None, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filesystem that has no locks, or takes every lock, is refused at the start of a session."""

    def flock(_descriptor: int, _operation: int) -> None:
        if number is not None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(EnvironmentFailure, match="no working file locks"), store.session():
        pass


def test_lock_that_was_removed_meanwhile_is_taken_anew(store: Store) -> None:
    """A waiter whose lock file was removed takes the new one, so that no two hold the same key."""
    path = store.root / "locks" / _KEY
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    def replace(_key: str) -> None:
        path.unlink()
        path.touch(mode=0o600)
        os.close(descriptor)

    with store.lock(_KEY, on_wait=replace):
        probe = os.open(path, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(probe)
