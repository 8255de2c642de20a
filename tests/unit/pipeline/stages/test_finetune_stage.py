"""Fine-tuning through the plan: what may move moves, the rest stays as the user's file has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.api import run_until
from pipeline.recipe import load_recipe
from pipeline.store import Store
from targets.errors import InputError

MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.head = nn.Linear(6, classes)

    def forward(self, image):
        return self.head(self.body(self.stem(image)).mean((2, 3)))

def net(classes=3):
    return Net(classes)
"""
DATA = """
import numpy as np

def data():
    random = np.random.default_rng(0)
    def split(count):
        labels = random.integers(0, 3, count)
        x = random.normal(0, 0.5, (count, 1, 6, 6)).astype(np.float32)
        for row, label in zip(x, labels):
            row[0, 2 * label : 2 * label + 2] += 1
        return x, labels
    return {"train": split(96), "validation": split(48)}
"""
RECIPE = """
name = "tuned"
task = "classification"
threads = 1
[model]
factory = "model.py:net"
weights = "start.safetensors"
[data]
factory = "data.py:data"
[finetune]
epochs = 2
batch_size = 16
learning_rate = 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, data, weights of it, and weights of a net with another head."""
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    user: dict[str, Any] = {"__name__": "user"}
    exec(MODEL, user)
    torch.manual_seed(3)
    save_file(user["net"]().state_dict(), folder / "start.safetensors")
    save_file(user["net"](5).state_dict(), folder / "five.safetensors")
    return folder


def tuned(folder: Path, *overrides: str, stage: str = "finetune") -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Results and weights of the stage."""
    recipe = load_recipe(folder, overrides)
    out = folder / "out"
    (row,) = run_until(stage, recipe, out=out, store=Store(folder / "store"), observer=lambda _: None)
    return row["results"], load_file(out / "host" / stage / "weights.safetensors")


def moved(folder: Path, weights: Mapping[str, Tensor], file: str = "start.safetensors") -> set[str]:
    """Parts of which any weight or statistic differs from the file's."""
    start = load_file(folder / file)
    return {
        name.partition(".")[0]
        for name, tensor in weights.items()
        if not name.endswith("num_batches_tracked") and not torch.equal(tensor, start[name])
    }


def test_all_of_it_learns(folder: Path) -> None:
    """Promise: by default every part moves, and what comes out is the better dense model, with its curve."""
    before, _ = tuned(folder, stage="load")
    found, weights = tuned(folder)
    assert moved(folder, weights) == {"stem", "body", "head"}
    assert found["accuracy"] > before["accuracy"]
    assert [row["epoch"] for row in found["curve"]] == [1, 2]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ('finetune.train_only=["head"]', {"head"}),
        pytest.param('finetune.train_only=["body", "head"]', {"body", "head"}, marks=pytest.mark.long),
        pytest.param('finetune.rates={ "stem.*" = 0.0 }', {"body", "head"}, marks=pytest.mark.long),
    ],
)
def test_what_is_frozen_stays_to_the_bit(folder: Path, override: str, parts: set[str]) -> None:
    """Promise: feature extraction and partial fine-tuning leave weights and statistics of the rest as in the file."""
    assert moved(folder, tuned(folder, override)[1]) == parts


def test_frozen_statistics_stay(folder: Path) -> None:
    """Promise: weights learn, no running statistic moves."""
    _, weights = tuned(folder, "finetune.batch_norm=frozen")
    start = load_file(folder / "start.safetensors")
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights.items() if "running" in name)
    assert not torch.equal(weights["stem.0.weight"], start["stem.0.weight"])


def test_a_new_head_need_not_be_in_the_file(folder: Path) -> None:
    """Promise: the file's head of five classes is not read; without `fresh` it does not fit."""
    file = "model.weights=five.safetensors"
    _, weights = tuned(folder, file, 'finetune.fresh=["head"]', 'finetune.train_only=["head"]')
    assert weights["head.weight"].shape == (3, 6)
    body = {name: tensor for name, tensor in weights.items() if not name.startswith("head")}
    assert moved(folder, body, "five.safetensors") == set()
    with pytest.raises(InputError, match=r"weight 'head\.(weight|bias)' of five\.safetensors does not fit"):
        tuned(folder, file)


@pytest.mark.parametrize("key", ["fresh", "train_only"])
def test_a_path_that_names_nothing_is_answered_with_near_ones(folder: Path, key: str) -> None:
    """Promise: three lines before any training."""
    with pytest.raises(InputError, match="hed") as error:
        tuned(folder, f'finetune.{key}=["hed"]')
    assert "head" in str(error.value)
