"""Promises of the calibration set."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from calibration.samples import CalibrationSet
from targets.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

IO = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
}


def array(count: int = 10, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
    return np.arange(count * 3, dtype=dtype).reshape(count, 3)


def test_iterates_again_and_covers_every_sample() -> None:
    """Two iterations give the same batches, and together they are the samples in order."""
    samples = CalibrationSet({"x": array()}, batch_size=4)
    first, second = ([batch["x"] for batch in samples] for _ in range(2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert np.array_equal(np.concatenate(first), array())
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_round_trip_keeps_the_content(tmp_path: Path) -> None:
    """Saved and loaded samples have the same content hash; a changed value, name or type another one."""
    samples = CalibrationSet({"x": array()}, batch_size=4)
    samples.save(tmp_path / "s.npz")
    assert CalibrationSet.load(tmp_path / "s.npz", batch_size=3).content_sha256 == samples.content_sha256
    changed = array()
    changed[9, 2] += 1
    others = [{"x": changed}, {"z": array()}, {"x": array(dtype=np.float64)}, {"x": array(9)}]
    hashes = {CalibrationSet(other, batch_size=4).content_sha256 for other in others}
    assert len(hashes) == 4
    assert samples.content_sha256 not in hashes


def test_split_parts_the_samples() -> None:
    """Every fifth sample is held back, nothing is lost, and a tiny set serves as both."""
    samples = CalibrationSet({"x": array(12)}, batch_size=4)
    kept, held = samples.split(5)
    both = np.concatenate([batch["x"] for part in (kept, held) for batch in part])
    assert (len(kept), len(held)) == (10, 2)
    assert sorted(both[:, 0]) == sorted(array(12)[:, 0])
    tiny = CalibrationSet({"x": array(3)}, batch_size=4)
    assert tiny.split(5) == (tiny, tiny)


@pytest.mark.parametrize(
    ("arrays", "batch_size", "match"),
    [
        ({}, 1, "0 calibration samples"),
        ({"x": array(0)}, 1, "0 calibration samples"),
        ({"x": np.float32(1.0)}, 1, "0 calibration samples"),
        ({"x": array(3), "z": array(4)}, 1, "different numbers of samples"),
        ({"x": array(3)}, 0, "batch size is 0"),
        ({"x": np.array(["a"])}, 1, "have type <U1"),
    ],
)
def test_bad_samples_are_refused(arrays: dict[str, object], batch_size: int, match: str) -> None:
    """No samples, unequal counts, no numbers and empty batches are errors."""
    with pytest.raises(InputError, match=match):
        CalibrationSet({name: np.asarray(value) for name, value in arrays.items()}, batch_size=batch_size)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_names_input_and_sample(bad: float) -> None:
    """NaN or Inf is reported with the input's name and the sample's index."""
    values = array(600)
    values[517, 1] = bad
    with pytest.raises(InputError, match="sample 517 of input 'x'"):
        CalibrationSet({"x": values}, batch_size=8)


def test_mismatch_prints_both_sides() -> None:
    """Wrong names, types and shapes are refused, and both sides are in the message."""
    with pytest.raises(InputError) as names:
        CalibrationSet({"z": array()}, batch_size=2).check_against(IO)
    with pytest.raises(InputError) as dtype:
        CalibrationSet({"x": array(dtype=np.float64)}, batch_size=2).check_against(IO)
    with pytest.raises(InputError) as shape:
        CalibrationSet({"x": array()[:, :2]}, batch_size=2).check_against(IO)
    assert "['z']" in str(names.value)
    assert "['x']" in str(names.value)
    assert "float64" in str(dtype.value)
    assert "float32 ['batch', 3]" in str(dtype.value)
    assert "[10, 2]" in str(shape.value)
    CalibrationSet({"x": array()}, batch_size=3).check_against(IO)


def test_fixed_batch_needs_whole_batches() -> None:
    """A model of fixed batch size takes only samples in batches of that size, without remainder."""
    fixed = {"inputs": [{"name": "x", "dtype": "float32", "shape": [4, 3]}], "outputs": []}
    CalibrationSet({"x": array(12)}, batch_size=4).check_against(fixed)
    for count, size in ((10, 4), (12, 2)):
        with pytest.raises(InputError, match="batches of exactly 4"):
            CalibrationSet({"x": array(count)}, batch_size=size).check_against(fixed)


def test_pickles_and_rubbish_are_not_read(tmp_path: Path) -> None:
    """An object array (a pickle), text and a missing file are errors, not code that runs."""
    np.savez(tmp_path / "pickle.npz", x=np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("pickle.npz", "text.npz", "missing.npz"):
        with pytest.raises(InputError, match="cannot be read"):
            CalibrationSet.load(tmp_path / name, batch_size=1)


def test_samples_in_a_file_are_the_samples_in_memory(tmp_path: Path) -> None:
    """Loaded from an archive, compressed or not, or spooled from a generator: same batches, hashes, parts."""
    memory = CalibrationSet({"x": array(11), "z": array(11, np.float64)}, batch_size=4)
    memory.save(tmp_path / "s.npz")
    np.savez_compressed(tmp_path / "c.npz", x=array(11), z=array(11, np.float64))
    spooled = CalibrationSet.from_batches(memory.in_batches(3), tmp_path / "folder", batch_size=4)
    others = [CalibrationSet.load(tmp_path / name, batch_size=4) for name in ("s.npz", "c.npz", "folder")]
    for other in (spooled, *others):
        assert other.content_sha256 == memory.content_sha256
        assert other.ids == memory.ids
        for mine, theirs in zip(
            (memory, *memory.split(5), memory.split(5)[0].split(2)[1]),
            (other, *other.split(5), other.split(5)[0].split(2)[1]),
            strict=True,
        ):
            assert mine.content_sha256 == theirs.content_sha256
            assert all(np.array_equal(a[n], b[n]) for a, b in zip(mine, theirs, strict=True) for n in "xz")
    with np.load(tmp_path / "s.npz") as archive:
        assert np.array_equal(archive["z"], array(11, np.float64))


def test_ids_tell_samples_apart() -> None:
    """Equal samples have equal ids, others not; a part keeps the ids of its samples."""
    values = array(10)
    values[7] = values[2]
    samples = CalibrationSet({"x": values}, batch_size=4)
    assert samples.ids[7] == samples.ids[2]
    assert len(set(samples.ids)) == 9
    assert samples.split(5)[1].ids == (samples.ids[4], samples.ids[9])


def test_samples_in_a_file_are_never_held(tmp_path: Path) -> None:
    """Checking, hashing and iterating over 32 MB in a file needs memory for a part of it only."""
    batches = ({"x": np.full((64, 2048), i, np.float32)} for i in range(64))
    tracemalloc.start()
    samples = CalibrationSet.from_batches(batches, tmp_path / "s", batch_size=16)
    assert samples.content_sha256
    assert sum(len(batch["x"]) for batch in samples) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Other names, types or shapes in mid-stream, no batch at all, and a folder in use are errors."""
    for index, batches in enumerate(
        ([{"x": array(3)}, {"z": array(3)}], [{"x": array(3)}, {"x": array(3)[:, :2]}], [{"x": np.float32(1.0)}])
    ):
        with pytest.raises(InputError, match="cannot be kept"):
            CalibrationSet.from_batches(batches, tmp_path / str(index), batch_size=2)
    with pytest.raises(InputError, match="0 calibration samples"):
        CalibrationSet.from_batches([], tmp_path / "empty", batch_size=2)
    with pytest.raises(InputError, match="not empty"):
        CalibrationSet.from_batches([{"x": array(3)}], tmp_path / "empty", batch_size=2)


def test_a_file_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    """A truncated array is noticed when it is opened, not in the middle of the work."""
    CalibrationSet.from_batches([{"x": array(30)}], tmp_path / "s", batch_size=2)
    whole = (tmp_path / "s" / "0.npy").read_bytes()
    (tmp_path / "s" / "0.npy").write_bytes(whole[:-8])
    with pytest.raises(InputError, match="cannot be read"):
        CalibrationSet.load(tmp_path / "s", batch_size=2)
