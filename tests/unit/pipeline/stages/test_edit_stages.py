"""Surgery, depth and sparsity through the plan: the recipes of the documentation, edits on disk, zeros that stay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.torch import load_file

from pipeline.api import run_until
from pipeline.recipe import load_recipe
from pipeline.store import Store
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x))))))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 12, 3, padding=1)
        self.block1, self.block2, self.block3 = Block(12), Block(12), Block(12)
        self.head = nn.Linear(12, 3)

    def forward(self, image):
        return self.head(self.block3(self.block2(self.block1(self.stem(image)))).mean((2, 3)))

def net():
    return Net()
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
    return {"train": split(64), "validation": split(32)}
"""
HEAD = """
task = "classification"
threads = 1
[model]
factory = "model.py:net"
[data]
factory = "data.py:data"
[train]
epochs = 1
batch_size = 16
"""
DISTILL = "[distill]\nepochs = 1\nbatch_size = 16\n"
DOCUMENT = Path(__file__).parents[4] / "docs" / "surgery.md"
RECIPES = dict(
    zip(
        ["depth", "sparsify", "surgery"], re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL), strict=True
    )
)


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    return folder


def made(folder: Path, text: str, stage: str) -> tuple[Mapping[str, Any], Path]:
    """Results and files of a stage."""
    (folder / "recipe.toml").write_text(HEAD + text, encoding="utf-8")
    out = folder / "out"
    store = Store(folder / "store")
    *_, row = run_until(stage, load_recipe(folder), out=out, store=store, observer=lambda _: None)
    return row["results"], Path(row["folder"])


def test_depth_of_the_documentation_drops_a_block_and_tells_of_all(user: Path) -> None:
    """Promise: the cheapest unprotected block goes, the report has a row for each, and the weights file is smaller."""
    results, folder = made(user, RECIPES["depth"], "depth")
    rows = {row["block"]: row for row in results["blocks"]}
    assert list(rows) == ["block1", "block2", "block3"]
    (dropped,) = [name for name, row in rows.items() if row["dropped"] == 1]
    assert rows["block3"]["loss_change"] is None
    assert rows[dropped]["loss_change"] == min(r["loss_change"] for r in rows.values() if r["loss_change"] is not None)
    assert all(row["parameters"] == 2 * (12 * 12 * 9 + 12 + 24) for row in rows.values())
    assert not [name for name in load_file(folder / "weights.safetensors") if name.startswith(dropped)]
    (edit,) = json.loads((folder / "model.json").read_text())["edits"]
    assert (edit["kind"], edit["parts"][0]["block"]) == ("remove", dropped)


def test_sparsity_of_the_documentation_lasts_through_distillation(user: Path) -> None:
    """Promise: the share that was asked is exactly zero in every layer but the protected one, trained or not."""
    results, folder = made(user, RECIPES["sparsify"] + DISTILL, "distill")
    weights = load_file(folder / "weights.safetensors")
    zeros = {name: int((value == 0).sum()) for name, value in weights.items()}
    assert zeros["head.weight"] == 0
    assert zeros["block2.conv1.weight"] == round(0.7 * 12 * 12 * 9)
    assert results["curve"]
    first, _ = made(user, RECIPES["sparsify"] + DISTILL, "sparsify")
    assert {row["weight"]: row["zeros"] for row in first["zeros"]}.items() <= zeros.items()


def test_surgery_of_the_documentation_does_all_three(user: Path) -> None:
    """Promise: a part removed, a width cut, operators replaced: three edits in order, and what follows is exported."""
    results, folder = made(user, RECIPES["surgery"], "surgery")
    assert results["removed"] == ["block3"]
    assert results["widths"] == [{"module": "block1.conv1", "before": 12, "after": 10}]
    assert results["replaced"] == [{"operator": "relu", "by": "relu6", "count": 2}]
    edits = json.loads((folder / "model.json").read_text())["edits"]
    assert [edit["kind"] for edit in edits] == ["remove", "channels", "replace"]
    assert len(load_file(folder / "weights.safetensors")["block1.conv1.weight"]) == 10


def test_a_chain_of_all_links_is_replayed_and_exported(user: Path) -> None:
    """Promise: every link takes what the one before it made, and torch and ONNX agree on the result."""
    links = '[surgery]\nremove = ["block3"]\n[depth]\nblocks = 1\n[prune]\nratio = 0.3\n[sparsify]\nratio = 0.5\n'
    results, folder = made(user, links + DISTILL, "distill")
    kinds = [edit["kind"] for edit in json.loads((folder / "model.json").read_text())["edits"]]
    assert kinds == ["remove", "remove", "channels", "sparse"]
    assert results["parameters"] < 1500
    made(user, links + DISTILL, "export")


def test_all_that_is_wrong_with_surgery_is_told_at_once(user: Path) -> None:
    """Promise: parts, widths and operators, each fault with its key and the nearest name."""
    text = (
        '[surgery]\nremove = ["blok3", "stem"]\n[surgery.widths]\n"stem" = 13\n"conv9" = 2\n'
        '[[surgery.replace]]\noperator = "silu"\nby = "relu"\n'
    )
    with pytest.raises(InputError) as caught:
        made(user, text, "surgery")
    assert [fault.where for fault in caught.value.faults] == [
        "surgery.remove", "surgery.remove", "surgery.widths.stem", "surgery.widths.conv9", "surgery.replace.0",
    ]  # fmt: skip
    assert len(str(caught.value).splitlines()) == 3
