"""The first recipe: valid, commented, never over a file."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pipeline.assist.init import Answers, recipe_text, write_recipe
from pipeline.recipe import Recipe
from pipeline.recipe.faults import consistency_faults
from pipeline.tasks import TASKS, find_task
from targets.errors import EdgepressError, InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

BASE = Answers(
    model="net.py:make", weights=None, onnx=None, data="data.py:make", npz=None, task="classification", target="host"
)


@pytest.mark.parametrize(
    ("model", "data", "task"),
    [
        item
        for item in itertools.product(
            [{}, {"weights": "w.pt"}, {"model": None, "onnx": 'a "quoted" net.onnx'}],
            [{}, {"data": None, "npz": "d.npz"}],
            TASKS,
        )
        if item[0] or (item[2] != "fidelity" and not item[1])  # what has no weights needs labels and a split
    ],
)
def test_every_answer_gives_a_valid_recipe(model: dict[str, str], data: dict[str, str], task: str) -> None:
    """The text is TOML, its keys exist, its sections fit together, and it explains itself."""
    text = recipe_text(replace(BASE, task=task, **model, **data))
    recipe = Recipe.model_validate({"name": "r", **tomllib.loads(text)})
    assert consistency_faults(recipe) == []
    assert recipe.task == task
    assert not isinstance(find_task(recipe), list)
    assert text.count("#") >= 5


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """The old one stays, byte for byte."""
    (tmp_path / "recipe.toml").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="never overwrites"):
        write_recipe(BASE, tmp_path / "recipe.toml")
    assert (tmp_path / "recipe.toml").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model": None}, UsageError, "--model"),
        ({"onnx": "net.onnx"}, UsageError, "--onnx"),
        ({"npz": "d.npz"}, UsageError, "--npz"),
        ({"target": "hots"}, InputError, "'host'"),
        ({"model": None, "onnx": "n.onnx", "weights": "w.pt"}, UsageError, "--weights"),
        ({"task": "fidelity"}, InputError, "needs labels"),
    ],
)
def test_answers_that_make_no_recipe(
    changes: dict[str, str], kind: type[EdgepressError], words: str, tmp_path: Path
) -> None:
    """The error names the flag, and no file is written."""
    with pytest.raises(kind) as caught:
        write_recipe(replace(BASE, **changes), tmp_path / "recipe.toml")
    assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []
