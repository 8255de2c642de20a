"""Turns a pickle of `torch.save` into safetensors; runs in a limited child only.

What torch gets to read is a copy made of the members that were looked at here, so that two readers of one zip file
cannot see two things in it.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.weights.picklescan import check_pickle
from pipeline.weights.reading import unreadable
from targets.errors import InputError, RefusedError

if TYPE_CHECKING:
    from typing import IO

    from torch import Tensor

SAFE_TORCH: Final = (2, 10)
"""Before, ``weights_only`` could be got round (CVE-2025-32434, CVE-2026-24747)."""

_OLD_PICKLES: Final = 5  # a file of torch before 1.6: magic number, version, system, tensors, names of storages
_ZIP_MAGIC: Final = b"PK\x03\x04"
_PICKLE_MAGIC: Final = b"\x80"
_ROOM_BYTES: Final = 1 << 20
_MAX_MEMBERS: Final = 100_000


def convert_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Reads ``weights`` (called ``shown`` in messages), writes ``out``; for `targets.process.call_limited`.

    Raises:
        InputError: The file is damaged, or no state dict.
        RefusedError: It holds code, or this torch cannot be trusted with it.
    """
    path, shown = Path(request["weights"]), str(request["shown"])
    _check_version(metadata.version("torch"), shown)
    try:
        with path.open("rb") as file:
            readable = _looked_through(file, shown)
            import torch  # only now: most of what is refused is refused before

            loaded = torch.load(readable, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise unreadable(shown, error) from error
    except pickle.UnpicklingError as error:
        raise _unpickling_error(shown, str(error)) from error
    state = _state_dict(loaded, path.name)
    _check_sizes(state, path.stat().st_size, shown)
    from safetensors.torch import save_file

    save_file({name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, request["out"])
    return {"tensors": len(state)}


def _check_version(version: str, shown: str) -> None:
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < SAFE_TORCH:
        raise RefusedError(
            f"refused to read weights from {shown}",
            f"torch {version} runs code that hides in such a file (CVE-2026-24747)",
            "install torch 2.10 or newer, or give the weights as .safetensors",
        )


def _looked_through(file: IO[bytes], shown: str) -> IO[bytes]:
    """What torch may read: every pickle in it has been looked through."""
    start = file.read(len(_ZIP_MAGIC))
    file.seek(0)
    if start == _ZIP_MAGIC:
        return _copied(file, shown)
    if start[:1] != _PICKLE_MAGIC:
        raise ValueError("it is no file of torch.save")
    for _ in range(_OLD_PICKLES):
        check_pickle(file, shown)
    file.seek(0)
    return file


def _copied(file: IO[bytes], shown: str) -> IO[bytes]:
    """A new zip file of the same members, each whole by its checksum, none of them code."""
    copy = io.BytesIO()
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as new:
        members = archive.infolist()
        _check_members(members, file.seek(0, io.SEEK_END), shown)
        for member in members:
            data = archive.read(member)  # compares the checksum, which torch does not
            if member.filename.endswith(".pkl"):
                check_pickle(io.BytesIO(data), shown)
            new.writestr(zipfile.ZipInfo(member.filename), data)
    copy.seek(0)
    return copy


def _check_members(members: list[zipfile.ZipInfo], size_bytes: int, shown: str) -> None:
    names = [member.filename for member in members]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise RefusedError(
            f"refused to read weights from {shown}",
            "it is a TorchScript archive, which holds code",
            "save a plain state dict: torch.save(model.state_dict(), path), or safetensors",
        )
    odd = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 or m.is_dir()]
    if odd or len(set(names)) != len(names) or len(names) > _MAX_MEMBERS:
        raise ValueError(f"its zip archive is not as torch.save writes it ({(odd or names)[0]!r})")
    if sum(member.file_size for member in members) > size_bytes:
        raise ValueError("members of its zip archive overlap")


def _check_sizes(state: Mapping[str, Tensor], size_bytes: int, shown: str) -> None:
    """A view may be larger than what it looks at: 4 bytes on the disk can ask for terabytes."""
    for name, tensor in state.items():
        if tensor.numel() * tensor.element_size() > size_bytes + _ROOM_BYTES:
            raise InputError(
                f"cannot read weights from {shown}",
                f"weight {name!r} asks for {tensor.numel() * tensor.element_size()} bytes, the file has {size_bytes}",
                "save contiguous tensors: {name: tensor.contiguous() for name, tensor in state.items()}",
            )


def _unpickling_error(shown: str, message: str) -> InputError | RefusedError:
    """A refusal that names the foreign global, or a damaged file."""
    found = re.search(r"Unsupported (?:global: GLOBAL|class|operand) (\S+)", message)
    fix = "save a plain state dict: torch.save(model.state_dict(), path), or safetensors"
    if found:
        return RefusedError(
            f"refused to read weights from {shown}", f"it holds code beside tensors: {found[1].rstrip('.')}", fix
        )
    return InputError(f"cannot read weights from {shown}", "it is damaged, or no file of torch.save", fix)


def _state_dict(loaded: object, file: str) -> dict[str, Tensor]:
    from torch import Tensor

    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if isinstance(loaded, Mapping) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return {str(name): tensor for name, tensor in loaded.items()}
    held = f"a dict with {', '.join(str(key) for key in loaded)[:200]}" if isinstance(loaded, Mapping) else ""
    raise InputError(
        f"{file} holds no state dict",
        f"it holds {held or type(loaded).__name__}",
        "save it with torch.save(model.state_dict(), path)",
    )
