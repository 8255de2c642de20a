"""This machine, as a device: the same packed program, a fresh process each time, one user at once."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from targets.devices.answers import MAX_ANSWER_BYTES, RawAnswer, printable
from targets.devices.base import Device, Session
from targets.devices.scripts import TIMING_CACHE
from targets.errors import DeviceError, EnvironmentFailure, RefusedError
from targets.files import disk_guard, megabytes, remove_tree, sha256_file, write_new
from targets.ondevice_pack import FILE_NAME, pack
from targets.process import Limits, run_limited

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_log = logging.getLogger(__name__)

_POLL_S: Final = 0.05
_MAX_HOLDER_BYTES: Final = 200


@final
class LocalDevice(Device):
    """Runs ``python -I ondevice.pyz`` on this machine."""

    name = "local"
    kind = "local"

    @contextlib.contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        if wait_s is None:
            with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
                yield _session(Path(folder))
            return
        place = _private_folder()
        with _locked(place / "local.lock", wait_s):
            work = place / "work"
            with disk_guard("making a working folder", path=place):
                left_bytes = _size_bytes(work)
                remove_tree(work)  # whoever made it is gone: we hold the lock
                work.mkdir(mode=0o700)
            if left_bytes:
                _log.warning("removed %s left by an interrupted run", megabytes(left_bytes))
            try:
                yield _session(work, place / "timing")
            finally:
                with disk_guard(f"removing {work}"):
                    remove_tree(work)


@final
class _LocalSession(Session):
    """A folder of this machine with the program beside it."""

    def __init__(self, program: Path, folder: Path, timing: Path | None) -> None:
        self._program = program
        self._folder = folder
        own = os.environ.get(TIMING_CACHE) or timing
        self._env = {} if own is None else {TIMING_CACHE: str(own)}

    def _put(self, source: Path, name: str) -> None:
        target = self._folder / name
        with disk_guard(f"copying {source}", path=self._folder, size_bytes=source.stat().st_size):
            if target.is_file() and sha256_file(target) == sha256_file(source):
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(f".{target.name}.part"[:255])
            shutil.copyfile(source, temporary)
            temporary.replace(target)

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        try:
            child = run_limited(
                [sys.executable, "-I", str(self._program), *command],
                limits=Limits(timeout_s=timeout_s),
                what=f"ondevice {command[0]}",
                cwd=self._folder,
                env=self._env,
                stdout_limit_bytes=MAX_ANSWER_BYTES,
            )
        except EnvironmentFailure as error:
            raise DeviceError(error.what, error.why, error.fix) from error
        return RawAnswer(returncode=child.returncode, stdout=child.stdout, stderr=child.stderr, wall_s=child.wall_s)

    def _fetch(self, name: str, target: Path) -> None:
        with disk_guard(f"copying {name}", path=target.parent):
            shutil.copyfile(self._folder / name, target)


def _session(folder: Path, timing: Path | None = None) -> Session:
    program, files = folder / FILE_NAME, folder / "files"
    with disk_guard("placing the device program", path=folder):
        write_new(program, pack())
        files.mkdir()
    return _LocalSession(program, files, timing)


def _private_folder() -> Path:
    """A folder of this user's that all his runs on this machine share; never one that others can write to."""
    folder = Path(tempfile.gettempdir(), f"edgepress-of-{os.getuid()}")
    with disk_guard(f"making {folder}"):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise RefusedError(
            f"refused to use {folder}",
            "it is not a folder of this user that nobody else can write to",
            "remove it, or choose another place with TMPDIR",
        )
    return folder


@contextlib.contextmanager
def _locked(path: Path, wait_s: float) -> Iterator[None]:
    """Holds the lock; the kernel frees it when we die."""
    with disk_guard(f"opening {path}"):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _wait(descriptor, wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} ({Path(sys.argv[0]).name})".encode()[:_MAX_HOLDER_BYTES], 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait(descriptor: int, wait_s: float) -> None:
    end_s = time.monotonic() + wait_s
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = printable(os.pread(descriptor, _MAX_HOLDER_BYTES, 0).decode("utf-8", "replace")) or "another run"
            if time.monotonic() >= end_s:
                raise DeviceError(
                    "device 'local' is in use",
                    f"{holder} has used it for all of the {wait_s:g} s that we waited",
                    "wait until it is done, or end it",
                ) from error
        else:
            return
        if not told:
            _log.warning("waiting for device 'local': %s uses it", holder)
            told = True
        time.sleep(_POLL_S)


def _size_bytes(folder: Path) -> int:
    if folder.is_symlink() or not folder.is_dir():
        return 0
    return sum(os.lstat(Path(place, name)).st_size for place, _, names in os.walk(folder) for name in names)
