"""pipeline.weights: no file of weights runs code, and none asks for more than it holds."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.weights import read_weights
from pipeline.weights.child import SAFE_TORCH, _check_version, convert_in_child
from pipeline.weights.picklescan import check_pickle
from targets.errors import EdgepressError, InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

_STATE = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)}


def _saved(**options: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(_STATE, buffer, **options)
    return buffer.getvalue()


def _with_pickle(data: bytes, name: str = "data.pkl") -> bytes:
    """A file of torch.save whose pickle is another one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved())) as old, zipfile.ZipFile(buffer, "w") as new:
        for member in old.namelist():
            new.writestr(member, data if member.endswith(name) else old.read(member))
    return buffer.getvalue()


def _convert(path: Path) -> dict[str, Any]:
    return convert_in_child({"weights": str(path), "shown": path.name, "out": str(path.with_name("out.safetensors"))})


class _System:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.canary}",)


class _SetState:
    def __setstate__(self, state: object) -> None: ...


def _call(canary: Path, opcode: bytes) -> bytes:
    """A hand-made pickle that calls ``os.system`` by way of another instruction."""
    argument = f"touch {canary}".encode()
    text = b"X" + struct.pack("<I", len(argument)) + argument
    if opcode == b"i":
        return b"\x80\x02(" + text + b"iposix\nsystem\n."
    if opcode == b"o":
        return b"\x80\x02(cposix\nsystem\n" + text + b"o."
    if opcode == b"\x93":
        return b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text + b"\x85R."
    return b"\x80\x02" + opcode + b"\x01" + b"\x00" * {b"\x82": 0, b"\x83": 1, b"\x84": 3}[opcode] + b")R."


_MADE: dict[str, Callable[[Path], bytes]] = {
    "os.system": lambda canary: pickle.dumps({"w": _System(canary)}, protocol=2),
    "os.system, protocol 4": lambda canary: pickle.dumps({"w": _System(canary)}, protocol=4),
    "INST": lambda canary: _call(canary, b"i"),
    "OBJ": lambda canary: _call(canary, b"o"),
    "STACK_GLOBAL": lambda canary: _call(canary, b"\x93"),
    "EXT1": lambda canary: _call(canary, b"\x82"),
    "EXT4": lambda canary: _call(canary, b"\x84"),
    "__setstate__": lambda _canary: b"\x80\x02c__main__\n_SetState\n)\x81}b.",
    "a getattr chain": lambda _canary: b"\x80\x02cbuiltins\ngetattr\n(cbuiltins\n__import__\nX\x02\x00\x00\x00ostR.",
    "torch.load itself": lambda _canary: b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    "torch.hub": lambda _canary: b"\x80\x02ctorch.hub\nload\nX\x01\x00\x00\x00x\x85R.",
    "a name with a dot": lambda _canary: b"\x80\x02ctorch\nSize.__reduce__\n.",
}


