"""The tensors of an ONNX file: data outside the file are found, contained and read; values are checked."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from targets.contained import open_contained, refused
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import onnx

SMALL_BYTES: Final = 1 << 16
"""Tensors up to this size are read even where the model is too large to be read whole: scales, zero points, shapes."""

INSIDE: Final = f"\0{os.urandom(16).hex()}"
"""The location of data that were left in the model's own file (`targets.onnxsplit`), for this process: no file can be
called so, and no model can say it."""

_PIECE_BYTES: Final = 1 << 18  # looked at together: they stay in the cache, and so do copies of them


def is_inside(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor's data were left in the model's own file."""
    return _location(tensor) == INSIDE


def load_external(path: Path, tensors: list[onnx.TensorProto], budget_bytes: int) -> None:
    """Reads every tensor that lies in another file into the model.

    Raises:
        InputError: They are larger than ``budget_bytes`` together.
        RefusedError: One lies outside the model's folder, behind a link, or past the end of its file.
    """
    from onnx.external_data_helper import uses_external_data

    left = budget_bytes
    for tensor in (tensor for tensor in tensors if uses_external_data(tensor) and not is_inside(tensor)):
        length = place(path, tensor)[2]
        left -= length
        if left < 0:
            raise InputError(
                f"the external data of {path.name} are too large",
                f"{budget_bytes} bytes are the limit, reached at tensor {tensor.name!r}",
                "use a smaller model",
            )
        _load(path, tensor)


def _slice(path: Path, name: str, facts: dict[str, str], size: int) -> tuple[int, int]:
    location = facts["location"]
    try:
        offset = int(facts.get("offset", "0"))
        length = int(facts.get("length", str(size - offset)))
    except ValueError:
        raise refused(path, name, location, "its offset or length is no number") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise refused(
            path,
            name,
            location,
            f"bytes {offset} to {offset + length} of a file of {size} bytes: it was cut off, or is another model's",
        )
    return offset, length


def load_small(path: Path, tensors: Sequence[onnx.TensorProto]) -> None:
    """Reads the small tensors that lie outside into the model; the large ones stay where they are."""
    from onnx.external_data_helper import uses_external_data

    for tensor in tensors:
        if uses_external_data(tensor) and not is_inside(tensor) and place(path, tensor)[2] <= SMALL_BYTES:
            _load(path, tensor)


def external_bytes(path: Path, tensors: Sequence[onnx.TensorProto]) -> int:
    """The size of all tensors that lie in other files, each where it may lie.

    Raises:
        RefusedError: One lies outside the model's folder, behind a link, or past the end of its file.
    """
    from onnx.external_data_helper import uses_external_data

    return sum(place(path, tensor)[2] for tensor in tensors if uses_external_data(tensor) and not is_inside(tensor))


def place(path: Path, tensor: onnx.TensorProto) -> tuple[Path, int, int]:
    """File, offset and length of a tensor that lies outside the model in ``path``.

    Raises:
        RefusedError: It points outside the model's folder, behind a link, or past the end of its file.
    """
    with open_outside(path, tensor) as (_, offset, length):
        return path.parent / _location(tensor), offset, length


@contextmanager
def open_outside(path: Path, tensor: onnx.TensorProto) -> Iterator[tuple[BinaryIO, int, int]]:
    """The open file of a tensor that lies outside the model in ``path``, at its first byte; offset and length.

    Raises:
        RefusedError: It points outside the model's folder, behind a link, or past the end of its file.
    """
    facts = {entry.key: entry.value for entry in tensor.external_data}
    with path.open("rb") if is_inside(tensor) else open_contained(path, tensor.name, _location(tensor)) as file:
        offset, length = _slice(path, tensor.name, {"location": "", **facts}, os.fstat(file.fileno()).st_size)
        file.seek(offset)
        yield file, offset, length


def _location(tensor: onnx.TensorProto) -> str:
    return next((str(entry.value) for entry in tensor.external_data if entry.key == "location"), "")


