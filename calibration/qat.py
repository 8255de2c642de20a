"""Quantisation-aware training: a Q/DQ file learns to give its float parent's outputs; labels are not needed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from calibration.quantized import read_quantized
from calibration.torchexec import TorchGraph
from calibration.torchlearn import (
    Trainable,
    float_parent,
    float_weights,
    progress_ratio,
    shared_tensors,
    to_tensors,
    torch_threads,
)
from targets.errors import InputError
from targets.onnxfile import open_onnx

if TYPE_CHECKING:
    from pathlib import Path

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]
Batch = Feeds | tuple[Feeds, Array]
"""Arrays by input name, alone or with labels ``(N,)`` of classes."""
Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups], torch.optim.Optimizer]

_TINY: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class QatSettings:
    """How to train.

    Attributes:
        steps: Optimiser steps.
        learning_rate: Peak for weights, in integer steps of the weight.
        bias_rate: Peak for biases, in steps of the output's scale.
        scale_rate: Peak for scales, as a ratio; 0 keeps them.
        warmup_ratio: Share of the steps with a linear rise; then cosine down to zero.
        loss: ``mse`` relative squared error of every output, ``kl`` divergence of the class probabilities.
        temperature: Of both sides of ``kl``.
        inner_weight: Weight of the mean relative squared error over the inner tensors both graphs have.
        label_weight: Weight of the cross-entropy against labels, where batches bring them.
        precision: Arithmetic of the pass forward and back; master weights stay float32.
        seed: Seed of torch.
        threads: torch threads; another number gives other weights.
        time_budget_s: Stop (with the schedule run down) after that long, None for never.
        check_every: Steps between looks at the held-back samples.
    """

    steps: int = 600
    learning_rate: float = 0.005
    bias_rate: float = 0.005
    scale_rate: float = 1e-3
    warmup_ratio: float = 0.05
    loss: Literal["mse", "kl"] = "mse"
    temperature: float = 1.0
    inner_weight: float = 1.0
    label_weight: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    threads: int = 1
    time_budget_s: float | None = None
    check_every: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class QatProgress:
    """Where training is.

    Attributes:
        step: Steps done.
        loss: Of the last step.
        learning_rate: Of the weights, at the last step.
        held_snr_db: Output SNR on held-back samples, None between looks.
        elapsed_s: Since the start.
    """

    step: int
    loss: float
    learning_rate: float
    held_snr_db: float | None
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QatReport:
    """What came of it.

    Attributes:
        steps: Optimiser steps done.
        best_step: The step whose weights were kept (0: the file as it came; the last one without held-back samples).
        held_snr_db: Output SNR on the held-back samples at each look, by step; empty without them.
        losses: Loss of every step.
        changed_ratio: Share of weight integers that differ from before.
        stopped_early: True when time or batches ran out.
        seconds: Time taken.
    """

    steps: int
    best_step: int
    held_snr_db: Mapping[int, float]
    losses: tuple[float, ...]
    changed_ratio: float
    stopped_early: bool
    seconds: float


def train_quantized(
    float_model: Path,
    quantized: Path,
    batches: Iterable[Batch],
    out: Path,
    settings: QatSettings,
    *,
    held: Sequence[Feeds] = (),
    make_optimizer: MakeOptimizer | None = None,
    on_progress: Callable[[QatProgress], None] = lambda _: None,
) -> QatReport:
    """Trains weights, biases and scales of a Q/DQ file by distillation from its float parent.

    Nodes, names and types of the file stay as they are; only the numbers inside change.

    Args:
        float_model: The float ONNX file the Q/DQ file was made from.
        quantized: The Q/DQ file.
        batches: Training batches; gone through again when it ends (a generator only once).
        out: File to write.
        settings: How to train.
        held: Batches to choose the best step by output SNR; without them the last step is taken.
        make_optimizer: Another optimiser over the parameter groups (each with its peak ``lr``); Adam when None.
        on_progress: Called after every step.

    Raises:
        InputError: A node has no differentiable implementation, there are no batches, or the loss becomes NaN or Inf.
    """
    begin = time.monotonic()
    parent = float_parent(float_model)
    graph = read_quantized(open_onnx(quantized))
    before = {node: graph.array(stored.integers) for node, stored in graph.weights.items()}
    with torch_threads(settings.threads, settings.seed):
        teacher, student = TorchGraph(parent), TorchGraph(graph.model)
        trainable = Trainable(graph, float_weights(parent))
        course = _Course(teacher, student, trainable, shared_tensors(graph, parent), settings)
        optimizer = (make_optimizer or torch.optim.Adam)(_groups(trainable, settings))
        peaks = [float(group["lr"]) for group in optimizer.param_groups]
        keeper = _Keeper(course, held)
        losses: list[float] = []
        for step, batch in zip(range(1, settings.steps + 1), _endless(batches), strict=False):
            spent = time.monotonic() - begin
            done = progress_ratio(step - 1, settings.steps, spent, settings.time_budget_s)
            if done >= 1.0:
                break
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * _schedule(done, settings.warmup_ratio)
            losses.append(_step(course, optimizer, batch, step))
            look = step % settings.check_every == 0 or step == settings.steps
            snr = keeper.look(step) if held and look else None
            rate = float(optimizer.param_groups[0]["lr"])
            on_progress(QatProgress(step=step, loss=losses[-1], learning_rate=rate, held_snr_db=snr, elapsed_s=spent))
        if not losses:
            raise InputError(
                "no training batch came", "the iterable was empty or the time was over", "give at least one batch"
            )
        if held and len(losses) not in keeper.seen:
            keeper.look(len(losses))
        best = keeper.restore(len(losses))
        trainable.write()
    graph.save(out)
    changed = sum(int((graph.array(s.integers) != before[node]).sum()) for node, s in graph.weights.items())
    return QatReport(
        steps=len(losses),
        best_step=best,
        held_snr_db=keeper.seen,
        losses=tuple(losses),
        changed_ratio=changed / sum(array.size for array in before.values()),
        stopped_early=len(losses) < settings.steps,
        seconds=time.monotonic() - begin,
    )


class _Course:
    """Teacher, student and the loss between them."""

    def __init__(
        self,
        teacher: TorchGraph,
        student: TorchGraph,
        trainable: Trainable,
        inner: Mapping[str, str],
        settings: QatSettings,
    ) -> None:
        self.teacher, self.student, self.trainable, self.settings = teacher, student, trainable, settings
        self.inner = dict(inner) if settings.inner_weight > 0.0 else {}

    def loss(self, batch: Batch) -> Tensor:
        feeds, labels = batch if isinstance(batch, tuple) else (batch, None)
        tensors = to_tensors(feeds)
        with torch.no_grad():
            exact = self.teacher(tensors, wanted=[*self.teacher.outputs, *self.inner])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            wanted = [*self.student.outputs, *self.inner.values()]
            found = self.student(tensors, given=self.trainable.values(), wanted=wanted)
        total = torch.zeros(())
        for mine, theirs in zip(self.student.outputs, self.teacher.outputs, strict=True):
            total = total + self._output_loss(found[mine].float(), exact[theirs])
        if self.inner:
            parts = [_relative(found[mine].float(), exact[theirs]) for theirs, mine in self.inner.items()]
            total = total + self.settings.inner_weight * torch.stack(parts).mean()
        if labels is not None and self.settings.label_weight > 0.0:
            logits = found[self.student.outputs[0]].float()
            total = total + self.settings.label_weight * functional.cross_entropy(logits, torch.from_numpy(labels))
        return total

    def _output_loss(self, found: Tensor, exact: Tensor) -> Tensor:
        if self.settings.loss == "mse":
            return _relative(found, exact)
        hot = self.settings.temperature
        goal = torch.log_softmax(exact / hot, dim=-1)
        divergence = functional.kl_div(torch.log_softmax(found / hot, dim=-1), goal, reduction="none", log_target=True)
        return divergence.sum(dim=-1).mean() * hot**2


class _Keeper:
    """Remembers the parameters with the best output SNR on held-back samples."""

    def __init__(self, course: _Course, held: Sequence[Feeds]) -> None:
        self._course, self._held = course, [to_tensors(feeds) for feeds in held]
        self.seen: dict[int, float] = {}
        self._best: dict[str, Tensor] = {}
        with torch.no_grad():
            self._exact = [course.teacher(feeds) for feeds in self._held]
        if held:
            self.look(0)

    @torch.no_grad()
    def look(self, step: int) -> float:
        values = self._course.trainable.values()
        signal = noise = 0.0
        for feeds, exact in zip(self._held, self._exact, strict=True):
            found = self._course.student(feeds, given=values)
            for mine, theirs in zip(found.values(), exact.values(), strict=True):
                signal += float(theirs.double().square().sum())
                noise += float((mine.double() - theirs.double()).square().sum())
        snr = 10.0 * math.log10(max(signal, _TINY) / max(noise, _TINY))
        if not self.seen or snr > max(self.seen.values()):
            self._best = {name: value.clone() for name, value in self._course.trainable.state_dict().items()}
        self.seen[step] = snr
        return snr

    def restore(self, last: int) -> int:
        """Puts the best parameters back; the step they are of."""
        if not self.seen:
            return last
        self._course.trainable.load_state_dict(self._best)
        return max(self.seen, key=lambda step: self.seen[step])


def _relative(found: Tensor, exact: Tensor) -> Tensor:
    """Squared error over squared signal."""
    return (found - exact).square().sum() / exact.square().sum().clamp_min(_TINY)


def _groups(trainable: Trainable, settings: QatSettings) -> Groups:
    rates = [
        (trainable.weights, settings.learning_rate),
        (trainable.biases, settings.bias_rate),
        (trainable.weight_scales, settings.scale_rate),
        (trainable.activation_scales, settings.scale_rate),
    ]
    for parameters, rate in rates:
        for parameter in parameters:
            parameter.requires_grad_(rate > 0.0)
    return [{"params": [*parameters], "lr": rate} for parameters, rate in rates if rate > 0.0 and len(parameters)]


def _step(course: _Course, optimizer: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    loss = course.loss(batch)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InputError(
            f"the distillation loss became {value}",
            f"at step {step} of quantisation-aware training",
            "lower learning_rate, or look at the training samples for extreme values",
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _schedule(done: float, warmup: float) -> float:
    """Linear rise, then cosine down to zero, at the share ``done`` of the way."""
    if done < warmup:
        return (done + warmup / 10) / (warmup * 1.1)
    return 0.5 * (1.0 + math.cos(math.pi * (done - warmup) / (1.0 - warmup)))


def _endless(batches: Iterable[Batch]) -> Iterator[Batch]:
    while True:
        came = False
        for batch in batches:
            came = True
            yield batch
        if not came:
            return
