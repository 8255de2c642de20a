"""The data stage finds what is wrong with the data before any long stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import pytest

from pipeline.data import DataSource
from pipeline.data.dataset import Dataset, Split
from pipeline.data.leaks import shared_samples
from pipeline.data.loaded import LoadedData
from pipeline.stages.base import Context
from pipeline.stages.data import DataInputs, DataStage
from pipeline.tasks import Classification, Recommendation
from targets.errors import InputError


@final
class _Given(DataSource):
    def __init__(self, *names: str) -> None:
        self._names = names

    def load(self) -> Dataset:
        split = Split(inputs={"x": np.arange(8, dtype=np.float32).reshape(4, 2)}, labels=np.array([0, 1, 0, 1]))
        return Dataset(splits=dict.fromkeys(self._names, split))


def _context(folder: Path, told: list[str]) -> Context:
    return Context(progress=lambda *_, **__: None, warn=told.append, scratch=folder, state=folder, data=LoadedData())


def test_a_split_that_a_later_stage_needs_is_missed_at_once(tmp_path: Path) -> None:
    """Promise: without a training split the run stops here, and the message names what there is."""
    stage = DataStage(source=_Given("validation", "test"), task=Classification(), splits=("train", "validation"))
    with pytest.raises(InputError) as caught:
        stage.run(DataInputs(), tmp_path, _context(tmp_path, []))
    assert "'train'" in caught.value.what
    assert "validation, test" in caught.value.why
    assert not list(tmp_path.iterdir())


def test_samples_in_two_splits_are_refused_by_their_numbers(tmp_path: Path) -> None:
    """Promise: what a model has learned from judges nothing: the samples are named, and the key that allows it."""
    stage = DataStage(source=_Given("train", "validation"), task=Classification(), splits=("train", "validation"))
    with pytest.raises(InputError) as caught:
        stage.run(DataInputs(), tmp_path, _context(tmp_path, []))
    assert "split 'train' holds 4 samples of 'validation' too" in caught.value.what
    assert "train 0 = validation 0" in caught.value.why
    assert 'data.duplicates = "allow"' in caught.value.fix


def test_samples_in_two_splits_may_be_allowed(tmp_path: Path) -> None:
    """Promise: then they are counted and told, since the metric flatters the model."""
    told: list[str] = []
    stage = DataStage(
        source=_Given("train", "validation"), task=Classification(), splits=("train",), duplicates="allow"
    )
    results = stage.run(DataInputs(), tmp_path, _context(tmp_path, told))
    assert results["shared"] == {"train/validation": 4}
    assert "accuracy will look better" in told[0]


def test_users_who_come_back_are_no_leak(tmp_path: Path) -> None:
    """Promise: in recommendation the same input asks for another label; only input and label together are a sample."""
    source = _Given("train", "validation")
    stage = DataStage(source=source, task=Recommendation(), splits=("train", "validation"))
    with pytest.raises(InputError, match="4 samples"):
        stage.run(DataInputs(), tmp_path, _context(tmp_path, []))
    data = source.load()
    other = Split(inputs=data["validation"].inputs, labels=np.array([1, 0, 1, 0]))
    assert not shared_samples(Dataset(splits={"train": data["train"], "validation": other}), with_labels=True)
