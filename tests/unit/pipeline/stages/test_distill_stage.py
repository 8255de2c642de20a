"""Distillation through the plan: the recipes of the documentation, other students and teachers, kept answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from pipeline.api import run_until
from pipeline.recipe import load_recipe
from pipeline.store import Store
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.events import Event

MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, 3)

    def forward(self, image):
        return self.head(self.stage2(self.stage1(image)).mean((2, 3)))

def net(width=8):
    return Net(width)
"""
DATA = """
import numpy as np

def data(seed=0):
    random = np.random.default_rng(seed)
    def split(count):
        labels = random.integers(0, 3, count)
        x = random.normal(0, 0.5, (count, 1, 6, 6)).astype(np.float32)
        for row, label in zip(x, labels):
            row[0, 2 * label : 2 * label + 2] += 1
        return x, labels
    return {"train": split(96), "validation": split(48)}

def unlabelled():
    return {name: x for name, (x, _) in data().items()}
"""
HEAD = """
task = "classification"
threads = 1
[model]
factory = "model.py:net"
weights = "dense.safetensors"
[data]
factory = "data.py:data"
"""
EXPERT = '[[distill.teachers]]\nname = "x"\nonnx = "teacher.onnx"\n'
PRUNE = "[prune]\nratio = 0.5\n"
DOCUMENT = Path(__file__).parents[4] / "docs" / "distillation.md"
RECIPES = list(re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, data, and weights that were trained a little; an untrained net would be a weak teacher."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    (folder / "data.py").write_text(DATA, encoding="utf-8")
    model, data = ({"__name__": "user"} for _ in range(2))
    exec(MODEL, model)
    exec(DATA, data)
    x, y = data["data"]()["train"]  # type: ignore[operator]
    for name, width in (("dense", 8), ("wide", 12), ("noise", 8)):
        torch.manual_seed(0)
        net = model["net"](width)  # type: ignore[operator]
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for _ in range(0 if name == "noise" else 40):
            loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_file(net.state_dict(), folder / f"{name}.safetensors")
    _write_onnx(folder / "teacher.onnx")
    return folder


def _write_onnx(path: Path) -> None:
    """Rows in which something lies, told from their sums: a teacher that no training has to make."""
    weight = np.zeros((36, 6), np.float32)
    for row in range(6):
        weight[6 * row : 6 * row + 6, row] = 1
    merge = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "weight"], ["hidden"], name="sums"),
        helper.make_node("MatMul", ["hidden", "merge"], ["scores"], name="pairs"),
    ]
    graph = helper.make_graph(
        nodes,
        "rows",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(merge, "merge")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def distilled(
    folder: Path, text: str, store: Path, *overrides: str, stage: str = "distill", out: Path | None = None
) -> tuple[Mapping[str, Any], list[Event]]:
    """Results of the stage, and what happened."""
    (folder / "recipe.toml").write_text(HEAD + text, encoding="utf-8")
    events: list[Event] = []
    recipe = load_recipe(folder, overrides)
    rows = run_until(stage, recipe, out=out, store=Store(store), observer=events.append)
    return rows[-1]["results"], events


def _finished(events: list[Event]) -> dict[str, bool]:
    """Name of each stage, and whether the store had it."""
    return {event.stage: event.reused for event in events if hasattr(event, "reused")}


@pytest.mark.parametrize("text", RECIPES, ids=range(len(RECIPES)))
def test_the_recipes_of_the_documentation_run(trained: Path, text: str) -> None:
    """Promise: every recipe in docs/distillation.md is valid, trains, and makes a student that learned."""
    own = "distill.student" in text
    longer = ("distill.epochs=6", "distill.batch_size=16", "distill.learning_rate=0.1")
    found, _ = distilled(trained, text if own else PRUNE + text, trained / "store", *longer)
    assert found["accuracy"] > 0.6
    assert found["losses"]
    assert found["teachers"]
    assert not found["warnings"]


def test_a_narrow_student_goes_on_to_export(trained: Path, tmp_path: Path) -> None:
    """Promise: what ships is the student's graph, with its own width, beside the dense reference."""
    text = '[distill]\nepochs = 1\n[distill.student]\nfactory = "model.py:net"\nargs = { width = 3 }\n'
    _, events = distilled(trained, text, tmp_path / "store", stage="export", out=tmp_path / "out")
    assert {"student", "load", "teach:dense", "distill", "export:dense", "export"} <= set(_finished(events))
    sizes = {
        name: {
            tuple(tensor.dims)
            for tensor in onnx.load(tmp_path / "out" / "host" / name / "model.onnx").graph.initializer
        }
        for name in ("export", "export-dense")
    }
    assert (3, 1, 3, 3) in sizes["export"]
    assert (8, 1, 3, 3) in sizes["export-dense"]


def test_answers_are_kept_and_read(trained: Path, tmp_path: Path) -> None:
    """Promise: other losses and rates find the teacher's answers in the store; the student is the same without them."""
    text = PRUNE + "[distill]\nepochs = 2\nbatch_size = 32\n"
    _, first = distilled(trained, text, tmp_path / "store", out=tmp_path / "a")
    _, second = distilled(trained, text, tmp_path / "store", "distill.temperature=2", "distill.learning_rate=0.1")
    assert _finished(first)["teach:dense"] is False
    assert _finished(second) == {"data": True, "load": True, "prune": True, "teach:dense": True, "distill": False}
    _, third = distilled(trained, text, tmp_path / "store", "distill.cache_mb=0", out=tmp_path / "b")
    assert "teach:dense" not in _finished(third)
    kept, asked = (load_file(tmp_path / name / "host" / "distill" / "weights.safetensors") for name in ("a", "b"))
    assert all(torch.allclose(kept[name], asked[name], atol=1e-4) for name in kept)


def test_answers_that_are_too_large_are_not_kept(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: over the limit nothing is stored but the fact, and the training asks the teacher itself."""
    monkeypatch.setattr("pipeline.teaching._MEGABYTE", 1)
    text = PRUNE + "[distill]\nepochs = 1\ncache_mb = 8\n"
    rows, _ = distilled(trained, text, trained / "store", stage="teach")
    assert (rows["kept"], rows["answers_bytes"]) == (False, 96 * 3 * 4)
    found, _ = distilled(trained, text, trained / "store")
    assert found["curve"]


def test_without_labels_the_teacher_alone_is_followed(trained: Path) -> None:
    """Promise: the squared error brings the student closer to the dense model, which its score is told against."""
    plain = ('task="fidelity"', 'data.factory="data.py:unlabelled"', "distill.learning_rate=0.005")
    found, _ = distilled(trained, PRUNE + "[distill]\nepochs = 8\nbatch_size = 16\n", trained / "store", *plain)
    reached = [epoch["accuracy"] for epoch in found["curve"]]
    assert reached[-1] > reached[0]
    assert 0 < found["accuracy"] < 1
    assert [loss["kind"] for loss in found["losses"]] == ["squared-error"]


def test_a_weak_teacher_is_warned_about(trained: Path) -> None:
    """Promise: a teacher much worse than the dense model is a coded warning with its figures and a remedy."""
    teacher = '[[distill.teachers]]\nname = "novice"\nfactory = "model.py:net"\nweights = "noise.safetensors"\n'
    found, events = distilled(trained, f"{PRUNE}[distill]\nepochs = 1\n{teacher}", trained / "store")
    (warning,) = found["warnings"]
    assert warning["code"] == "W-WEAK-TEACHER"
    assert all(word in str(warning) for word in ("novice", "dense model", "holds the student back", "against"))
    assert any("W-WEAK-TEACHER" in str(event) for event in events)


def test_the_same_recipe_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """Promise: projections are drawn from the recipe's seed, whatever was drawn before."""
    text = PRUNE + '[distill]\nepochs = 1\n[[distill.losses]]\nkind = "hint"\nstudent = "stage1"\n'
    weights = []
    for name in ("a", "b"):
        torch.rand(7)
        distilled(trained, text, tmp_path / name, out=tmp_path / f"out-{name}")
        weights.append((tmp_path / f"out-{name}" / "host" / "distill" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[distill.losses]]\nkind = "hint"\nstudent = "stage3"\n', ("no module 'stage3'", "stage2")),
        (
            '[[distill.losses]]\nkind = "hint"\nstudent = "stage1"\nteacher = "head"\n',
            ("(4, 6, 6)", "(3,)", "equally many axes"),
        ),
        (
            f'{EXPERT}[[distill.losses]]\nkind = "hint"\nstudent = "head"\nteacher = "hiden"\n',
            ("no tensor 'hiden'", "'hidden'"),
        ),
    ],
)
def test_bad_taps_stop_before_training(trained: Path, text: str, words: tuple[str, ...]) -> None:
    """Promise: three lines with what is near or both shapes; no epoch was trained."""
    with pytest.raises(InputError) as error:
        distilled(trained, f"{PRUNE}[distill]\nepochs = 9999\n{text}", trained / "store")
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("extra", ["augment.mixup = 0.3\n", "augment.shift = 1\nema_decay = 0.9\n", "accumulate = 2\n"])
def test_it_goes_with_what_the_loop_can(trained: Path, extra: str) -> None:
    """Promise: where samples change at random no answers are kept, the teacher is asked, and taps are trained too."""
    losses = '[[distill.losses]]\nkind = "decoupled"\n[[distill.losses]]\nkind = "hint"\nstudent = "stage2"\n'
    text = f"{PRUNE}[distill]\nepochs = 1\nbatch_size = 24\n{extra}"
    found, events = distilled(trained, text + losses, trained / "store")
    assert found["curve"][0]["loss"] > 0
    assert "teach:dense" not in _finished(events)
    _, events = distilled(trained, text, trained / "store")
    assert ("teach:dense" in _finished(events)) is extra.startswith("accumulate")
