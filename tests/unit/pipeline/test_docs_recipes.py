"""The recipes of docs/tasks.md and docs/data.md are run as far as their data and one step of training."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.api import load_profiles
from pipeline.compose import compose
from pipeline.recipe import load_recipe
from pipeline.runner import run_plan
from pipeline.store import Store

DOCS = Path(__file__).parents[3] / "docs"
RECIPES = [
    pytest.param(text, id=f"{name}-{number}")
    for name in ("tasks", "data")
    for number, text in enumerate(
        re.findall(r"```toml\n(.*?)```", (DOCS / f"{name}.md").read_text(encoding="utf-8"), re.DOTALL)
    )
]
MODEL = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes
        self.heads = nn.ModuleList(nn.Linear(64, torch.Size(shape).numel()) for shape in shapes)

    def forward(self, image):
        found = tuple(
            head(image.flatten(1)).reshape(-1, *shape).relu() for head, shape in zip(self.heads, self.shapes)
        )
        return found if len(found) > 1 else found[0]

def make_net(): return Flat((3,))
def make_masks(): return Flat((3, 8, 8))
def detector(): return Flat((2, 4, 4), (4, 4, 4))
def towers(): return Flat((12,))
"""
DATA = """
import numpy as np

def drawn(label, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal((20, 1, 8, 8)).astype(np.float32), label(rng))
        for name in ("train", "validation", "test")
    }

def make_data(): return drawn(lambda rng: rng.permutation(20) % 3)
def interactions(): return drawn(lambda rng: rng.integers(0, 12, 20))
def cells():
    rows = [[[0, 0.1, 0.1, 0.5, 0.6], [1, 0.4, 0.5, 0.9, 0.9], [-1] * 5]] * 20
    return drawn(lambda rng: np.array(rows, np.float32))

def from_files(images, samples):
    array = np.load(images)[:samples]
    half = samples // 2
    return {
        name: (part, np.arange(len(part)) % 3) for name, part in (("train", array[:half]), ("validation", array[half:]))
    }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whatever files the recipes name."""
    rng = np.random.default_rng(0)
    made = tmp_path / "recipe"
    made.mkdir()
    (made / "model.py").write_text(MODEL, encoding="utf-8")
    (made / "data.py").write_text(DATA, encoding="utf-8")
    python = re.findall(r"```python\n(.*?)```", (DOCS / "tasks.md").read_text(encoding="utf-8"), re.DOTALL)
    (made / "metrics.py").write_text("\n".join(python), encoding="utf-8")
    images = rng.standard_normal((60, 1, 8, 8)).astype(np.float32)
    np.save(made / "images.npy", images)
    np.savez(made / "all.npz", image=images, labels=np.arange(60) % 3)
    splits = {"train": images[:30], "validation": images[30:]}
    np.savez(
        made / "by_split.npz",
        **{f"{name}.image": part for name, part in splits.items()},
        **{f"{name}.labels": np.arange(len(part)) % 3 for name, part in splits.items()},
    )
    for at in range(18):
        pixels = rng.integers(0, 255, (10, 12), dtype=np.uint8)
        split = "train" if at < 12 else "validation"
        places = (
            f"pictures/{split}/{'abc'[at % 3]}/{at}.png",
            f"scenes/images/{at}.jpg",
            f"scenes/masks/{at}.png",
        )
        for place in places:
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels % 3 if "masks" in place else pixels).save(made / place)
    return made


@pytest.mark.parametrize("text", RECIPES)
def test_recipes_of_the_docs_train(text: str, folder: Path, tmp_path: Path) -> None:
    """Promise: every recipe shown is valid, its data load and pass the task's checks, and a model learns from them."""
    (folder / "recipe.toml").write_text(text, encoding="utf-8")
    recipe = load_recipe(folder)
    (profile,) = load_profiles(recipe)
    plan = compose(recipe, profile, until="train")
    store = Store(tmp_path / "store")
    found = run_plan(plan, store, observer=lambda _: None)
    results = found["train"].entry.meta
    assert np.isfinite(results["accuracy"])
    assert results["metric"] == (recipe.metrics.main or results["metric"])
