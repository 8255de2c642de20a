"""Data files made to harm: bombs, lies about sizes, objects, damage."""

from __future__ import annotations

import contextlib
import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from pipeline.data import NpzData
from pipeline.data.npzfile import check_npz
from pipeline.data.shares import CALIBRATED, Shares
from pipeline.data.source import FileRef
from targets.errors import InputError
from targets.files import sha256_file

if TYPE_CHECKING:
    from pathlib import Path


def _load(path: Path) -> None:
    NpzData(file=FileRef(sha256=sha256_file(path), path=path), shares=Shares(parts=CALIBRATED, seed=0)).load()


def _archive(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def _array(shape: tuple[int, ...], data: bytes, descr: str = "<f4") -> bytes:
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


def test_a_bomb_is_refused_by_its_size(tmp_path: Path) -> None:
    """Promise S5: kilobytes that unpack to more than the memory are refused before a byte of them is unpacked."""
    bomb = _archive(tmp_path / "bomb.npz", {"x.npy": _array((25_000_000,), bytes(10**8))}, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 200_000
    with bomb.open("rb") as file, pytest.raises(ValueError, match="unpack to 1000001"):
        check_npz(file, limit_bytes=50_000_000)
    with bomb.open("rb") as file:
        check_npz(file)
        assert file.tell() == 0


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 30, 1 << 30), (2,)])
def test_a_header_that_lies_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Promise D12: a header of terabytes over four numbers allocates nothing."""
    path = _archive(tmp_path / "lie.npz", {"x.npy": _array(shape, bytes(16))})
    with pytest.raises(InputError, match=r"promises \d+ bytes and holds"):
        _load(path)


def test_too_many_arrays_are_refused(tmp_path: Path) -> None:
    """Promise S5: a directory of a hundred thousand arrays is no data set."""
    path = _archive(tmp_path / "many.npz", {f"{n}.npy": b"" for n in range(10_001)})
    with pytest.raises(InputError, match="10001 arrays"):
        _load(path)


def test_objects_are_refused_and_nothing_runs(tmp_path: Path) -> None:
    """Promise S1: an array of objects is a pickle, and is not loaded."""

    class Canary:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(tmp_path / "ran"), "w"))

    np.savez(tmp_path / "objects.npz", x=np.array([Canary()] * 4, dtype=object))
    with pytest.raises(InputError, match="arrays of objects are refused"):
        _load(tmp_path / "objects.npz")
    assert not (tmp_path / "ran").exists()


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, 10_000), flip=st.integers(1, 255), keep=st.integers(0, 10_000))
def test_damage_is_an_input_error(
    position: int, flip: int, keep: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Promise D6: a flipped byte and a cut never end in anything but data or three lines."""
    path = tmp_path_factory.mktemp("npz") / "d.npz"
    np.savez_compressed(path, x=np.arange(36, dtype=np.float32).reshape(12, 3), labels=np.arange(12) % 3)
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= flip
    path.write_bytes(data[: max(1, keep % (2 * len(data)))])
    with contextlib.suppress(InputError):
        _load(path)
