"""Stages in several processes: the same result as in one, and whatever happens to one of them is said and ends all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.compose import compose
from pipeline.events import StageProgress, TrainingStep
from pipeline.recipe import TrainSection, load_recipe
from pipeline.runner import run_plan
from pipeline.stages.base import configuration
from pipeline.store import Store
from targets.errors import EdgepressError, EnvironmentFailure, InputError, UsageError
from targets.profile import load_profile

if TYPE_CHECKING:
    from pipeline.events import Event

MODEL: Final = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.head = nn.Linear(6, 3)
        self.spare = nn.Linear(2, 2)  # nobody calls it

    def forward(self, image):
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))

def net(norm=False):
    return Net(norm)
"""
DATA: Final = """
import os, resource, signal
import numpy as np

def data(train=53, trouble=""):
    if os.environ.get("RANK") == "1" and trouble:
        if trouble == "raise":
            raise ValueError("no such file")
        if trouble == "memory":
            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20),) * 2)
        else:
            os.kill(os.getpid(), getattr(signal, trouble))
    random = np.random.default_rng(0)
    def split(count):
        labels = random.integers(0, 3, count)
        x = random.normal(0, 0.5, (count, 1, 6, 6)).astype(np.float32)
        for row, label in zip(x, labels):
            row[0, 2 * label : 2 * label + 2] += 1
        return x, labels
    return {"train": split(train), "validation": split(30)}
"""
RECIPE: Final = """
name = "together"
task = "classification"
threads = 1
[model]
factory = "model.py:net"
[data]
factory = "data.py:data"
[train]
epochs = 2
batch_size = 12
learning_rate = 0.2
clip_norm = 0.5
"""
Run = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a recipe until a stage in a store of its own; the weights, and in ``events`` what was told."""
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "data.py").write_text(DATA, encoding="utf-8")

    def run_it(
        *changes: str, text: str = RECIPE, until: str = "train", store: str = "store", events: list[Event] | None = None
    ) -> dict[str, torch.Tensor]:
        (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
        recipe = load_recipe(tmp_path / "recipe.toml", overrides=changes)
        plan = compose(recipe, load_profile("host"), until=until)
        kept = Store(tmp_path / store)
        outcome = run_plan(plan, kept, [].append if events is None else events.append)[until]
        (out := tmp_path / f"out-{time.monotonic_ns()}").mkdir()
        kept.materialize(outcome.entry, out)
        return load_file(out / "weights.safetensors")

    return run_it


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, task.read_text(encoding="ascii").split())
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def ends(pid: int) -> bool:
    """Whether a process is gone or dead; the kernel may take a moment."""
    for _ in range(300):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[n], two[n], rtol=1e-4, atol=1e-5) for n in one)


@pytest.mark.long
def test_two_processes_give_what_one_gives(run: Run) -> None:
    """Promise: without batch-norm the same weights and losses for the same batches, odd rests and spare layers too."""
    alone, together = list[Any](), list[Any]()
    one, two = run(events=alone), run("train.processes=2", events=together)
    assert close(one, two)
    steps = [[e.values["loss"] for e in events if isinstance(e, TrainingStep)] for events in (alone, together)]
    assert len(steps[0]) == 10
    np.testing.assert_allclose(steps[1], steps[0], rtol=1e-4)
    epochs = [[e.values for e in events if isinstance(e, StageProgress) and e.values] for events in (alone, together)]
    assert [values["accuracy"] for values in epochs[1]] == [values["accuracy"] for values in epochs[0]]


@pytest.mark.long
def test_frozen_normalisation_is_no_difference(run: Run, tmp_path: Path) -> None:
    """Promise: with batch-norm frozen, two processes and one agree; with it training they differ, and by little."""
    base = RECIPE.replace('"model.py:net"', '"model.py:net"\nargs = { norm = true }')
    save_file(run(text=base, store="first"), tmp_path / "start.safetensors")
    tuned = base.replace("[train]", "[finetune]").replace(
        "norm = true }", 'norm = true }\nweights = "start.safetensors"'
    )  # fmt: skip
    frozen = [
        run("finetune.batch_norm=frozen", f"finetune.processes={n}", text=tuned, until="finetune") for n in (1, 2)
    ]
    assert close(*frozen)
    free = [run(f"finetune.processes={n}", text=tuned, until="finetune") for n in (1, 2)]
    assert not close(*free)
    for name, tensor in free[0].items():
        assert float((free[1][name] - tensor).abs().max()) < 0.2, name


@pytest.mark.long
def test_every_stage_that_trains_can(run: Run) -> None:
    """Promise: pruning in steps and distilling in two processes give the nets that one process gives."""
    steps = "ratio = 0.5\nschedule = 'linear'\nsteps = 2"
    text = f"{RECIPE}[prune]\n{steps}\n[prune.finetune]\nepochs = 1\n[distill]\nepochs = 1\n"
    results = [
        run("train.processes=1", f"prune.finetune.processes={n}", f"distill.processes={n}", text=text, until="distill")
        for n in (1, 2)
    ]
    assert close(*results)


@pytest.mark.long
@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        ("SIGKILL", EnvironmentFailure, "process 2 of 2 ran out of memory"),
        ("SIGSEGV", EnvironmentFailure, "process 2 of 2 crashed (SIGSEGV)"),
        ("memory", EnvironmentFailure, "ran out of memory (in process 2 of 2)"),
        ("raise", InputError, "(in process 2 of 2)"),
    ],
)
def test_a_process_that_fails_is_named(run: Run, trouble: str, kind: type[EdgepressError], said: str) -> None:
    """Promise: one failing process is one clean error that names it, and the store holds nothing of it."""
    with pytest.raises(kind) as error:
        run("train.processes=2", f'data.args={{ trouble = "{trouble}" }}')
    assert said in error.value.what
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.long
def test_an_interrupted_training_goes_on(run: Run, tmp_path: Path) -> None:
    """Promise: Control-C ends all processes; the next run goes on from the last epoch and ends with the same bits."""
    whole = run("train.processes=2", "train.epochs=6", store="whole")
    running = list[int]()

    class Stop(list[Any]):
        def append(self, event: Any) -> None:  # noqa: ANN401
            if isinstance(event, TrainingStep) and event.epoch == 3:
                running.extend(descendants(os.getpid()))
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("train.processes=2", "train.epochs=6", events=Stop())
    assert len(running) >= 4, "supervisor, launcher, two processes"
    assert all(map(ends, running))
    again = list[Any]()
    resumed = run("train.processes=2", "train.epochs=6", events=again)
    assert min(event.epoch for event in again if isinstance(event, TrainingStep)) > 2
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(("batch", "processes"), [(12, 7), (2, 2)])
def test_a_batch_too_small_to_share(run: Run, batch: int, processes: int) -> None:
    """Promise: said before anything runs, with what would do."""
    with pytest.raises(InputError, match="fewer than two samples") as error:
        run(f"train.processes={processes}", f"train.batch_size={batch}")
    assert "set it to" in error.value.fix


def test_torchrun_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: whole runs at once would wait for each other: three lines that name the key instead."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UsageError, match="torchrun cannot start edgepress") as error:
        run()
    assert "set processes = 3" in error.value.fix


def test_the_number_of_processes_is_part_of_the_key() -> None:
    """Promise: other weights, another key."""
    one, two = (configuration(TrainSection(epochs=1, processes=n)) for n in (1, 2))
    assert one != two
