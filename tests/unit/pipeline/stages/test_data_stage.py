"""The data stage finds what is wrong with the data before any long stage runs."""

from __future__ import annotations

from pathlib import Path
from typing import final

import numpy as np
import pytest

from pipeline.data import DataSource
from pipeline.data.dataset import Dataset, Split
from pipeline.data.loaded import LoadedData
from pipeline.stages.base import Context
from pipeline.stages.data import DataInputs, DataStage
from pipeline.tasks import Classification
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


def test_validation_samples_seen_in_training_are_told(tmp_path: Path) -> None:
    """Promise: equal samples in both splits are counted and told, since accuracy flatters the model then."""
    told: list[str] = []
    stage = DataStage(source=_Given("train", "validation"), task=Classification(), splits=("train", "validation"))
    results = stage.run(DataInputs(), tmp_path, _context(tmp_path, told))
    assert results["shared_with_train"] == 4
    assert "4 validation samples" in told[0]
