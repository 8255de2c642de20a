"""The bytes of an ONNX file, told from everything else that is given in its place."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from targets.errors import InputError, RefusedError
from targets.onnxsplit import without_weights

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LFS_HEADER: Final = b"version https://git-lfs"
_PLAN: Final = b"trt"  # a TensorRT plan, which holds machine code, begins with ptrt or ftrt; of TensorRT-RTX with vtrt
_ORT_FORMAT: Final = slice(4, 8)
_HEAD: Final = 256
_AGAIN: Final = "give the path of an .onnx file"
_SPLIT: Final = 1 << 20  # smaller files are parsed at once


def read_model_bytes(path: Path, max_bytes: int) -> bytes:
    """All of a model file.

    Raises:
        InputError: Missing, empty, too large, no file, or plainly something else than a model.
        RefusedError: It is an engine: code, and no model.
    """
    _check_file(path, max_bytes)
    with _readable(path):
        data = path.read_bytes()
    _check_kind(path, data[:_HEAD], len(data))
    return data


def read_graph_bytes(path: Path, max_bytes: int) -> bytes:
    """A model file without its large weights where it can be taken apart (see `targets.onnxsplit`), else all of it.

    Raises:
        InputError: As for `read_model_bytes`.
        RefusedError: As for `read_model_bytes`.
    """
    if _check_file(path, max_bytes) >= _SPLIT:
        with _readable(path), path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            _check_kind(path, os.pread(stream.fileno(), _HEAD, 0), size)
            found = without_weights(stream.fileno(), size)
        if found is not None:
            return found
    return read_model_bytes(path, max_bytes)


def _check_file(path: Path, max_bytes: int) -> int:
    """The file's size."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", "the model cannot be read", _AGAIN) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read", str(error.strerror), _AGAIN) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a file", "a folder, device or pipe holds no model", _AGAIN)
    if found.st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes)", "it holds no model", "export or download it again")
    if found.st_size > max_bytes:
        raise InputError(
            f"{path.name} has {found.st_size} bytes", f"the limit is {max_bytes}", "keep weights in external data"
        )
    return found.st_size


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be read", str(error.strerror), "check the file's permissions") from error


def _check_kind(path: Path, head: bytes, size: int) -> None:
    if head.startswith(_LFS_HEADER):
        raise InputError(
            f"{path.name} is a Git LFS pointer ({size} bytes), not a model",
            "the large file itself was never downloaded",
            "run `git lfs pull` in its repository",
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"{path.name} is an HTML page, not a model",
            "a download usually saves a login or error page this way",
            "download the raw file again",
        )
    if head[1:4] == _PLAN or head[_ORT_FORMAT] == b"ORTM":
        kind = "an ONNX Runtime (.ort) file" if head[_ORT_FORMAT] == b"ORTM" else "a TensorRT plan"
        raise RefusedError(
            f"refused: {path.name} is {kind}, not a model",
            "engines run native code and fit one runtime; they are made here, never taken in",
            "give the .onnx file that it was built from",
        )
