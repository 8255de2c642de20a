"""Samples that criteria look at."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data import Split
from pipeline.recipe import PruneSection
from pipeline.stages.scoring import _draw
from targets.errors import InputError


@pytest.mark.parametrize("stated", [True, False])
def test_a_stated_number_of_samples_must_be_had(stated: bool) -> None:  # noqa: FBT001
    """Promise: what the recipe says holds or is refused; its default takes what there is."""
    split = Split(inputs={"x": np.zeros((40, 2), np.float32)}, labels=np.zeros(40, np.int64))
    section = PruneSection(ratio=0.5, **({"samples": 256} if stated else {}))
    if not stated:
        assert len(_draw(split, section, seed=0)) == 40
        return
    with pytest.raises(InputError, match="cannot be had"):
        _draw(split, section, seed=0)
