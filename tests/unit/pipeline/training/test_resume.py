"""An interrupted training goes on as if nothing had happened; two processes train as one does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.training import Schedule
from pipeline.training.checkpoints import Checkpoint, Checkpoints

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT: Final = '''
import dataclasses, json, os, signal, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from pipeline.data import Split
from pipeline.graph import trace
from pipeline.training import Augmentation, Schedule, TrainConfig, fit

folder, kill_at, settings = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
norm, dropout = settings.pop("norm", True), settings.pop("dropout", 0.0)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity()
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.drop(functional.relu(self.bn(self.conv(x))).mean((2, 3))))

class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, inputs, labels, outputs):
        return functional.cross_entropy(outputs[0] * self.scale, labels)

class Masks:
    """Masks that come step by step, so that their state matters."""
    def __init__(self, graph):
        self.graph, self.steps = graph, 0

    def __call__(self):
        self.steps += 1
        if self.steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with torch.no_grad():
            self.graph.get_parameter("conv.weight").view(-1)[: self.steps // 4] = 0.0

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]

torch.manual_seed(7)
rng = np.random.default_rng(0)
data = Split(inputs={"x": rng.standard_normal((26, 2, 6, 6), dtype=np.float32)}, labels=rng.integers(0, 3, 26))
graph, loss = trace(Net(), {"x": torch.zeros(2, 2, 6, 6)}), Loss()
augment = Augmentation(**settings.pop("augment", {}))
config = TrainConfig(**{"epochs": 5, "batch_size": 8, "optimizer": "sgd", "learning_rate": 0.05, "weight_decay": 0.01,
                        "seed": 3, "threads": 1, "augment": augment, **settings})
validate = lambda model: float(-sum(p.square().sum() for p in model.parameters()).detach())
curve = fit(graph, data, loss, config, validate=validate, on_epoch=lambda _: None, after_step=Masks(graph),
            checkpoints=None if kill_at == 0 else Path(folder, "checkpoints"))
if os.environ.get("RANK", "0") == "0":
    save_file({**graph.state_dict(), "loss": loss.scale.detach()}, folder + "/weights.safetensors")
    open(folder + "/curve.json", "w").write(json.dumps([dataclasses.asdict(r) for r in curve]))
'''


def run(
    folder: Path, kill_at: int, settings: str, launcher: Sequence[str] = (), *, wanted: int = 0
) -> tuple[dict[str, torch.Tensor], str]:
    """The weights and the curve of one training in a process of its own."""
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(folder), str(kill_at), settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == wanted, done.stderr[-2000:]
    if wanted:
        return {}, ""
    return load_file(folder / "weights.safetensors"), (folder / "curve.json").read_text(encoding="utf-8")


HARD: Final = (
    '{"optimizer": "adamw", "dropout": 0.5, "ema_decay": 0.9, "keep": "best", "accumulate": 2, '
    '"augment": {"pad_crop": 1, "flip": 0.5, "mixup": 0.4}}'
)


@pytest.mark.parametrize(
    "settings",
    [HARD, *(pytest.param(text, marks=pytest.mark.long) for text in ('{"dropout": 0.5}', '{"patience": 4}'))],
)
def test_a_killed_training_ends_as_an_undisturbed_one(tmp_path: Path, settings: str) -> None:
    """Promise: killed in an epoch, begun again: the same bits and the same curve, whatever has a state."""
    undisturbed = run(tmp_path / "whole", 0, settings)
    folder = tmp_path / "killed"
    run(folder, 7, settings, wanted=-signal.SIGKILL)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir())
    resumed = run(folder, -1, settings)
    assert resumed[1] == undisturbed[1]
    assert all(torch.equal(resumed[0][name], tensor) for name, tensor in undisturbed[0].items())


@pytest.mark.long
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Promise: without batch-norm, under torchrun, the same weights for the same global batch; odd rests too.

    A process that finds no sample of a batch takes part with weight 0.
    """
    one = run(tmp_path / "one", 0, '{"norm": false, "accumulate": 2, "clip_norm": 0.5}')
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    two = run(tmp_path / "two", 0, '{"norm": false, "accumulate": 2, "clip_norm": 0.5, "processes": 2}', launcher)
    for name, tensor in one[0].items():
        torch.testing.assert_close(two[0][name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def _checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint(epoch=epoch, tensors={"model.w": torch.full((3,), float(epoch))}, state={"step": epoch})


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    """Promise: of three the last two are kept; a damaged or half one is as none; no pickle is among them."""
    store = Checkpoints(tmp_path / "here")
    for epoch in (1, 2, 3):
        store.save(_checkpoint(epoch))
    (tmp_path / "here" / "epoch-000004.unfinished").mkdir()
    names = sorted(path.name for path in (tmp_path / "here").iterdir())
    assert names == ["epoch-000002", "epoch-000003", "epoch-000004.unfinished"]
    assert {file.suffix for file in (tmp_path / "here").rglob("*.*") if file.is_file()} == {".json", ".safetensors"}
    found = store.latest()
    assert found is not None
    assert (found.epoch, found.state, found.tensors["model.w"].tolist()) == (3, {"step": 3}, [3.0] * 3)
    tensors = tmp_path / "here" / "epoch-000003" / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    again = store.latest()
    assert again is not None
    assert again.epoch == 2
    (tmp_path / "here" / "epoch-000002" / "state.json").write_text("{", encoding="utf-8")
    assert store.latest() is None


def test_random_numbers_are_taken_up_wherever_they_lie(
    tmp_path: Path,
    world: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Promise: a state that is a part of a larger tensor, as each process's is, is read as it is (torch does not)."""
    constant = Schedule(kind="constant")
    whole = world.fit(world.graph(dropout=0.5), epochs=2, schedule=constant)
    world.fit(world.graph(dropout=0.5), epochs=1, schedule=constant, checkpoints=tmp_path / "c")
    found = Checkpoints(tmp_path / "c").latest()
    assert found is not None
    state = found.tensors["rng.torch"]
    part = torch.zeros(state.numel() + 16, dtype=torch.uint8)[16:].view(state.shape).copy_(state)
    tensors = {**found.tensors, "rng.torch": part}
    monkeypatch.setattr(Checkpoints, "latest", lambda _: replace(found, tensors=tensors))
    again = world.fit(world.graph(dropout=0.5), epochs=2, schedule=constant, checkpoints=tmp_path / "c")
    assert again == whole


def test_the_last_good_checkpoint_outlives_a_loss_of_nan(tmp_path: Path, world: Any) -> None:  # noqa: ANN401
    """Promise: what was learned before the loss broke is still there, and finite."""
    from targets.errors import InputError

    labels = world.split.labels
    calls = []

    def loss(inputs: Any, wanted: Any, outputs: Any) -> torch.Tensor:  # noqa: ANN401
        calls.append(1)
        value: torch.Tensor = world.loss(inputs, wanted, outputs)
        return value * (np.nan if len(calls) > 6 else 1.0)

    with pytest.raises(InputError, match="epoch 2, step 3"):
        world.fit(world.graph(), loss=loss, epochs=4, checkpoints=tmp_path / "c")
    found = Checkpoints(tmp_path / "c").latest()
    assert found is not None
    assert found.epoch == 1
    assert all(torch.isfinite(tensor).all() for tensor in found.tensors.values())
    assert labels is world.split.labels
