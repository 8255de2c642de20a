"""Every step of every training, written down: JSON lines, and scalars for TensorBoard."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import pytest

from pipeline.events import Event, Notice, StageProgress, StageStarted, TrainingStep
from pipeline.steplog import StepLog, TensorBoardLog
from targets.errors import EnvironmentFailure

STEPS: Final = [
    TrainingStep(stage="train", done=n / 4, step=n, steps=4, epoch=(n + 1) // 2, values={"loss": 1 / n, "lr": 0.1})
    for n in range(1, 5)
]
EPOCH: Final = StageProgress(stage="train", done=1.0, text="epoch 2/2", values={"loss": 0.3, "accuracy": 0.75})
OTHERS: Final = [
    StageStarted(stage="train", title="train the model"),
    Notice(text="by the way"),
    StageProgress(stage="train", done=0.0, text="looking for the learning rate", values={}),
]


def test_each_step_and_epoch_is_a_line(tmp_path: Path) -> None:
    """Promise: one JSON line a step and an epoch with stage and figures; events pass on; a second run adds lines."""
    passed: list[Event] = []
    path = tmp_path / "logs" / "steps.jsonl"
    for _ in range(2):
        with StepLog(passed.append, path) as log:
            for event in (*OTHERS, *STEPS, EPOCH):
                log(event)
    assert passed == [*OTHERS, *STEPS, EPOCH] * 2
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    wanted = [{"stage": "train", "epoch": s.epoch, "step": s.step, **s.values} for s in STEPS]
    assert lines == [*wanted, {"stage": "train", "text": "epoch 2/2", "loss": 0.3, "accuracy": 0.75}] * 2


def test_a_run_that_trains_nothing_writes_nothing(tmp_path: Path) -> None:
    """No empty file is left."""
    with StepLog(lambda _: None, tmp_path / "steps.jsonl") as log:
        for event in OTHERS:
            log(event)
    assert list(tmp_path.iterdir()) == []


def test_a_line_is_there_as_soon_as_the_step_is(tmp_path: Path) -> None:
    """Promise: who watches the file sees each step at once, and a killed run loses none."""
    log = StepLog(lambda _: None, tmp_path / "steps.jsonl")
    log(STEPS[0])
    assert len((tmp_path / "steps.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    log.__exit__(None, None, None)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Three lines that name it."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match=r"writing .*steps\.jsonl"):
        StepLog(lambda _: None, tmp_path / "file" / "steps.jsonl")(STEPS[0])


def test_without_tensorboard_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optional extra."""
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(EnvironmentFailure, match="tensorboard is not installed") as error:
        TensorBoardLog(lambda _: None, tmp_path)
    assert "edgepress[tensorboard]" in error.value.fix


def test_scalars_read_back(tmp_path: Path) -> None:
    """Promise: TensorBoard's own reader finds each step's figures, a run a stage, epochs at their last step."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    passed: list[Event] = []
    with TensorBoardLog(passed.append, tmp_path) as log:
        for event in (*OTHERS, *STEPS, EPOCH):
            log(event)
        log(TrainingStep(stage="teach:a", done=1, step=1, steps=1, epoch=1, values={"loss": 2.0}))
    assert len(passed) == len(OTHERS) + len(STEPS) + 2
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["teach-a", "train"]
    read = EventAccumulator(str(tmp_path / "train"))  # type: ignore[no-untyped-call]
    read.Reload()  # type: ignore[no-untyped-call]
    tensors = {
        tag: [(e.step, round(float(e.tensor_proto.float_val[0]), 4)) for e in read.Tensors(tag)]  # type: ignore[no-untyped-call]
        for tag in read.Tags()["tensors"]  # type: ignore[no-untyped-call]
    }
    assert tensors["step/loss"] == [(1, 1.0), (2, 0.5), (3, 0.3333), (4, 0.25)]
    assert tensors["epoch/accuracy"] == [(4, 0.75)]
