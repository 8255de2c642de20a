"""Packs a folder into a deterministic ``.tar.gz``, and unpacks one without trusting it.

The unpacker reads the tar format itself (POSIX.1-1988 ustar, and the same subset of GNU tar): regular files and folders
with names in the header, nothing else. What it does not know it cannot be tricked by: links, devices, sparse files,
long-name and pax records are refused by their type, before anything is read on their behalf.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, NoReturn, final

from targets.errors import InputError, RefusedError
from targets.files import disk_guard, fsync_folder

_BLOCK: Final = 512
_CHUNK: Final = 1 << 20
_REGULAR: Final = frozenset({b"0", b"\0"})
_FOLDER: Final = b"5"
_KINDS: Final[Mapping[bytes, str]] = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a character device", b"4": "a block device", b"6": "a pipe",
    b"S": "a sparse file", b"L": "a long-name record", b"K": "a long-link record", b"x": "a pax record",
    b"g": "a global pax record",
}  # fmt: skip
_RATIO_FLOOR_BYTES: Final = 1 << 20  # the padding of a small archive compresses by any ratio
_MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLimits:
    """What an archive may hold.

    Attributes:
        entries: Files and folders.
        total_bytes: Size when unpacked.
        ratio: Size when unpacked, divided by the size of the archive.
    """

    entries: int = 100_000
    total_bytes: int = 20 << 30
    ratio: int = 200


def pack_archive(folder: Path, out_path: Path, *, top: str) -> None:
    """Writes ``folder`` as a ``.tar.gz`` whose bytes depend on names and contents alone.

    Entries are sorted; owner 0, mode 0644 and 0755, time 0; the gzip header carries neither name nor time. The
    environment has no say (``SOURCE_DATE_EPOCH`` neither): the same bundle has the same bytes everywhere.

    Args:
        folder: What to pack: regular files and folders.
        out_path: The archive, replaced atomically.
        top: Name of the one folder inside the archive.

    Raises:
        InputError: The folder is empty, or a name or a file is too long for the ustar format.
        RefusedError: The folder holds a link or a device.
        EnvironmentFailure: The disk is full or not writable.
    """
    _safe_path(top.encode())
    members = sorted(_walk(folder), key=lambda path: path.relative_to(folder).as_posix())
    if not any(path.is_file() for path in members):
        raise InputError(f"cannot pack {folder}", "it holds no files", "give a folder that `bundle` has written")
    part = out_path.with_name(f".{out_path.name}.{os.getpid()}.part")
    try:
        with disk_guard(f"writing {out_path}", path=out_path.parent):
            with part.open("wb") as file:
                with (
                    gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as zipped,
                    tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as tar,
                ):
                    _add(tar, folder, top)
                    for path in members:
                        _add(tar, path, f"{top}/{path.relative_to(folder).as_posix()}")
                file.flush()
                os.fsync(file.fileno())
            part.replace(out_path)
            fsync_folder(out_path.parent)
    except ValueError as error:  # tarfile: a name over 100 + 155 characters, a file over 8 GiB
        raise InputError(f"cannot pack {folder}", str(error), "shorten the name, or ship the folder itself") from error
    finally:
        part.unlink(missing_ok=True)


def extract_archive(path: Path, destination: Path, *, limits: ArchiveLimits | None = None, hint: str = "") -> None:
    """Unpacks a ``.tar.gz`` into ``destination``, all of it or nothing.

    Args:
        path: The archive; untrusted.
        destination: A folder that does not exist yet; its parent does.
        limits: What the archive may hold.
        hint: Another way out where the disk is full, as `disk_guard` takes it.

    Raises:
        InputError: The archive cannot be read, or the destination exists.
        RefusedError: The archive is damaged, over a limit, or has an entry other than a plain file or folder.
        EnvironmentFailure: The disk is full or not writable.
    """
    if destination.exists() or destination.is_symlink():
        raise InputError(
            f"cannot unpack into {destination}", "it exists already", "name a folder that does not exist yet"
        )
    try:
        source = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error), "give the path of a .tar.gz") from error
    with source, disk_guard(f"unpacking {path} into {destination}", path=destination.parent, hint=hint):
        staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        try:
            _Unpacker(source, staging, limits or ArchiveLimits()).unpack()
            staging.chmod(0o755)
            staging.rename(destination)
            fsync_folder(destination.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield path
            yield from _walk(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise RefusedError(
                f"refused: {path} is a link or a device", "only files and folders are packed", f"remove {path}"
            )


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)  # owner 0, time 0
    if path.is_dir():
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(member)
        return
    with path.open("rb") as file:
        member.size, member.mode = os.fstat(file.fileno()).st_size, 0o644
        tar.addfile(member, file)


@final
class _Unpacker:
    """Streams one archive into a private, empty folder."""

    def __init__(self, source: BinaryIO, staging: Path, limits: ArchiveLimits) -> None:
        packed_bytes = os.fstat(source.fileno()).st_size
        self._budget_bytes = min(limits.total_bytes, max(_RATIO_FLOOR_BYTES, limits.ratio * packed_bytes))
        self._limits = limits
        self._staging = staging
        self._stream = gzip.GzipFile(fileobj=source, mode="rb")
        self._entries: set[str] = set()
        self._known: dict[str, tuple[str, bool]] = {}  # folded path, parents included -> its spelling, is it a folder

    def unpack(self) -> None:
        while True:
            header = self._read(_BLOCK, "a header")
            if not any(header):
                break
            self._entry(header)
        if not self._entries:
            _refuse("the archive", "is empty")
        while padding := self._decompress(_CHUNK):
            if any(padding):
                _refuse("the archive", "has data after its end")

    def _entry(self, header: bytes) -> None:
        _check_sum(header)
        raw = header[:100].split(b"\0")[0]
        if header[257:263] == b"ustar\0" and header[345] != 0:
            raw = header[345:500].split(b"\0")[0] + b"/" + raw
        kind, size = header[156:157], _octal(header[124:136])
        shown = repr(raw.decode("utf-8", "replace"))
        if kind not in _REGULAR and kind != _FOLDER:
            _refuse(f"archive entry {shown}", f"is {_KINDS.get(kind, 'of an unknown type')}, not a file or a folder")
        path = _safe_path(raw.removesuffix(b"/") if kind == _FOLDER else raw)
        self._claim(path, is_folder=kind == _FOLDER)
        if kind == _FOLDER:
            if size:
                _refuse(f"archive entry {shown}", "is a folder with content")
            (self._staging / path).mkdir(parents=True, exist_ok=True)
        else:
            self._file(path, size, shown)

    def _claim(self, path: PurePosixPath, *, is_folder: bool) -> None:
        """Every entry once, every name in one spelling (case and Unicode form folded); a file is nobody's parent."""
        for parent in path.parents:
            if parent.name and self._known.setdefault(_folded(parent), (str(parent), True)) != (str(parent), True):
                _refuse(
                    f"archive entry {str(path)!r}",
                    f"lies below {str(parent)!r}, which is a file or also spelled otherwise",
                )
        own = (str(path), is_folder)
        if str(path) in self._entries or self._known.setdefault(_folded(path), own) != own:
            _refuse(f"archive entry {str(path)!r}", "appears twice, or differs from another only in case")
        self._entries.add(str(path))
        if len(self._known) > self._limits.entries:
            _refuse("the archive", f"has over {self._limits.entries} entries")

    def _file(self, path: PurePosixPath, size: int, shown: str) -> None:
        if size > self._budget_bytes:
            _refuse(f"archive entry {shown}", f"unpacks to {size} bytes, over the limit for this archive")
        target = self._staging / path
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            left = size
            while left:
                piece = self._read(min(left, _CHUNK), shown)
                file.write(piece)
                left -= len(piece)
            file.flush()
            os.fsync(file.fileno())
        self._read(-size % _BLOCK, shown)

    def _read(self, size: int, what: str) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._decompress(size - len(data))
            if not piece:
                _refuse("the archive", f"is cut short in {what}")
            data += piece
        return data

    def _decompress(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except EOFError:
            _refuse("the archive", "is cut short")
        except (gzip.BadGzipFile, zlib.error) as error:
            _refuse("the archive", f"is damaged: {error}")
        self._budget_bytes -= len(data)
        if self._budget_bytes < 0:
            _refuse(
                "the archive",
                f"unpacks to over {self._limits.ratio} times its size, or {self._limits.total_bytes} bytes",
            )
        return data


def _check_sum(header: bytes) -> None:
    expected = _octal(header[148:156])
    if sum(header[:148]) + 8 * ord(" ") + sum(header[156:]) != expected:
        _refuse("the archive", "is damaged: a header does not match its checksum")


def _octal(field: bytes) -> int:
    text = field.split(b"\0")[0].strip(b" ")
    if not text or set(text) - set(b"01234567"):
        _refuse("the archive", "is damaged: a number in a header is not octal")
    return int(text, 8)


def _safe_path(raw: bytes) -> PurePosixPath:
    """The path of an entry, below the destination on every operating system."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        _refuse(f"archive entry {raw!r}", "has a name that is not UTF-8")
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        _refuse(f"archive entry {name!r}", "leaves the target folder")
    if len(parts) > _MAX_DEPTH or any(not _plain_part(part) for part in parts):
        _refuse(f"archive entry {name!r}", "has a name that is empty, too long, or not safe on every system")
    return PurePosixPath(name)


def _plain_part(part: str) -> bool:
    return (
        0 < len(part.encode()) <= 255  # noqa: PLR2004 - the length limit of Linux, macOS and Windows file systems
        and part != "."
        and not set(part) & set('\\:*?"<>|')
        and part.isprintable()
        and part == part.strip()
        and not part.endswith(".")
    )


def _folded(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _refuse(subject: str, why: str) -> NoReturn:
    raise RefusedError(
        f"refused: {subject} {why}",
        "an archive may hold plain files and folders only, each once, inside its own folder; nothing was extracted",
        "take the archive again from where it was built, or pack it with `edgepress bundle` or `tar --format=ustar`",
    )
