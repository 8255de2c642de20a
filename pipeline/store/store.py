"""The store: reuse, publish, materialize, verify, gc.

Layout, all below one private folder::

    cas/ab/<sha256>  blobs, 0444                                       locks/<key>, locks/session
    ac/<key>.json    records, self-checked                             quarantine/   what was found damaged
    tmp/<random>     work in progress, locked while its maker lives    unfinished/<key>/  what an interrupted stage has

A record is written after its blobs, each by temporary, fsync, rename, fsync of the folder: killed at any instant, or
out of power, the store holds an entry whole or not at all. Nothing read is believed before it was hashed.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import TYPE_CHECKING, BinaryIO, Final, NoReturn, final

from pipeline.store import locks
from pipeline.store.blobs import Blobs, copy, open_plain, plain_files, stage_file
from pipeline.store.entries import (
    NO_NOTES,
    DamageError,
    Entry,
    FileRef,
    check_name,
    check_sha256,
    is_sha256,
    make_entry,
    read_record,
    write_record,
)
from pipeline.store.garbage import GcReport, collect
from pipeline.store.place import OTHER_CACHE, private_folder, private_root
from targets.errors import EnvironmentFailure
from targets.files import DISK_FAULTS, NEW_FILE, disk_guard, fsync_folder, megabytes, write_new

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

_FOLDERS: Final = ("cas", "ac", "tmp", "locks", "quarantine")


@final
class Store:
    """One store in one folder; any number of processes may use it at once, one thread may use one object.

    Args:
        root: The folder; made if need be, private.
        on_damage: Told, in one line, of every damage found; a warning in the log when not given.

    Raises:
        RefusedError: The folder is not ours, or others can write to it.
        EnvironmentFailure: It cannot be made.
    """

    def __init__(self, root: Path, *, on_damage: Callable[[str], None] = _log.warning) -> None:
        self.root: Final = private_root(root)
        self._on_damage = on_damage
        self._sessions = 0
        with disk_guard(f"making the cache {root}", path=self.root, hint=OTHER_CACHE):
            for name in _FOLDERS:
                private_folder(self.root / name)
            fsync_folder(self.root)
        self._blobs = Blobs(self.root / "cas")

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Says that a run uses the store, so that `gc` keeps off; removes what dead runs left. May be nested.

        Raises:
            EnvironmentFailure: The filesystem has no working locks.
        """
        with contextlib.nullcontext() if self._sessions else self._first_session():
            self._sessions += 1
            try:
                yield
            finally:
                self._sessions -= 1

    @contextlib.contextmanager
    def lock(self, key: str, *, on_wait: Callable[[str], None] | None = None) -> Iterator[None]:
        """Holds the lock of one key, so that one process does the work and the others wait and reuse it.

        Args:
            key: The key.
            on_wait: Told the key once, if another process holds it.
        """
        path = self.root / "locks" / check_sha256(key)
        with locks.held(path, on_wait=on_wait and (lambda: on_wait(key))):
            yield

    @contextlib.contextmanager
    def scratch(self, size_bytes: int = 0) -> Iterator[Path]:
        """A new private folder on the store's filesystem, removed at the end; a dead process's is removed later.

        Args:
            size_bytes: How much may be written there; told where the disk is full.

        Raises:
            EnvironmentFailure: It cannot be made, or the disk failed (full, read-only, ...) whoever worked in it.
        """
        guard = disk_guard(
            f"working in {self.root / 'tmp'}", path=self.root, size_bytes=size_bytes, hint=OTHER_CACHE, only=DISK_FAULTS
        )
        with guard, locks.scratch_folder(self.root / "tmp") as folder:
            yield folder

    def reuse(self, key: str) -> Entry | None:
        """The result with that key, every file of it hashed by this process; None if there is none.

        What is damaged is moved to ``quarantine/``, told to ``on_damage``, and counts as none.

        Raises:
            EnvironmentFailure: The disk refused.
        """
        with disk_guard(f"reading the cache {self.root}", path=self.root, hint=OTHER_CACHE):
            entry = self._load(check_sha256(key))
            if entry is None:
                return None
            for ref in entry.files:
                if not self._is_good(entry, ref):
                    return None
            with contextlib.suppress(FileNotFoundError):  # gc keeps what was used lately
                os.utime(self._record(key))
            return entry

    def publish(
        self,
        folder: Path,
        key: str,
        *,
        stage: str,
        meta: Mapping[str, object],
        measured: bool = False,
        notes: Mapping[str, object] = NO_NOTES,
    ) -> Entry:
        """Stores every file below a folder, the small results, and notes on how they came about, under that key.

        What was stored under the key before is replaced. All is written and fsynced before anything gets its name.

        Raises:
            RefusedError: Something in the folder is neither a plain file nor a folder.
            EnvironmentFailure: Disk full or the like; nothing was published, nothing is left behind.
            ValueError: There is neither a file nor a small result, or one is not plain finite JSON.
        """
        sources = plain_files(folder)
        if not sources and not meta:
            raise ValueError(f"stage {stage!r} has no result: {folder} is empty, and so is meta")
        with self.session(), self.scratch() as scratch:
            staged = []
            total_bytes = sum(source.lstat().st_size for source in sources.values())
            for number, (name, source) in enumerate(sources.items()):
                temporary = scratch / str(number)
                with self._writing(f"{name!r} ({megabytes(source.lstat().st_size)})", total_bytes):
                    staged.append((temporary, stage_file(source, name, temporary)))
            files = [ref for _, ref in staged]
            entry = make_entry(check_sha256(key), stage, files, meta, measured=measured, notes=notes)
            record, data = scratch / "record", write_record(entry)
            with self._writing(f"the record of {stage!r}", len(data)):
                write_new(record, data, 0o444)
                self._blobs.install(staged)
                record.rename(self._record(key))
                fsync_folder(self.root / "ac")
        return entry

    def materialize(self, entry: Entry, destination: Path) -> None:
        """Copies a result's files out, hashing them on the way; they must not be there yet.

        Raises:
            EnvironmentFailure: A file was damaged since `reuse` (run again), or the disk refused.
        """
        for ref in entry.files:
            path = destination.joinpath(*check_name(ref.name).split("/"))
            with disk_guard(f"writing {path} ({megabytes(ref.size_bytes)})", size_bytes=ref.size_bytes):
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._open(entry, ref) as file, os.fdopen(os.open(path, NEW_FILE, 0o666), "wb") as out:
                    try:
                        self._copy(file, entry, ref, out)
                    except BaseException:
                        path.unlink()
                        raise

    def read_bytes(self, entry: Entry, name: str) -> bytes:
        """One file of a result, hashed.

        Raises:
            KeyError: The result has no file of that name.
            EnvironmentFailure: It was damaged since `reuse` (run again), or the disk refused.
        """
        ref = {ref.name: ref for ref in entry.files}[name]
        data = io.BytesIO()
        with disk_guard(f"reading {name!r} from the cache {self.root}"), self._open(entry, ref) as file:
            self._copy(file, entry, ref, data)
        return data.getvalue()

    def entries(self) -> list[Entry]:
        """Every result with a sound record, sorted by stage and key; their files are not read."""
        with disk_guard(f"reading the cache {self.root}"):
            found = [self._load(key) for key in self._keys()]
        return sorted((entry for entry in found if entry), key=lambda entry: (entry.stage, entry.key))

    def verify(self) -> list[str]:
        """Hashes everything again; moves what is damaged to ``quarantine/`` and says what it was, a line for each."""
        damages: list[str] = []
        told, self._on_damage = self._on_damage, damages.append
        try:
            with disk_guard(f"reading the cache {self.root}"):
                self._blobs.forget()
                for entry in self.entries():
                    all(self._is_good(entry, ref) for ref in entry.files)
                for path in self._blobs.all():
                    self._verify_orphan(path)
        finally:
            self._on_damage = told
        return damages

    def gc(self, *, max_age_days: float | None = None, everything: bool = False) -> GcReport:
        """Removes results that were not used for so long, and what no result needs.

        Records of other versions are kept, with all they name, unless ``everything`` goes.

        Args:
            max_age_days: Results unused for longer go; None keeps all.
            everything: All results go.

        Raises:
            EnvironmentFailure: Runs are using the store, or the disk refused.
        """
        with locks.held_alone(self.root / "locks" / "session") as alone:
            if not alone:
                raise EnvironmentFailure(
                    f"cannot clean the cache {self.root}",
                    "a run is using it",
                    "wait until it ends, then run this again",
                )
            with disk_guard(f"cleaning the cache {self.root}"):
                return collect(self.root, self.entries(), max_age_days=max_age_days, everything=everything)

    @contextlib.contextmanager
    def _first_session(self) -> Iterator[None]:
        path = self.root / "locks" / "session"
        with locks.held(path, shared=True):
            locks.check_locks_work(path)
            with disk_guard(f"cleaning {self.root / 'tmp'}"):
                locks.remove_leftovers(self.root / "tmp")
            yield

    def _writing(self, what: str, size_bytes: int) -> contextlib.AbstractContextManager[None]:
        return disk_guard(
            f"writing {what} to the cache {self.root}", path=self.root, size_bytes=size_bytes, hint=OTHER_CACHE
        )

    def _record(self, key: str) -> Path:
        return self.root / "ac" / f"{key}.json"

    def _keys(self) -> list[str]:
        return sorted(path.stem for path in (self.root / "ac").glob("*.json") if is_sha256(path.stem))

    def _load(self, key: str) -> Entry | None:
        """The entry as its record has it; None if there is none, or of another version, or damaged."""
        path = self._record(key)
        if not os.path.lexists(path):
            return None
        try:
            with open_plain(path) as file:
                return read_record(file.read(), key)
        except DamageError as error:
            self._quarantine(path)
            self._on_damage(f"cache entry {key[:12]} damaged ({error}); moved to quarantine")
            return None

    def _is_good(self, entry: Entry, ref: FileRef) -> bool:
        try:
            self._blobs.check(ref)
        except DamageError as error:
            self._discard(entry, ref, error)
            return False
        return True

    def _verify_orphan(self, path: Path) -> None:
        try:
            self._blobs.check(FileRef(name=path.name, sha256=path.name, size_bytes=path.lstat().st_size))
        except DamageError as error:
            self._quarantine(path)
            self._on_damage(f"blob {path.name[:12]} damaged ({error}); moved to quarantine")

    def _open(self, entry: Entry, ref: FileRef) -> BinaryIO:
        try:
            return open_plain(self._blobs.path(ref.sha256))
        except DamageError as error:
            self._lost(entry, ref, error)

    def _copy(self, file: BinaryIO, entry: Entry, ref: FileRef, out: BinaryIO) -> None:
        try:
            copy(file, ref, out)
        except DamageError as error:
            self._lost(entry, ref, error)

    def _lost(self, entry: Entry, ref: FileRef, error: DamageError) -> NoReturn:
        self._discard(entry, ref, error)
        raise EnvironmentFailure(
            f"the cache entry of {entry.stage!r} was damaged while in use",
            str(error),
            "run the same command again: it is rebuilt; check the disk if this happens twice",
        ) from error

    def _discard(self, entry: Entry, ref: FileRef, error: DamageError) -> None:
        self._quarantine(self._record(entry.key))
        self._quarantine(self._blobs.path(ref.sha256))
        self._on_damage(f"cache entry {entry.key[:12]} of {entry.stage!r} damaged ({error}); moved to quarantine")

    def _quarantine(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process may be quicker
            path.rename(self.root / "quarantine" / f"{path.name}.{os.urandom(4).hex()}")
