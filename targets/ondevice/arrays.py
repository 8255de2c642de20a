"""Reads and writes the .npz files that pass between host and device."""

from __future__ import annotations

import errno
import os
import zipfile
import zlib

import numpy as np

from .failure import BAD_INPUT, ENVIRONMENT, Failure


def read_arrays(path: str, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of an .npz whose names start with ``prefix``, by the rest of their names.

    Raises:
        Failure: The file is missing, no .npz, or holds no such array.
    """
    try:
        # Opened here, because numpy leaves a file open that is no archive.
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:  # noqa: PTH123
            found = {name[len(prefix) :]: archive[name] for name in archive.files if name.startswith(prefix)}
    except (
        OSError, ValueError, EOFError, TypeError, AttributeError, NotImplementedError, zipfile.BadZipFile, zlib.error,
    ) as error:  # fmt: skip  # numpy takes other files than archives, too, and a damaged one can fail anywhere
        raise Failure(
            BAD_INPUT, f"cannot read {path}", str(error), "give the path of an .npz of plain arrays"
        ) from error
    if not found:
        raise Failure(
            BAD_INPUT,
            f"{path} holds no arrays",
            f"no array's name starts with {prefix!r}",
            "write the arrays under the names of the model's inputs",
        )
    return found


def read_inputs(path: str) -> dict[str, np.ndarray]:
    """Input arrays of a file of samples: named like the inputs, or ``input.<name>`` as in golden.npz."""
    arrays = read_arrays(path)
    golden = {name[len("input.") :]: array for name, array in arrays.items() if name.startswith("input.")}
    return golden or arrays


def write_arrays(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz atomically: temporary beside it, flush to disk, rename.

    Raises:
        Failure: The disk is full (5).
    """
    temporary = path + ".part"
    try:
        with open(temporary, "wb") as stream:  # noqa: PTH123 - os paths only in this program
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub reads the first keyword as a bool
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        size = sum(array.nbytes for array in arrays.values())
        why, fix = f"{os.strerror(error.errno)} ({path})", f"free {size / 1e6:.0f} MB there"
        raise Failure(ENVIRONMENT, "the disk is full", why, fix) from error
    finally:
        if os.path.exists(temporary):  # noqa: PTH110
            os.remove(temporary)  # noqa: PTH107
