"""A recipe that states nothing but a budget is searched over all that may pay for its model, and over nothing else."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from pipeline.recipe import Recipe, load_recipe
from pipeline.search.defaults import Facts, prepared
from pipeline.search.space import Choices, recipe_at, search_space
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

BASE = """
task = "classification"
[model]
factory = "user.py:net"
weights = "net.safetensors"
[data]
factory = "user.py:data"
[search]
"""
ALL = Facts(train_samples=50_000, groups=9, blocks=7, macs=40_000_000)


def recipe(tmp_path: Path, text: str = BASE) -> Recipe:
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    return load_recipe(tmp_path)


def keys(found: Recipe) -> set[str]:
    assert found.search is not None
    return set(found.search.space)


def test_only_a_budget_gets_pruning_depth_and_distillation(tmp_path: Path) -> None:
    """Promise: measured latency, criteria that see the loss, depth and distillation vary, and every point is valid."""
    profile = load_profile("x86-64-avx2")
    found = prepared(recipe(tmp_path), profile, ALL)
    assert keys(found) == {
        "prune.latency_ratio", "prune.latency", "prune.criterion", "depth.share",
        "distill.alpha", "distill.temperature",
    }  # fmt: skip
    space, dice = search_space(found, profile), random.Random(0)
    sections = set()
    for _ in range(40):
        point = {one.key: dice.choice(one.values) for one in space if isinstance(one, Choices)}
        at = recipe_at(found, point, screening=dice.random() < 0.5)
        sections.add((at.prune is None, at.depth is None))
        assert (at.distill is None) == (at.prune is None and at.depth is None)
    assert len(sections) == 4, "each of pruning and depth may be left out"


@pytest.mark.parametrize(
    ("facts", "lines", "there", "gone"),
    [
        (Facts(train_samples=0, groups=9, blocks=7, macs=1), "", {"quantize.method"}, {"prune.latency_ratio"}),
        (Facts(train_samples=99, groups=0, blocks=0, macs=1), "", {"quantize.method"}, {"distill.alpha"}),
        (Facts(train_samples=99, groups=9, blocks=0, macs=1), "", {"prune.latency_ratio"}, {"depth.share"}),
        (ALL, 'objectives = ["size"]', {"prune.parameters_ratio", "prune.scope"}, {"prune.latency_ratio"}),
        (ALL, "[benchmark]\nmeasure = false", {"prune.macs_ratio"}, {"prune.latency_ratio"}),
        (ALL, "[prune]\nratio = 0.3", {"prune.ratio"}, {"prune.latency_ratio"}),
    ],
)
def test_what_cannot_matter_does_not_vary(
    tmp_path: Path, facts: Facts, lines: str, there: set[str], gone: set[str]
) -> None:
    """Promise: no depth without blocks, nothing trained without samples, no latency where nothing is measured."""
    profile = load_profile("x86-64-avx2")
    found = prepared(recipe(tmp_path, BASE + lines), profile, facts)
    assert there <= keys(found)
    assert not gone & keys(found)
    assert search_space(found, profile)


def test_an_engine_that_times_no_layers_is_not_asked_for_latency(tmp_path: Path) -> None:
    """Promise: on TensorRT channels are pruned by work, not by a latency table that cannot be measured."""
    assert "prune.macs_ratio" in keys(prepared(recipe(tmp_path), load_profile("jetson-orin-nano"), ALL))


def test_long_training_is_screened_by_a_shorter_one(tmp_path: Path) -> None:
    """Promise: only where training takes long; what the recipe says of screening stays."""
    profile = load_profile("x86-64-avx2")
    long = prepared(recipe(tmp_path), profile, ALL)
    short = prepared(recipe(tmp_path), profile, Facts(train_samples=1000, groups=9, blocks=0, macs=100_000))
    own = prepared(recipe(tmp_path, BASE + "screening = { distill = { samples = 9 } }"), profile, ALL)
    assert long.distill is not None
    assert long.search is not None
    assert short.search is not None
    assert own.search is not None
    assert long.search.screening["distill.epochs"] < long.distill.epochs
    assert "distill.epochs" not in short.search.screening
    assert own.search.screening == {"distill.samples": 9}
