"""Reads a weights file: safetensors here, pickles of torch in a limited child that may do nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.errors import InputError
from targets.process import call_limited, untrusted

if TYPE_CHECKING:
    from torch import Tensor

_LFS_HEADER: Final = b"version https://git-lfs"
_TIMEOUT_S: Final = 900.0


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors``, ``.pt`` or ``.pth`` file by name.

    Raises:
        InputError: It is missing, of another kind, damaged, or holds something else than a state dict.
        RefusedError: It holds code beside tensors.
        EnvironmentFailure: Reading it took more memory or time than there is.
    """
    if path.suffix not in {".safetensors", ".pt", ".pth"}:
        raise InputError(
            f"cannot read weights from {path.name}",
            f"{path.suffix!r} is no known kind",
            "give .safetensors (preferred), .pt or .pth",
        )
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_LFS_HEADER)) == _LFS_HEADER
    except OSError as error:
        raise unreadable(path, error) from error
    if pointer:
        raise InputError(
            f"cannot read weights from {path}", "it is a Git LFS pointer, not the file", "run `git lfs pull`"
        )
    if path.suffix == ".safetensors":
        return _safetensors(path)
    with tempfile.TemporaryDirectory(prefix="edgepress-weights-") as scratch:
        converted = Path(scratch, "weights.safetensors")
        call_limited(
            "pipeline.weights.child:convert_in_child",
            {"weights": str(path.resolve()), "shown": str(path), "out": str(converted)},
            limits=untrusted(_TIMEOUT_S),
            what=f"reading the weights {path.name}",
        )
        return {name: tensor.clone() for name, tensor in _safetensors(converted).items()}  # not mapped: the file goes


def unreadable(path: object, error: BaseException) -> InputError:
    """The error of a file that is not whole."""
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return InputError(f"cannot read weights from {path}", why, "check that the file is whole; save or copy it again")


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise unreadable(path, error) from error
