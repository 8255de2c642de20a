"""The public way: trace, list, score, decide, apply, mask, save and replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.pruning import (
    Decisions,
    all_criteria,
    apply_decisions,
    choose_by_ratio,
    find_groups,
    mask_decisions,
    trace,
)
from targets.errors import InputError


def made() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 2))


EXAMPLE = {"x": torch.ones(2, 3, 6, 6)}


def test_six_lines_prune_a_model(tmp_path: Path) -> None:
    """Promise: the lines of docs/pruning.md work, and saved decisions cut a fresh trace to the same network."""
    graph = trace(made(), EXAMPLE)
    groups = find_groups(graph)
    decisions = choose_by_ratio(groups, groups.score(graph, all_criteria()["l2"]), ratio=0.5, scope="local")
    small = apply_decisions(graph, decisions)
    decisions.save(tmp_path / "decisions.json")
    again = apply_decisions(trace(made(), EXAMPLE), Decisions.load(tmp_path / "decisions.json"))
    x = torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(small(x), mask_decisions(graph, decisions)(x))
    torch.testing.assert_close(small(x), again(x), rtol=0, atol=0)
    assert [(g.name, g.size, g.kind) for g in groups] == [("0", 8, "channel"), ("2", 8, "channel")]
    assert groups["2"].producers[0].parameter == "2.weight"


def test_decisions_by_hand_are_checked() -> None:
    """Promise: unknown groups and units, and the removal of everything, are input errors that say what there is."""
    groups = find_groups(trace(made(), EXAMPLE))
    assert groups.decide({"0": np.array([1, 3])}).parameters["0.weight"][0].kept == (0, 2, 4, 5, 6, 7)
    with pytest.raises(InputError, match="no such group"):
        groups.decide({"conv": np.array([0])})
    with pytest.raises(InputError, match="no such unit"):
        groups.decide({"0": np.array([8])})
    with pytest.raises(InputError, match="nothing would be left"):
        groups.decide({"0": np.arange(8)})


def test_a_file_that_holds_none_is_refused(tmp_path: Path) -> None:
    """Promise: a file that is absent, damaged or of another kind is an input error."""
    path = tmp_path / "decisions.json"
    with pytest.raises(InputError, match="cannot be read"):
        Decisions.load(path)
    for text in ("{", "[]", '{"parameters": {}, "statistics": "some"}'):
        path.write_text(text)
        with pytest.raises(InputError, match="cannot be read"):
            Decisions.load(path)
