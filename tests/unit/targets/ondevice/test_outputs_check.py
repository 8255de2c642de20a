"""Whether outputs of the timed calls are what was promised, and the kernel's cache of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.ondevice import pagecache
from targets.ondevice.outputs import digest, outputs_ok

if TYPE_CHECKING:
    from pathlib import Path

WANTED = np.array([[1.0, -2.0], [3.0, 4.0], [0.5, 8.0]])


def _expected(folder: Path, **arrays: object) -> str:
    np.savez(folder / "expected.npz", **{key.replace("__", "."): np.asarray(value) for key, value in arrays.items()})
    return str(folder / "expected.npz")


def test_rows_are_compared_with_their_own_sample(tmp_path: Path) -> None:
    """Rows in any order and number pass when each is its own sample's output, and fail against another's."""
    path = _expected(tmp_path, output__y=WANTED)
    assert outputs_ok({"y": WANTED[[2, 0, 2]].astype(np.float32)}, [2, 0, 2], path) is True
    assert outputs_ok({"y": WANTED[[2, 0]]}, [0, 2], path) is False


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.02, 0.02))
def test_without_atol_the_largest_magnitude_decides(tmp_path_factory: pytest.TempPathFactory, shift: float) -> None:
    """Property: an error is allowed up to a thousandth of the largest expected magnitude, here 0.008."""
    path = _expected(tmp_path_factory.mktemp("e"), output__y=WANTED)
    got = WANTED + shift
    assert outputs_ok({"y": got}, [0, 1, 2], path) is bool((np.abs(got - WANTED) <= 0.008).all())


@settings(max_examples=40, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(0, 0.1))
def test_with_atol_the_rule_is_that_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, shift: float, atol: float
) -> None:
    """Property: with ``atol.<name>`` outputs pass exactly where numpy's allclose (rtol 1e-3, that atol) does."""
    path = _expected(tmp_path_factory.mktemp("e"), output__y=WANTED, atol__y=atol)
    got = WANTED + shift
    assert outputs_ok({"y": got}, [0, 1, 2], path) is bool(np.allclose(got, WANTED, rtol=1e-3, atol=atol))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_wrong(tmp_path: Path, bad: float) -> None:
    """NaN and Inf are wrong, with nothing expected, too, and even where they are expected."""
    got = WANTED.copy()
    got[1, 1] = bad
    assert outputs_ok({"y": got}, [0, 1, 2], "") is False
    assert outputs_ok({"y": WANTED}, [0, 1, 2], _expected(tmp_path, output__y=got)) is False
    assert outputs_ok({"y": WANTED}, [0, 1, 2], "") is None


def test_missing_and_misshapen_expectations_are_wrong(tmp_path: Path) -> None:
    """An output that the file lacks, has too few samples of, or has in another shape never passes."""
    assert outputs_ok({"z": WANTED}, [0, 1, 2], _expected(tmp_path, output__y=WANTED)) is False
    assert outputs_ok({"y": WANTED}, [0, 1, 3], _expected(tmp_path, output__y=WANTED)) is False
    assert outputs_ok({"y": WANTED[:, :1]}, [0, 1, 2], _expected(tmp_path, output__y=WANTED)) is False


def test_the_hash_is_of_names_and_bytes() -> None:
    """The digest changes with a name, a value and an order of samples, not with the memory layout."""
    base = digest({"y": WANTED})
    assert base == digest({"y": np.asfortranarray(WANTED)})
    assert len({base, digest({"z": WANTED}), digest({"y": WANTED[::-1]}), digest({"y": WANTED + 1e-12})}) == 4


def test_a_dropped_file_is_out_of_memory(tmp_path: Path) -> None:
    """A file just read is in the cache; `drop` says true only if the kernel says that no page of it is left."""
    path = tmp_path / "engine.bin"
    path.write_bytes(bytes(range(256)) * 4096)
    path.read_bytes()
    before = pagecache.resident_pages(path)
    if before is None:
        pytest.skip("this kernel does not tell what is in its page cache")
    assert before == 256
    dropped = pagecache.drop(path)
    assert dropped is (pagecache.resident_pages(path) == 0)
    assert path.read_bytes()[:3] == b"\x00\x01\x02"


def test_a_file_that_stays_in_memory_is_called_warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pages stay (a file system in memory), or the kernel does not tell, it is not called dropped."""
    path = tmp_path / "engine.bin"
    path.write_bytes(b"x" * 10000)
    monkeypatch.setattr(pagecache.os, "posix_fadvise", lambda *_: None)
    path.read_bytes()
    assert pagecache.drop(path) is False
    monkeypatch.setattr(pagecache, "resident_pages", lambda _: None)
    assert pagecache.drop(path) is False
