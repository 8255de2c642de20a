"""Every point of a space is a valid recipe, or the space is refused before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import Recipe, load_recipe
from pipeline.search.space import recipe_at, search_space
from targets.errors import EdgepressError
from targets.profile import load_profile

HOST = load_profile("x86-64-avx2")
BASE = """
task = "classification"
[model]
factory = "user.py:net"
[train]
epochs = 1
[data]
factory = "user.py:data"
[prune]
ratio = 0.3
[distill]
epochs = 2
"""


def recipe(tmp_path: Path, search: str) -> Recipe:
    (tmp_path / "recipe.toml").write_text(f"{BASE}\n{search}", encoding="utf-8")
    return load_recipe(tmp_path)


def test_dotted_and_nested_keys_are_the_same(tmp_path: Path) -> None:
    """Promise: both ways of writing a key in TOML work."""
    a = recipe(tmp_path, '[search.space]\n"prune.ratio" = { low = 0.1, high = 0.5 }\n"prune.scope" = ["local"]')
    b = recipe(tmp_path, '[search.space.prune]\nratio = { low = 0.1, high = 0.5 }\nscope = ["local"]')
    assert search_space(a, HOST) == search_space(b, HOST)
    assert [variable.key for variable in search_space(a, HOST)] == ["prune.ratio", "prune.scope"]


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    """Promise: every wrong key and value is named, before anything runs."""
    found = recipe(
        tmp_path,
        '[search.space]\n"prune.ratoi" = [0.1]\n"nosuch.key" = [1]\n"prune.ratio" = { low = 0.5, high = 1.5 }\n'
        '"distill.epochs" = { low = 9, high = 2 }\n"name" = ["a"]\n"target.engine.treads" = [2]',
    )
    with pytest.raises(EdgepressError) as caught:
        search_space(found, HOST)
    assert {fault.where for fault in caught.value.faults} == {
        'search.space."prune.ratoi"',
        'search.space."nosuch.key"',
        'search.space."prune.ratio"',
        'search.space."distill.epochs"',
        'search.space."name"',
        'search.space."target.engine.treads"',
    }


@pytest.mark.parametrize(
    ("point", "seen"),
    [
        ({"prune.ratio": 0.6}, lambda r: (r.prune.ratio, r.distill.epochs) == (0.6, 2)),
        ({"prune.ratio": "off", "prune.scope": "global"}, lambda r: r.prune is None),
        ({"distill": "off", "distill.temperature": 2.0}, lambda r: r.distill is None),
        ({"quantize.qat": "off"}, lambda r: r.quantize.qat == "off"),
        ({"distill": "off"}, lambda r: r.distill is None and r.prune is not None),
        ({"prune": {"ratio": 0.2, "scope": "global"}}, lambda r: r.prune.scope == "global"),
        ({"prune": {"ratio": 0.2}, "prune.scope": "global"}, lambda r: (r.prune.ratio, r.prune.scope)[0] == 0.2),
        ({"quantize.algorithms": ["bias"]}, lambda r: r.quantize.algorithms == ["bias"]),
    ],
)
def test_a_point_is_a_recipe(point: dict[str, Any], seen: Callable[[Recipe], bool], tmp_path: Path) -> None:
    """Promise: keys, lists and whole sections can vary; the rest stays as it was."""
    assert seen(recipe_at(recipe(tmp_path, "[search]"), point, screening=False))


def test_screening_differs_only_while_candidates_are_tried(tmp_path: Path) -> None:
    """Promise: what ships was measured as the recipe says, and not in the short campaign."""
    found = recipe(tmp_path, '[search]\nscreening = { "benchmark.budget_s" = 3.0 }')
    assert recipe_at(found, {}, screening=True).benchmark.budget_s == 3.0
    assert recipe_at(found, {}, screening=False).benchmark.budget_s == 60.0
    assert recipe_at(found, {}, screening=False).search is None
