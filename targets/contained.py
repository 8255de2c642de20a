"""Opens a file that a model names, inside the model's folder and nowhere else: every step is by descriptor, no link."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, Final

from targets.errors import InputError, RefusedError

_NO_FILES: Final = ("://", "_ORT_MEM_ADDR_")
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_contained(path: Path, tensor: str, location: str) -> BinaryIO:
    """The file ``location`` beside the model ``path``: regular, with one name, reached through no link.

    What is checked is what is open: a file that is swapped after the check is another file.

    Args:
        path: The model.
        tensor: Name of the tensor whose data lie there, for the message.
        location: What the model says; untrusted.

    Raises:
        InputError: It would lie inside, and is not there.
        RefusedError: It lies outside, behind a link, or is no regular file with one name.
    """
    parts = PurePosixPath(location).parts
    outside = PurePosixPath(location).is_absolute() or ".." in parts or bool(PureWindowsPath(location).drive)
    if not parts or outside or "\\" in location or "\0" in location:
        raise refused(path, tensor, location, "external data must lie in the model's own folder")
    if parts[0].startswith("~") or any(word in location for word in _NO_FILES):
        raise refused(path, tensor, location, "it names a home folder, a URL or a runtime's memory, not a file")
    with contextlib.ExitStack() as stack:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, folder)
        for part in parts[:-1]:
            folder = _step(folder, part, _READ | os.O_DIRECTORY, path, tensor, location)
            stack.callback(os.close, folder)
        descriptor = _step(folder, parts[-1], _READ, path, tensor, location)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise refused(path, tensor, location, "there is no such regular file beside the model")
    if found.st_nlink != 1:
        os.close(descriptor)
        why = f"the file has {found.st_nlink} names (hard links), and another may lie outside"
        raise refused(path, tensor, location, why)
    return os.fdopen(descriptor, "rb")


def _step(folder: int, part: str, flags: int, path: Path, tensor: str, location: str) -> int:
    try:
        return os.open(part, flags, dir_fd=folder)
    except FileNotFoundError as error:
        raise InputError(
            f"the external data {location!r} of {path.name} are missing",
            f"tensor {tensor!r} lies there, and there is no such file beside the model",
            "copy the data file into the model's folder, or export the model again as one file",
        ) from error
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            if stat.S_ISLNK(os.lstat(part, dir_fd=folder).st_mode):
                raise refused(path, tensor, location, f"{part!r} is a symbolic link") from None
        raise refused(path, tensor, location, "there is no such regular file beside the model") from error


def refused(path: Path, tensor: str, location: str, why: str) -> RefusedError:
    """The refusal of external data."""
    return RefusedError(
        f"tensor {tensor!r} of {path.name} points to external data {location!r}",
        why,
        "put a copy of the data file into the model's folder, or export the model again as one file",
    )
