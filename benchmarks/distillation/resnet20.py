"""ResNet-20 with half its channels removed: does distillation from its parent beat plain fine-tuning?

    resnet20.py CACHE --images cifar10.npz --weights cifar10_resnet20_jpeg.safetensors

Three seeds; at equal epochs, and at equal time (distillation gets fewer epochs, for what asking the teacher costs).
Learning rates are chosen on training images that nobody trains on; the test images are read once, at the end. Each
training is kept in CACHE as soon as it is done, so an interrupted run goes on where it was; started several times at
once, the processes share the work.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from pipeline.data import Split
from pipeline.distillation import SoftTargets
from pipeline.graph import copy_graph, count_macs, count_parameters, trace
from pipeline.pruning import all_criteria, apply_decisions, choose_by_ratio, find_groups
from pipeline.training import TrainConfig, fit, predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.fx import GraphModule

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "cifar10"
TRAIN, VALIDATION, TEST = 12_800, 2_500, 10_000
EPOCHS, BATCH = 4, 128
ARMS = ("plain", "distill")
RATES = (0.03, 0.1)
SEEDS, TUNING_SEED = (0, 1, 2), 100
TEMPERATURE, ALPHA = 4.0, 0.3  # the recipe's defaults
T_95 = 4.303  # Student's t, two degrees of freedom


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    arm: str
    rate: float
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm}-{self.rate}-{self.seed}-{self.epochs}"

    def done(self, cache: Path) -> Path:
        """The file that is there when it is finished."""
        return cache / f"{self.name}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that the trainings share."""

    cache: Path
    student: GraphModule
    splits: Mapping[str, Split]
    taught: Tensor  # logits (TRAIN, 10) of the parent


