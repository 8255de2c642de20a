"""The room that a run may need: told before the work, told again where it was not enough, silent where it suffices."""

from __future__ import annotations

import errno
import os
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
    assert needed == 2 * MEGABYTE * (3 * 2 + 3)
    notice, *rest = told(plan(), store, 5 * MEGABYTE, monkeypatch)
    assert isinstance(notice, Notice)
    assert "may need 18.0 MB" in notice.text
    assert "has 5.0 MB free: free 13.0 MB, or choose another cache" in notice.text
    assert [type(event) for event in rest] == [StageStarted] * 3


def test_enough_room_or_nothing_to_do_is_not_worth_a_word(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise R3: no false alarm: neither with enough room, nor where all is stored."""
    store = Store(tmp_path / "store")
    assert [type(event) for event in told(plan(), store, 18 * MEGABYTE, monkeypatch)] == [StageStarted] * 3
    assert told(plan(), store, 0, monkeypatch) == []


def test_a_stage_that_meets_a_full_disk_says_what_it_needs(plan: Callable[..., Plan], tmp_path: Path) -> None:
    """Promise R3: a full disk in mid-work is exit 5 with the room that the stage may need, not with one megabyte."""
    store = Store(tmp_path / "store")
    with pytest.raises(DiskFailure) as caught:
        run_plan(plan(full=True), store, lambda _event: None)
    assert caught.value.fix.startswith("free at least 7 MB on that disk")
    assert {entry.stage for entry in store.entries()} == {"load:0", "load:1"}


@pytest.mark.parametrize(
    ("kind", "sizes"), [("train", 18), ("quantize", 12), ("export", 3), ("bundle", 6), ("report", 3)]
)
def test_training_takes_checkpoints_into_account(kind: str, sizes: int) -> None:
    """Promise R3: the greediest stages are known as such."""
    produces = TorchModel if kind == "train" else diskspace.OnnxModel
    stage = SimpleNamespace(name=kind, produces=produces, **({"train": object()} if kind == "train" else {}))
    node: Any = SimpleNamespace(name=kind, stage=stage)
    assert diskspace._work_bytes(node, MEGABYTE) == sizes * MEGABYTE