def _load(path: Path, tensor: onnx.TensorProto) -> None:
    import onnx

    with open_outside(path, tensor) as (file, offset, length):
        data = file.read(length)
        if len(data) != length:
            raise refused(path, tensor.name, _location(tensor), f"it ended at byte {offset + len(data)} meanwhile")
    tensor.raw_data = data
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def check_values(path: Path, tensor: onnx.TensorProto) -> None:
    """Checks that a tensor's data fit its shape and type, and that no number in it is NaN, or infinite by mistake.

    Raises:
        InputError: They do not, or one is.
    """
    import numpy as np

    for piece in pieces(path, tensor):
        if piece.dtype.kind != "f" and piece.dtype.name != "bfloat16":
            return
        if not np.isfinite(piece if piece.dtype.kind == "f" else piece.astype(np.float32)).all():
            whole = tensor_array(path, tensor)
            if not is_mask(whole if whole.dtype.kind == "f" else whole.astype(np.float32)):
                raise _not_finite(path, tensor, whole)
            return


def is_mask(values: np.ndarray[Any, np.dtype[Any]]) -> bool:
    """Whether infinities are meant: all of one sign, and beside them nothing but 0. A mask to add, a fill, a bound.

    Args:
        values: Floating-point numbers of any shape.
    """
    import numpy as np

    others = values[values != 0.0]
    return bool(others.size and (others == others[0]).all() and np.isinf(others[0]))


def pieces(path: Path, tensor: onnx.TensorProto) -> Iterator[np.ndarray[Any, np.dtype[Any]]]:
    """The values of a tensor, flat and in their order, a piece at a time; each is overwritten by the next.

    Raises:
        InputError: As for `tensor_array`.
        RefusedError: As for `tensor_array`, or the file became shorter.
    """
    import numpy as np
    from onnx.external_data_helper import uses_external_data

    array = tensor_array(path, tensor)
    if not uses_external_data(tensor):
        flat, count = array.reshape(-1), max(_PIECE_BYTES // array.itemsize, 1)
        yield from (flat[start : start + count] for start in range(0, flat.size, count))
        return
    dtype, left = array.dtype, array.nbytes
    buffer = np.empty(min(left, _PIECE_BYTES), np.uint8)
    with open_outside(path, tensor) as (file, _, _):
        while left:
            part = buffer[: min(left, buffer.size)]
            if file.readinto(part) != part.size:  # type: ignore[attr-defined]
                raise refused(path, tensor.name, _location(tensor), "it became shorter meanwhile")
            left -= part.size
            yield part.view(dtype)


def tensor_array(path: Path, tensor: onnx.TensorProto) -> np.ndarray[Any, np.dtype[Any]]:
    """The values of a tensor; of one that lies outside ``path``, a read-only view of its file.

    Raises:
        InputError: The data do not fit shape and type.
        RefusedError: It lies outside the model's folder, behind a link, or past the end of its file.
    """
    import numpy as np
    from onnx import helper, numpy_helper
    from onnx.external_data_helper import uses_external_data

    try:
        if not uses_external_data(tensor):
            return np.asarray(numpy_helper.to_array(tensor))
        dtype, shape = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)), tuple(map(int, tensor.dims))
        with open_outside(path, tensor) as (file, offset, length):
            values = np.memmap(file, np.uint8, "r", offset, (length,)) if length else np.zeros(0, np.uint8)
        return values.view(dtype).reshape(shape)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"tensor {tensor.name!r} of {path.name} cannot be read",
            f"its data do not fit its shape {[*tensor.dims]} and type {tensor.data_type}",
            "export the model again",
        ) from error


def _not_finite(path: Path, tensor: onnx.TensorProto, array: np.ndarray[Any, np.dtype[Any]]) -> InputError:
    import numpy as np

    bad = ~np.isfinite(array if array.dtype.kind == "f" else array.astype(np.float32))
    first = [int(axis) for axis in np.argwhere(bad)[0]]
    return InputError(
        f"weight {tensor.name!r} of {path.name} has {int(bad.sum())} NaN or Inf (first at {first})",
        "such a model computes nothing useful and cannot be quantised",
        "find the training step that produced them and export again",
    )
