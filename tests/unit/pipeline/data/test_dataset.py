"""Data is checked on the way in: every wrong form is refused by name, every right one arrives unchanged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import Split
from pipeline.data.dataset import dataset_from
from targets.errors import InputError

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 0, 1])
VALIDATION = {"validation": (X, Y)}


def _refused(value: object) -> str:
    with pytest.raises(InputError) as caught:
        dataset_from(value)
    return str(caught.value)


def test_arrays_arrive_unchanged() -> None:
    """Inputs and labels are the arrays that were given, not copies of other types."""
    data = dataset_from({"train": (X, Y), **VALIDATION})
    assert data["train"].inputs[""] is X
    assert data["validation"].labels is Y
    assert len(data["train"]) == 4


def test_inputs_without_labels_are_allowed() -> None:
    """A split may be the inputs alone, one array or several by name."""
    assert dataset_from({"validation": X})["validation"].labels is None
    assert list(dataset_from({"validation": {"a": X, "b": X}})["validation"].inputs) == ["a", "b"]


def test_calibration_falls_back_in_the_documented_order() -> None:
    """The calibration split, else training, else validation."""
    splits = {"calibration": X[:1], "train": X[:2], "validation": X[:3]}
    found = [len(dataset_from(dict(list(splits.items())[first:])).calibration) for first in range(3)]
    assert found == [1, 2, 3]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, ["it is NoneType", "train"]),
        ({}, ["it is empty"]),
        ([X, Y], ["it is list"]),
        ({"validaton": (X, Y)}, ["'validaton'", "'validation'"]),
        ({"train": (X, Y)}, ["no validation split", "it has train"]),
        ({"validation": ({}, Y)}, ["'validation' has no inputs"]),
        ({"validation": (X[:0], Y[:0])}, ["'validation' has no samples"]),
        ({"validation": (X, Y[:3])}, ["'validation'", "inputs: 4", "labels: 3"]),
        ({"validation": ({"a": X, "b": X[:2]}, Y)}, ["a: 4", "b: 2"]),
        ({"validation": (X.astype(np.float64), Y)}, ["validation.inputs is float64", "float32"]),
        ({"validation": ({"img": X.astype(np.float64)}, Y)}, ["validation.img is float64"]),
        ({"validation": (X.astype(">f4"), Y)}, ["validation.inputs", ">f4", "newbyteorder"]),
        ({"validation": (X[:, :0], Y)}, ["validation.inputs", "(4, 0)"]),
        ({"validation": (np.array(["a", "b"]), Y[:2])}, ["validation.inputs", "<U1"]),
        ({"validation": (np.array([object()]), Y[:1])}, ["validation.inputs", "object"]),
        ({"validation": ([[1.0], [1.0, 2.0]], Y[:2])}, ["validation.inputs"]),
        ({"validation": 3.0}, ["validation.inputs"]),
        ({"train": (X[:, :2], Y), "validation": (X, Y)}, ["'train' and 'validation'", "(2,)", "(3,)"]),
        ({"train": {"a": X}, "validation": {"b": X}}, ["a float32", "b float32"]),
    ],
)
def test_wrong_data_is_refused_by_name(value: object, words: list[str]) -> None:
    """Each wrong form is an input error that names split, array and what is wrong."""
    message = _refused(value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_numbered(bad: float) -> None:
    """How many samples, and which is the first."""
    broken = X.copy()
    broken[[2, 3], 1] = bad
    assert "2 samples, the first is number 2" in _refused({"validation": (broken, Y)})


def test_labels_may_be_of_a_dtype_that_inputs_may_not() -> None:
    """Whether float64 labels make sense is the task's to say."""
    assert dataset_from({"validation": (X, Y.astype(np.float64))})["validation"].labels is not None


@given(size=st.integers(1, 9), samples=st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_batches_are_the_samples_in_order(size: int, samples: int) -> None:
    """Concatenated batches are the split, whatever the batch size."""
    split = Split(inputs={"x": np.arange(samples)}, labels=np.arange(samples) * 2)
    batches = list(split.batches(size))
    assert np.array_equal(np.concatenate([batch.inputs["x"] for batch in batches]), split.inputs["x"])
    assert all(np.array_equal(b.labels, b.inputs["x"] * 2) for b in batches if b.labels is not None)
    assert {len(batch) for batch in batches[:-1]} <= {size}


def test_binding_names_and_orders_the_inputs() -> None:
    """A lone unnamed input takes the model's name; named ones take the model's order."""
    assert list(Split(inputs={"": X}, labels=None).bound(("image",)).inputs) == ["image"]
    assert list(Split(inputs={"a": X, "b": X}, labels=None).bound(("b", "a")).inputs) == ["b", "a"]


@pytest.mark.parametrize(
    "other",
    [
        Split(inputs={"y": X}, labels=Y),
        Split(inputs={"x": X.astype(np.float16)}, labels=Y),
        Split(inputs={"x": X.reshape(4, 3, 1)}, labels=Y),
        Split(inputs={"x": X + 1}, labels=Y),
        Split(inputs={"x": X}, labels=Y + 1),
        Split(inputs={"x": X}, labels=None),
    ],
)
def test_hash_sees_names_types_shapes_and_values(other: Split) -> None:
    """Any difference in what the samples are changes the hash; the layout in memory does not."""
    split = Split(inputs={"x": X}, labels=Y)
    assert split.sha256() != other.sha256()
    assert split.sha256() == Split(inputs={"x": np.asfortranarray(X)}, labels=Y.copy()).sha256()


def test_absent_split_names_those_there_are() -> None:
    """Asking for a split that is not there is the user's data that lacks it."""
    with pytest.raises(InputError, match="no split 'train'"):
        dataset_from(VALIDATION)["train"]
