"""Sources are found without being read, read exactly as hashed, and split the same way every time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import FactoryData, NpzData
from pipeline.data.find import find_data
from pipeline.data.shares import CALIBRATED, Shares
from pipeline.data.source import find_file
from pipeline.recipe import Recipe
from targets.errors import Fault, InputError


def _npz(folder: Path, seed: int = 0, /, **arrays: object) -> NpzData:
    path = folder / "data.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return _source(path, seed)


def _source(path: Path, seed: int = 0) -> NpzData:
    file = find_file(path, "data.npz")
    assert not isinstance(file, Fault)
    return NpzData(file=file, shares=Shares(parts=CALIBRATED, seed=seed))


def _refused(source: NpzData | FactoryData) -> str:
    with pytest.raises(InputError) as caught:
        source.load()
    return str(caught.value)


def _rows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.float32).reshape(count, 1)


@given(count=st.integers(3, 60), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_npz_splits_are_disjoint_and_complete(count: int, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every sample is in exactly one split, with its own label, and no split is empty."""
    folder = tmp_path_factory.mktemp("npz")
    data = _npz(folder, seed, x=_rows(count), labels=np.arange(count)).load()
    parts = [data[name] for name in ("calibration", "validation", "test")]
    assert all(len(part) for part in parts)
    assert sorted(value for part in parts for value in part.inputs["x"][:, 0]) == list(range(count))
    assert all(np.array_equal(part.labels, part.inputs["x"][:, 0]) for part in parts if part.labels is not None)
    assert [len(part) / count for part in parts] == pytest.approx([0.5, 0.25, 0.25], abs=1 / count)


