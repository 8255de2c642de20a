"""targets.files: whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets import files
from targets.errors import EnvironmentFailure


@given(data=st.binary(max_size=3000))
def test_hashes_agree_with_hashlib(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Both hashes are the sha256 of the bytes."""
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(data)
    assert files.sha256_file(path) == files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()


def test_write_atomic_replaces(tmp_path: Path) -> None:
    """A written file has its bytes and mode, replaces the old one, and leaves no temporary."""
    path = tmp_path / ("n" * 255)
    files.write_atomic(path, b"old")
    files.write_atomic(path, b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is fsynced before it gets its name, and the folder after."""
    calls: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def spy_fsync(descriptor: int) -> None:
        calls.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path.resolve() else "file")
        fsync(descriptor)

    def spy_rename(self: Path, target: Path) -> Path:
        calls.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "rename", spy_rename)
    files.write_atomic(tmp_path / "x", b"x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EMFILE])
def test_write_atomic_fault(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk fault says what, why and how to fix in one line each; the old file stays and no temporary is left."""
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(EnvironmentFailure) as caught:
        files.write_atomic(path, b"x" * 38_200_000)
    assert f"{path} (38.2 MB)" in caught.value.what
    assert os.strerror(number) in caught.value.why
    assert ("free at least 42 MB" in caught.value.fix) == (number in {errno.ENOSPC, errno.EDQUOT})
    assert str(caught.value).count("\n") == 2
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_missing_folder_is_told(tmp_path: Path) -> None:
    """A folder that is not there is an EnvironmentFailure that names the path."""
    with pytest.raises(EnvironmentFailure, match="No such file or directory"):
        files.write_atomic(tmp_path / "none" / "x", b"x")


def test_guard_can_be_narrow() -> None:
    """A guard for disk faults only lets a missing file pass unchanged."""
    with pytest.raises(FileNotFoundError), files.disk_guard("working", only=files.DISK_FAULTS):
        raise FileNotFoundError(errno.ENOENT, "missing", "x")


@pytest.mark.parametrize("can_exchange", [True, False])
def test_replace_folder(can_exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """The new folder takes the place of the old one as a whole, with or without an atomic exchange."""
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    destination = tmp_path / "bundle"
    for content in ("first", "second"):
        source = tmp_path / "new"
        (source / "deep").mkdir(parents=True)
        (source / "deep" / content).write_text(content)
        files.replace_folder(source, destination)
        assert [path.name for path in destination.rglob("*")] == ["deep", content]
        assert list(tmp_path.iterdir()) == [destination]


def test_replace_folder_is_never_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the new folder cannot take the place, the old one is put back."""
    source, destination = tmp_path / "new", tmp_path / "bundle"
    source.mkdir()
    destination.mkdir()
    (destination / "precious").write_text("old")
    rename = Path.rename

    def fail_for_source(self: Path, target: Path) -> Path:
        if self == source:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail_for_source)
    with pytest.raises(EnvironmentFailure, match="Input/output error"):
        files.replace_folder(source, destination)
    assert (destination / "precious").read_text() == "old"


@pytest.mark.parametrize("kind", ["file", "link"])
def test_replace_folder_keeps_what_is_no_folder(kind: str, tmp_path: Path) -> None:
    """A file or a link in the place is not replaced by a folder."""
    source, destination = tmp_path / "new", tmp_path / "bundle"
    source.mkdir()
    if kind == "file":
        destination.write_text("mine")
    else:
        destination.symlink_to(tmp_path)
    with pytest.raises(EnvironmentFailure, match="not a folder"):
        files.replace_folder(source, destination)
    assert destination.is_symlink() or destination.read_text() == "mine"


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    """Removing a link to a folder removes the link only; removing nothing is fine."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.remove_tree(tmp_path / "link")
    files.remove_tree(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["real"]
