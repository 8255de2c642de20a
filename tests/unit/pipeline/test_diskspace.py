"""The room that a run may need: told before the work, told again where it was not enough, silent where it suffices."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from pipeline import diskspace
from pipeline.artifacts import TorchModel
from pipeline.data.source import FileRef
from pipeline.events import Event, Notice, StageStarted
from pipeline.plan import Node, Plan
from pipeline.runner import run_plan
from pipeline.stages.base import Context, Stage
from pipeline.store import Store
from targets.errors import DiskFailure

MEGABYTE = 10**6
STRIPES = Path(__file__).resolve().parents[2] / "e2e" / "stripes"


@dataclass(frozen=True)
class Nothing:
    pass


@dataclass(frozen=True)
class Weights(Stage[Nothing]):
    """A stage that reads the user's weights, and writes a model; or finds the disk full."""

    name: ClassVar[str] = "load"
    version: ClassVar[int] = 1
    consumes: ClassVar[type] = Nothing
    produces: ClassVar[type[TorchModel]] = TorchModel

    weights: FileRef
    full: bool = field(default=False, metadata={"key": False})

    def run(self, src: Nothing, out: Path, context: Context) -> dict[str, Any]:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "weights.safetensors"))
        (out / "weights.safetensors").write_bytes(self.weights.path.read_bytes())
        return {"accuracy": 1.0}


@pytest.fixture
def plan(tmp_path: Path) -> Callable[..., Plan]:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"w" * 2 * MEGABYTE)

    def make(*, full: bool = False) -> Plan:
        stages = [Weights(weights=FileRef(sha256=c * 64, path=path), full=full and c == "c") for c in "abc"]
        return Plan(nodes=tuple(Node(name=f"load:{n}", title="t", stage=s, inputs={}) for n, s in enumerate(stages)))

    return make


def told(plan: Plan, store: Store, free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    monkeypatch.setattr(diskspace, "free_space", lambda _place: free_bytes)
    events: list[Event] = []
    run_plan(plan, store, events.append)
    return [event for event in events if isinstance(event, Notice | StageStarted)]


def test_too_little_room_is_told_before_the_work(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise R3: before the first stage, once: what may be needed, is there, and must be freed; the run goes on."""
    store = Store(tmp_path / "store")
    needed = diskspace.run_bytes(plan().nodes, 2 * MEGABYTE)
    assert needed == 2 * MEGABYTE * (2 * 2 + 3)
    notice, *rest = told(plan(), store, 5 * MEGABYTE, monkeypatch)
    assert isinstance(notice, Notice)
    assert "may need 14.0 MB" in notice.text
    assert "has 5.0 MB free: free 9.0 MB, or choose another cache" in notice.text
    assert [type(event) for event in rest] == [StageStarted] * 3


def test_enough_room_or_nothing_to_do_is_not_worth_a_word(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise R3: no false alarm: neither with enough room, nor where all is stored."""
    store = Store(tmp_path / "store")
    assert [type(event) for event in told(plan(), store, 14 * MEGABYTE, monkeypatch)] == [StageStarted] * 3
    assert told(plan(), store, 0, monkeypatch) == []


def test_a_stage_that_meets_a_full_disk_says_what_it_needs(plan: Callable[..., Plan], tmp_path: Path) -> None:
    """Promise R3: a full disk in mid-work is exit 5 with the room that the stage may need, not with one megabyte."""
    store = Store(tmp_path / "store")
    with pytest.raises(DiskFailure) as caught:
        run_plan(plan(full=True), store, lambda _event: None)
    assert caught.value.fix.startswith("free at least 7 MB on that disk")
    assert {entry.stage for entry in store.entries()} == {"load:0", "load:1"}


@pytest.mark.parametrize(
    ("recipe", "stage", "sizes"),
    [
        ("[train]\nepochs = 1", "train", 2 + 3 * 2),
        ("[train]\nepochs = 5\noptimizer = 'adamw'\nema_decay = 0.9\npatience = 3", "train", 2 + 3 * 5),
        ("[train]\nepochs = 1\n[prune]\nratio = 0.5", "prune", 3),
        ("[train]\nepochs = 1\n[prune]\nratio = 0.5\nsteps = 2\nfinetune = {}\nschedule = 'linear'", "prune", 8),
        ("[train]\nepochs = 1", "quantize", 6),
        ("[train]\nepochs = 1\n[quantize]\nqat = 'on'", "quantize", 2 + 3 * 4),
        ("[train]\nepochs = 1", "export", 3),
    ],
)
def test_training_takes_checkpoints_into_account(recipe: str, stage: str, sizes: int, tmp_path: Path) -> None:
    """Promise R3: what a stage may need follows from how it trains; the greediest are known as such."""
    from pipeline.compose import compose
    from pipeline.recipe import load_recipe
    from targets.profile import load_profile

    project = Path(shutil.copytree(STRIPES, tmp_path / "p"))
    text = (project / "recipe.toml").read_text(encoding="utf-8")
    (project / "recipe.toml").write_text(text[: text.index("[train]")] + recipe, encoding="utf-8")
    nodes = compose(load_recipe(project, ()), load_profile("host"), until="build").nodes
    node = next(node for node in nodes if node.name == stage)
    assert diskspace._work_bytes(node, MEGABYTE) == sizes * MEGABYTE


def test_int8_takes_less(tmp_path: Path) -> None:
    """Promise R3: an int8 file is no alarm of the size of the float one."""
    made = [SimpleNamespace(name=name, stage=SimpleNamespace(name=name, produces=diskspace.OnnxModel)) for name in "ab"]
    small = [SimpleNamespace(name=f"build:{one.name}-int8", stage=one.stage) for one in made]
    nodes: list[list[Any]] = [made, small]
    assert [diskspace.run_bytes(found, 10 * MEGABYTE) for found in nodes] == [50 * MEGABYTE, 36 * MEGABYTE]