def main() -> None:
    """Prints what each arm reached, and the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.cache.mkdir(parents=True, exist_ok=True)
    splits = images(asked.images)
    parent = _parent(asked.weights, splits)
    setting, teach_s = _setting(asked.cache, parent, splits)
    tuned = _all(setting, [Job(arm, rate, TUNING_SEED, EPOCHS) for arm in ARMS for rate in RATES])
    rates = {arm: _best_rate(tuned, arm) for arm in ARMS}
    runs = _all(setting, [Job(arm, rates[arm], seed, EPOCHS) for arm in ARMS for seed in SEEDS])
    cost_s = {arm: statistics.mean(run["cpu_s"] for job, run in runs.items() if job.arm == arm) for arm in ARMS}
    shorter = int(EPOCHS * (cost_s["plain"] - teach_s) / cost_s["distill"])
    runs |= _all(setting, [Job("distill", rates["distill"], seed, shorter) for seed in SEEDS])
    print(f"rates {rates}; asking the teacher took {teach_s:.0f} CPU s: {shorter} epochs of distillation in equal time")
    _report(setting, parent, runs, shorter)


def images(path: Path) -> dict[str, Split]:
    """Training images to learn from, others to tune on, and the test images."""
    data = _module("data")
    with np.load(path, allow_pickle=False) as archive:
        jpeg, offsets, labels, split = (archive[name] for name in ("jpeg", "offsets", "label", "split"))
    trained, tested = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
    rows = {
        "train": trained[:TRAIN],
        "validation": trained[TRAIN : TRAIN + VALIDATION],
        "test": tested[:TEST],
    }
    return {
        name: Split(
            inputs={"image": np.stack([data._decode(jpeg, offsets, row) for row in part])},  # noqa: SLF001
            labels=labels[part].astype(np.int64),
        )
        for name, part in rows.items()
    }


def _module(name: str) -> Any:  # noqa: ANN401 - a module of the example
    spec = importlib.util.spec_from_file_location(f"cifar10_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parent(weights: Path, splits: Mapping[str, Split]) -> GraphModule:
    net = _module("model").resnet20()
    net.load_state_dict(load_file(weights))
    return trace(net, {"image": torch.from_numpy(splits["validation"].inputs["image"][:2])})


def _setting(cache: Path, parent: GraphModule, splits: Mapping[str, Split]) -> tuple[Setting, float]:
    """The pruned net and what the parent says to the training images, with the CPU seconds that this took."""
    groups = find_groups(parent)
    scores = all_criteria()["l2"].score(parent, groups.groups)
    decisions = choose_by_ratio(groups, scores, ratio=0.5, scope="local")
    student = apply_decisions(parent, decisions)
    example = {"image": torch.zeros(2, 3, 32, 32)}
    for name, graph in (("parent", parent), ("student", student)):
        print(f"{name}: {count_parameters(graph):,} parameters, {count_macs(graph, example):,} MACs")
    kept = cache / "taught.safetensors"
    if not kept.exists():
        started_s = time.process_time()
        (logits,) = predict(parent, splits["train"], threads=1)
        cpu_s = torch.tensor(time.process_time() - started_s)
        save_file({"logits": torch.from_numpy(logits), "cpu_s": cpu_s}, kept)
    stored = load_file(kept)
    setting = Setting(cache=cache, student=student, splits=splits, taught=stored["logits"])
    return setting, float(stored["cpu_s"])


def _best_rate(tuned: Mapping[Job, Mapping[str, Any]], arm: str) -> float:
    """The learning rate with the best validation accuracy, by a training whose seed counts nowhere else."""
    reached = {job.rate: run["validation"][-1] for job, run in tuned.items() if job.arm == arm}
    print(f"tuning {arm}: validation {reached}")
    return max(reached, key=lambda rate: reached[rate])


def _all(setting: Setting, jobs: Sequence[Job]) -> dict[Job, dict[str, Any]]:
    """Results of trainings: those that nobody has done nor is doing are done here."""
    while True:
        for job in jobs:
            with (setting.cache / f"{job.name}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # another process is at it
                if not job.done(setting.cache).exists():
                    _train(setting, job)
        if all(job.done(setting.cache).exists() for job in jobs):
            return {job: json.loads(job.done(setting.cache).read_text(encoding="utf-8")) for job in jobs}
        time.sleep(2)


def _train(setting: Setting, job: Job) -> None:
    """One training; writes weights and figures."""
    student = copy_graph(setting.student)
    soft = SoftTargets(temperature=TEMPERATURE)
    train = setting.splits["train"]
    labels = torch.from_numpy(train.labels)

    def loss(_inputs: Mapping[str, Tensor], rows: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        hard = functional.cross_entropy(outputs[0], labels[rows])
        if job.arm == "plain":
            return hard
        return ALPHA * hard + (1 - ALPHA) * soft(outputs[0], setting.taught[rows], labels[rows])

    validation: list[float] = []
    spent_s = 0.0  # on validation, which is no part of training

    def validate(graph: GraphModule) -> float:
        nonlocal spent_s
        before_s = time.process_time()
        validation.append(_accuracy(graph, setting.splits["validation"]))
        spent_s += time.process_time() - before_s
        return validation[-1]

    config = TrainConfig(
        epochs=job.epochs,
        batch_size=BATCH,
        optimizer="sgd",
        learning_rate=job.rate,
        weight_decay=5e-4,
        seed=job.seed,
        threads=1,
    )
    started_s = time.process_time()
    numbered = Split(inputs=train.inputs, labels=np.arange(len(train)))
    fit(student, numbered, loss, config, validate=validate, on_epoch=lambda _: None)
    result = {"validation": validation, "cpu_s": time.process_time() - started_s - spent_s}
    save_file(student.state_dict(), setting.cache / f"{job.name}.safetensors")
    job.done(setting.cache).write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(f"{job.name}: validation {validation[-1]:.4f}, {result['cpu_s']:.0f} CPU s", flush=True)


def _accuracy(graph: GraphModule, split: Split) -> float:
    (logits,) = predict(graph, split, threads=1)
    return float((logits.argmax(1) == split.labels).mean())


def _report(setting: Setting, parent: GraphModule, runs: Mapping[Job, Mapping[str, Any]], shorter: int) -> None:
    """Reads the test images, once."""
    test = setting.splits["test"]
    print(f"parent: test {_accuracy(parent, test):.4f}; pruned, untrained: {_accuracy(setting.student, test):.4f}")
    scores: dict[tuple[str, int], list[float]] = {}
    for job in runs:
        student = copy_graph(setting.student)
        student.load_state_dict(load_file(setting.cache / f"{job.name}.safetensors"))
        scores.setdefault((job.arm, job.epochs), []).append(_accuracy(student, test))
    for (arm, epochs), reached in scores.items():
        costs = [run["cpu_s"] for job, run in runs.items() if (job.arm, job.epochs) == (arm, epochs)]
        shown = " ".join(f"{score:.4f}" for score in reached)
        mean, cpu_s = statistics.mean(reached), statistics.mean(costs)
        print(f"{arm}, {epochs} epochs: test {shown}, mean {mean:.4f}; {cpu_s:.0f} CPU s")
    for epochs in (EPOCHS, shorter):
        pairs = zip(scores["distill", epochs], scores["plain", EPOCHS], strict=True)
        gains = [new - old for new, old in pairs]
        mean, half = statistics.mean(gains), T_95 * statistics.stdev(gains) / math.sqrt(len(gains))
        shown = f"{mean:+.4f}, 95 % [{mean - half:+.4f}, {mean + half:+.4f}]"
        print(f"distill ({epochs} epochs) - plain ({EPOCHS} epochs): {shown}, paired, {len(gains)} seeds")


if __name__ == "__main__":
    main()
