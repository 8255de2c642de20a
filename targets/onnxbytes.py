"""The bytes of an ONNX file, told from everything else that is given in its place."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

from targets.errors import InputError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

_LFS_HEADER: Final = b"version https://git-lfs"
_PLANS: Final = (b"ptrt", b"ftrt")  # TensorRT; a plan holds machine code
_ORT_FORMAT: Final = slice(4, 8)


def read_model_bytes(path: Path, max_bytes: int) -> bytes:
    """All of a model file.

    Raises:
        InputError: Missing, empty, too large, no file, or plainly something else than a model.
        RefusedError: It is an engine: code, and no model.
    """
    again = "give the path of an .onnx file"
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", "the model cannot be read", again) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read", str(error.strerror), again) from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is not a file", "a folder, device or pipe holds no model", again)
    if found.st_size == 0:
        raise InputError(f"{path.name} is empty (0 bytes)", "it holds no model", "export or download it again")
    if found.st_size > max_bytes:
        raise InputError(
            f"{path.name} has {found.st_size} bytes", f"the limit is {max_bytes}", "keep weights in external data"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read", str(error.strerror), "check the file's permissions") from error
    _check_kind(path, data)
    return data


def _check_kind(path: Path, data: bytes) -> None:
    if data.startswith(_LFS_HEADER):
        raise InputError(
            f"{path.name} is a Git LFS pointer ({len(data)} bytes), not a model",
            "the large file itself was never downloaded",
            "run `git lfs pull` in its repository",
        )
    if data[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise InputError(
            f"{path.name} is an HTML page, not a model",
            "a download usually saves a login or error page this way",
            "download the raw file again",
        )
    if data.startswith(_PLANS) or data[_ORT_FORMAT] == b"ORTM":
        kind = "an ONNX Runtime (.ort) file" if data[_ORT_FORMAT] == b"ORTM" else "a TensorRT plan"
        raise RefusedError(
            f"refused: {path.name} is {kind}, not a model",
            "engines run native code and fit one runtime; they are made here, never taken in",
            "give the .onnx file that it was built from",
        )