@pytest.mark.parametrize("make", _MADE.values(), ids=_MADE.keys())
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "bare"])
def test_no_instruction_gets_code_in(make: Callable[[Path], bytes], zipped: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Promise S1: whatever instruction names a foreign object, the file is refused, the name is told, nothing runs."""
    canary, path = tmp_path / "ran", tmp_path / "w.pt"
    data = make(canary)
    path.write_bytes(_with_pickle(data) if zipped else data)
    with pytest.raises(RefusedError, match=r"it holds code beside tensors: '.+' at byte \d+"):
        _convert(path)
    assert not canary.exists()


def test_the_check_itself_imports_and_starts_nothing(tmp_path: Path) -> None:
    """Promise S1: looking through a hostile pickle causes no import, no process, no open file (audit events)."""
    data = pickle.dumps({"w": _System(tmp_path / "ran")}, protocol=2)
    seen: list[str] = []
    watching = True

    def watch(event: str, _arguments: object) -> None:
        if watching and event in {"import", "exec", "compile", "open", "os.system", "subprocess.Popen", "os.exec"}:
            seen.append(event)

    sys.addaudithook(watch)
    try:
        with pytest.raises(RefusedError, match="posix"):
            check_pickle(io.BytesIO(data), "w.pt")
    finally:
        watching = False
    assert seen == []


def test_a_real_child_reads_and_refuses(tmp_path: Path) -> None:
    """Promise S1: weights come back from the child equal; code is refused by it with the global and its place."""
    path = tmp_path / "w.pt"
    path.write_bytes(_saved())
    read = read_weights(path)
    assert read.keys() == _STATE.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in _STATE.items())
    path.write_bytes(_with_pickle(pickle.dumps(_System(tmp_path / "ran"), protocol=2)))
    with pytest.raises(RefusedError, match=rf"{path}(.|\n)*'posix.system' at byte \d+"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_old_files_of_torch_load(tmp_path: Path) -> None:
    """Promise S1: files of torch before 1.6 (five bare pickles) are looked through and load."""
    path = tmp_path / "w.pt"
    path.write_bytes(_saved(_use_new_zipfile_serialization=False))
    assert _convert(path) == {"tensors": 2}


@pytest.mark.parametrize("number", range(5))
def test_code_in_any_of_the_old_pickles_is_found(number: int, tmp_path: Path) -> None:
    """Promise S1: each of the five pickles of an old file is looked through, not only the one with the tensors."""
    data = _saved(_use_new_zipfile_serialization=False)
    file, starts = io.BytesIO(data), []
    for _ in range(5):
        starts.append(file.tell())
        list(pickletools.genops(file))
    starts.append(file.tell())
    hostile = pickle.dumps(_System(tmp_path / "ran"), protocol=2)
    path = tmp_path / "w.pt"
    path.write_bytes(data[: starts[number]] + hostile + data[starts[number + 1] :])
    with pytest.raises(RefusedError, match=r"posix\.system"):
        _convert(path)
    assert not (tmp_path / "ran").exists()


def _flipped_byte() -> bytes:
    data = bytearray(_saved())
    position = data.index(struct.pack("<f", 5.0))
    data[position] ^= 1
    return bytes(data)


def _compressed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_saved())) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
    return buffer.getvalue()


def _encrypted_flag() -> bytes:
    data = bytearray(_saved())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _overlapping() -> bytes:
    """Two entries of the directory that point to the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." + bytes(100_000))
        info = archive.infolist()[0]
        twin = zipfile.ZipInfo("a/data/0")
        for name in ("header_offset", "CRC", "compress_size", "file_size"):
            setattr(twin, name, getattr(info, name))
        archive.filelist.append(twin)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        pytest.param(_flipped_byte(), "Bad CRC-32", id="a flipped bit of a weight"),
        pytest.param(_compressed(), "not as torch.save writes it", id="a compressed member, as in a bomb"),
        pytest.param(_encrypted_flag(), "not as torch.save writes it", id="flipped zip flags"),
        pytest.param(_overlapping(), "overlap", id="overlapping members"),
        pytest.param(_tar(), "no file of torch.save", id="a tar of torch 0.1"),
        pytest.param(b"7z\xbc\xaf\x27\x1c" + bytes(50), "no file of torch.save", id="7z"),
        pytest.param(b"<!DOCTYPE html><html>", "no file of torch.save", id="HTML"),
        pytest.param(b"", "no file of torch.save", id="empty"),
    ],
)
def test_damaged_files_are_told_as_such(data: bytes, told: str, tmp_path: Path) -> None:
    """Promise D6: damage is an input error; torch itself would load a flipped bit without a word."""
    path = tmp_path / "w.pt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=told):
        _convert(path)


def test_torchscript_is_refused(tmp_path: Path) -> None:
    """Promise S1: an archive with code in it is refused as code, whatever its suffix."""
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02}.")
        archive.writestr("net/code/__torch__.py", b"import os")
    with pytest.raises(RefusedError, match="TorchScript"):
        _convert(path)


def test_a_view_cannot_ask_for_more_than_the_file_holds(tmp_path: Path) -> None:
    """Promise D12: one stored number, seen as 2^40 of them, is refused by its size, not by the memory it would take."""
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, path)
    with pytest.raises(InputError, match=f"asks for {4 << 40} bytes"):
        _convert(path)


def test_an_old_torch_reads_no_pickles() -> None:
    """Promise S16: before torch 2.10 `weights_only` was no barrier: such a torch is refused, newer ones are not."""
    with pytest.raises(RefusedError, match=r"install torch 2\.10"):
        _check_version("2.9.1+cpu", "w.pt")
    _check_version(f"{SAFE_TORCH[0]}.{SAFE_TORCH[1]}.0", "w.pt")
    _check_version("3.0.0", "w.pt")


@pytest.mark.parametrize("opcode", [b"\x96", b"\x8e", b"\x8d", b"\x8b", b"T", b"X", b"B"])
def test_a_length_beyond_the_file_costs_no_memory(tmp_path: Path, opcode: bytes) -> None:
    """Sixty-four petabytes promised by eleven bytes are an error of ours; nothing is set aside for them."""
    path = tmp_path / "w.pt"
    path.write_bytes(opcode + b"\x00\x00\x00\x00\x00\x00\x00\x01"[-8 if opcode[0] >= 0x8D else -4 :])
    with pytest.raises(EdgepressError):
        _convert(path)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200), zipped=st.booleans())
def test_any_bytes_end_in_an_error_of_ours(data: bytes, zipped: bool, tmp_path_factory: pytest.TempPathFactory) -> None:  # noqa: FBT001
    """Promise S5: whatever the bytes, the outcome is an error in three lines."""
    path = tmp_path_factory.mktemp("w") / "w.pt"
    path.write_bytes(_with_pickle(b"\x80\x02" + data) if zipped else b"\x80" + data)
    with pytest.raises(EdgepressError):
        _convert(path)