def test_npz_split_depends_on_the_seed_alone(tmp_path: Path) -> None:
    """Same seed, same split; another seed, another one."""
    hashes = [_npz(tmp_path, seed, x=_rows(40)).load()["test"].sha256() for seed in (1, 1, 2)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_npz_samples_keep_the_files_numbers(tmp_path: Path) -> None:
    """Promise: a sample that a message names by its row is found in that row of the file, through every cut."""
    for split in _npz(tmp_path, x=_rows(40), labels=np.arange(40)).load().splits.values():
        cut = split.bound(("x",)).take(np.array([1, 0]))
        assert cut.rows is not None
        assert np.array_equal(_rows(40)[cut.rows], cut.inputs["x"])


@pytest.mark.parametrize("row", [0, 17, 39])
def test_npz_rows_with_nan_have_the_files_numbers(row: int, tmp_path: Path) -> None:
    """The row is named as the user finds it in the file, not by its place after the split."""
    rows = _rows(40)
    rows[row] = np.nan
    assert f"the first is number {row}" in _refused(_npz(tmp_path, x=rows))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples_say_how_many_are_needed(count: int, tmp_path: Path) -> None:
    """An empty split is an error before it is anything else."""
    message = _refused(_npz(tmp_path, x=_rows(count)))
    assert f"too few samples: {count}" in message
    assert "would be empty" in message


def test_arrays_of_objects_are_refused_and_do_not_run(tmp_path: Path) -> None:
    """A pickle inside the archive is an input error, and is not executed."""
    canary = tmp_path / "ran"

    class _Canary:
        def __reduce__(self) -> tuple[object, ...]:
            return (open, (str(canary), "w"))

    message = _refused(_npz(tmp_path, x=np.array([_Canary()] * 4, dtype=object)))
    assert "objects are refused" in message
    assert not canary.exists()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"labels": np.arange(4)}, "only array is `labels`"),
        ({}, "it is empty"),
        ({"x": _rows(4), "labels": np.arange(3)}, "x: 4, labels: 3"),
        ({"x": _rows(4), "mean": np.float32(3)}, "'mean'"),
        ({"x": _rows(4).astype(np.float64)}, "calibration.x is float64"),
    ],
)
def test_wrong_archives_are_refused_by_name(arrays: dict[str, object], words: str, tmp_path: Path) -> None:
    """What is wrong with the arrays is named."""
    assert words in _refused(_npz(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_file_that_is_no_archive_is_an_input_error(content: bytes, tmp_path: Path) -> None:
    """Any bytes give a message with the path, never a traceback."""
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert str(path) in _refused(_source(path))


@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_truncated_archive_is_an_input_error(share: float, tmp_path: Path) -> None:
    """A cut archive is named, compressed or not."""
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=_rows(500))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert str(path) in _refused(_source(path))


def test_lone_array_file_is_refused(tmp_path: Path) -> None:
    """A .npy under an .npz name has no input names."""
    with (tmp_path / "data.npz").open("wb") as file:
        np.save(file, _rows(4))
    assert "one array without a name" in _refused(_source(tmp_path / "data.npz"))


def test_npz_changed_during_the_run_is_refused(tmp_path: Path) -> None:
    """Results must belong to the bytes that were hashed."""
    source = _npz(tmp_path, x=_rows(8))
    _npz(tmp_path, x=_rows(9))
    assert "changed while the run" in _refused(source)


def _recipe(folder: Path, data: dict[str, object]) -> Recipe:
    return Recipe.model_validate(
        {"name": "r", "task": "fidelity", "model": {"onnx": "m.onnx"}, "data": data, "folder": folder}
    )


def _factory_source(folder: Path) -> FactoryData:
    (folder / "data.py").write_text(
        "import numpy as np\n"
        "def make(images, scale):\n"
        "    x = np.load(images)['x'] * np.float32(scale)\n"
        "    return {'train': (x, None), 'validation': (x[:2], None)}\n",
        encoding="utf-8",
    )
    np.savez(folder / "images.npz", x=_rows(5))
    found = find_data(
        _recipe(folder, {"factory": "data.py:make", "args": {"scale": 2}, "files": {"images": "images.npz"}})
    )
    assert isinstance(found, FactoryData), found
    return found


def test_factory_gets_arguments_and_paths(tmp_path: Path) -> None:
    """Files arrive as paths, relative to the recipe, beside the arguments."""
    data = _factory_source(tmp_path).load()
    assert np.array_equal(data["train"].inputs[""], _rows(5) * 2)


def test_factory_file_changed_during_the_run_is_refused(tmp_path: Path) -> None:
    """A data file that is not the hashed one any more stops the run and is named."""
    source = _factory_source(tmp_path)
    np.savez(tmp_path / "images.npz", x=_rows(6))
    message = _refused(source)
    assert "images.npz changed" in message
    assert "data.files.images" in message


def test_everything_missing_is_reported_at_once(tmp_path: Path) -> None:
    """Factory and files are each a fault, with path and the flag that changes it."""
    found = find_data(_recipe(tmp_path, {"factory": "data.py:make", "files": {"a": "a.npz", "b": "b.npz"}}))
    assert isinstance(found, list)
    assert [fault.where for fault in found] == ["data.factory", "data.files.a", "data.files.b"]
    assert "--set data.files.a=PATH" in found[1].fix
    assert str(tmp_path / "a.npz") in found[1].what


def test_npz_source_is_found_by_content(tmp_path: Path) -> None:
    """The file's hash is known without loading it; an absent one is a fault."""
    _npz(tmp_path, x=_rows(4))
    found = find_data(_recipe(tmp_path, {"npz": "data.npz"}))
    assert isinstance(found, NpzData)
    assert len(found.file.sha256) == 64
    missing = find_data(_recipe(tmp_path, {"npz": "gone.npz"}))
    assert isinstance(missing, list)
    assert missing[0].where == "data.npz"


def test_npz_arrays_may_name_their_splits(tmp_path: Path) -> None:
    """`train.x` and `train.labels` are the training split, as they stand."""
    arrays = {"train.x": _rows(3), "train.labels": np.arange(3), "validation.x": _rows(2), "validation.labels": [1, 0]}
    data = _npz(tmp_path, 0, **arrays).load()
    assert list(data.splits) == ["train", "validation"]
    assert data["train"].labels is not None
    assert data["train"].labels.tolist() == [0, 1, 2]
    assert "beside 'train.x'" in _refused(_npz(tmp_path, 0, **arrays, other=_rows(3)))


def test_npz_with_splits_contradicts_shares(tmp_path: Path) -> None:
    """A recipe that asks for shares would not get them: refused."""
    source = _npz(tmp_path, 0, **{"validation.x": _rows(2)})
    assert "data.split" in _refused(NpzData(file=source.file, shares=source.shares, chosen=True))


@given(count=st.integers(5, 200), parts=st.lists(st.integers(1, 9), min_size=2, max_size=4))
@settings(deadline=None, max_examples=40)
def test_shares_are_what_they_say(count: int, parts: list[int]) -> None:
    """Each split holds its share, to one sample; together they hold each row once."""
    names = ("train", "calibration", "validation", "test")
    shares = {name: part / sum(parts) for name, part in zip(names, parts, strict=False)}
    if min(shares.values()) * count < 2:
        shares = {"train": 0.5, "validation": 0.5}
    rows = Shares(parts=shares, seed=0).split(count, "here")
    assert sorted(row for part in rows.values() for row in part.tolist()) == [*range(count)]
    assert all(abs(len(rows[name]) - share * count) <= 1 for name, share in shares.items())
