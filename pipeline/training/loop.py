"""The one training loop: seeded, resumable, and stopped by the first number that is not finite."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from calibration.torchlearn import progress_ratio
from pipeline.graph import set_training
from pipeline.training.augmentation import check_augmentation
from pipeline.training.batches import parts_of, steps_of
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.ema import Ema
from pipeline.training.hardware import make_fabric
from pipeline.training.optimizers import ParameterGroup, make_optimizer, parameter_groups
from pipeline.training.predicting import torch_threads
from pipeline.training.results import EpochResult, StepResult, When
from pipeline.training.resuming import Progress, checkpoint_of, fits, restore
from pipeline.training.schedules import Course
from pipeline.training.stepping import Loss, Stepper

if TYPE_CHECKING:
    from pipeline.data import Split
    from pipeline.training.config import TrainConfig

_log = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    train: Split,
    loss: Loss,
    config: TrainConfig,
    *,
    validate: Callable[[Any], float],
    on_epoch: Callable[[EpochResult], None],
    after_step: Callable[[], None] | None = None,
    on_step: Callable[[StepResult], None] | None = None,
    groups: Sequence[ParameterGroup] | None = None,
    checkpoints: Path | None = None,
) -> list[EpochResult]:
    """Trains ``model`` in place and leaves it in evaluation mode.

    Args:
        model: An exported graph (`pipeline.graph.trace`), or any module that takes the inputs in order.
        train: Training samples with labels.
        loss: Loss of one batch; one that is a module has its parameters trained too, and is left changed.
        config: How to train.
        validate: Any score of the model in evaluation mode, higher is better; after each epoch, and before the first
            where the best weights are kept.
        on_epoch: Called with each epoch's figures.
        after_step: Called after every step of the optimiser (to put masks back on weights, say), and once more when
            averaged or earlier weights have been put in. One that changes from step to step has `state_dict` and
            `load_state_dict`, so that an interrupted training goes on with it.
        on_step: Called with each step's figures.
        groups: What learns, in place of what ``config.scope`` says.
        checkpoints: A folder of this very training: it is saved there after each epoch, and goes on from there. None:
            nothing is saved.

    Raises:
        InputError: Loss or gradient is NaN or infinite (names epoch, step, samples and layer), nothing can be trained,
            or the configuration asks for what is not there.
    """
    course = Course(
        config.schedule,
        epochs=config.epochs,
        steps_per_epoch=len(steps_of(len(train), config.batch_size, config.accumulate)),
    )
    if config.augment.random:
        check_augmentation(config.augment, train)
    with torch_threads(config.threads):
        chosen = parameter_groups(model, loss, config) if groups is None else groups
        with _only(model, chosen):
            training = _Training(model, train, loss, config, course, chosen, validate, after_step, checkpoints)
            return training.run(on_epoch, on_step)


@final
class _Training:
    def __init__(
        self,
        model: nn.Module,
        train: Split,
        loss: Loss,
        config: TrainConfig,
        course: Course,
        groups: Sequence[ParameterGroup],
        validate: Callable[[Any], float],
        after_step: Callable[[], None] | None,
        checkpoints: Path | None,
    ) -> None:
        self._model, self._loss, self._train, self._config, self._course = model, loss, train, config, course
        self._validate, self._after_step = validate, after_step
        self._fabric = make_fabric(config)
        torch.manual_seed(config.seed + self._fabric.global_rank)
        self._optimizer = make_optimizer(groups, config)
        self._stepper = Stepper(model, loss, groups, self._optimizer, self._fabric, train, config, course)
        self._ema = None if config.ema_decay is None else Ema(model, config.ema_decay)
        self._checkpoints = None if checkpoints is None else Checkpoints(checkpoints)
        self._order = np.random.default_rng(config.seed)
        self._progress = Progress()
        self._begin = time.monotonic()

    def run(
        self, on_epoch: Callable[[EpochResult], None], on_step: Callable[[StepResult], None] | None
    ) -> list[EpochResult]:
        self._resume()
        leads = self._fabric.global_rank == 0
        progress, config = self._progress, self._config
        if config.keep == "best" and progress.best_epoch is None:
            progress.consider(0, self._score(), math.inf, self._model, self._ema)
        for result in progress.curve if leads else ():
            on_epoch(result)
        while progress.epoch < config.epochs and not self._is_over():
            result = self._epoch(on_step if leads else None)
            self._save()
            if leads:  # told when it is kept: who is interrupted now loses no epoch that was shown
                on_epoch(result)
        return self._finished()

    def _epoch(self, on_step: Callable[[StepResult], None] | None) -> EpochResult:
        progress, config = self._progress, self._config
        epoch = progress.epoch + 1
        self._set_training(training=True)
        order = self._order.permutation(len(self._train))
        losses: list[float] = []
        for step in steps_of(len(self._train), config.batch_size, config.accumulate):
            place = self._place()
            if place >= self._course.steps:
                break
            parts = parts_of(step, order, rank=self._fabric.global_rank, world=self._fabric.world_size)
            progress.step += 1
            when = When(epoch=epoch, number=len(losses) + 1, step=progress.step, place=place)
            result = self._stepper.run(parts, when)
            if self._after_step is not None:
                self._after_step()
            if self._ema is not None:
                self._ema.update()
            losses.append(result.loss)
            if on_step is not None:
                on_step(result)
        self._set_training(training=False)
        finished = EpochResult(
            epoch=epoch,
            loss=math.fsum(losses) / max(1, len(losses)),
            learning_rate=config.learning_rate * self._course.rate(progress.step),
            score=self._score(),
        )
        progress.epoch = epoch
        progress.curve.append(finished)
        if config.keep == "best" or config.patience is not None:
            progress.consider(epoch, finished.score, finished.loss, self._model, self._ema)
        return finished

    def _score(self) -> float:
        """Of the leading process, for all: batch-norm statistics may differ between processes."""
        self._set_training(training=False)
        score = 0.0
        if self._fabric.global_rank == 0:
            with self._ema.averaged() if self._ema is not None else nullcontext():
                score = self._validate(self._model)
        return float(self._fabric.broadcast(score)) if self._fabric.world_size > 1 else score

    def _is_over(self) -> bool:
        patience = self._config.patience
        best = self._progress.best_epoch or 0
        return (patience is not None and self._progress.epoch - best >= patience) or (
            self._place() >= self._course.steps
        )

    def _place(self) -> float:
        """Where the schedule is, in steps."""
        budget, done = self._config.time_budget_s, self._progress.step
        if budget is None:
            return done
        spent = self._progress.spent_s + time.monotonic() - self._begin
        share = progress_ratio(done, self._course.steps, spent, budget)
        if self._fabric.world_size > 1:
            share = float(self._fabric.broadcast(share))
        return max(done, share * self._course.steps)

    def _finished(self) -> list[EpochResult]:
        progress, keeps_best = self._progress, self._config.keep == "best"
        if keeps_best:
            progress.restore_best(self._model)
        elif self._ema is not None:
            self._ema.apply()
        if self._after_step is not None and (keeps_best or self._ema is not None):
            self._after_step()
        if self._fabric.world_size > 1:
            self._agree()
        self._model.to("cpu")
        if isinstance(self._loss, nn.Module):
            self._loss.to("cpu")
        kept = progress.best_epoch if keeps_best else progress.epoch
        return [replace(result, kept=result.epoch == kept) for result in progress.curve]

    def _agree(self) -> None:
        """The leading process's model for all: running statistics are each process's own."""
        for tensor in self._model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)

    def _set_training(self, *, training: bool) -> None:
        """Of an exported graph by its operators, which know nothing of `Module.train`; of others by that."""
        scope = self._config.scope
        if isinstance(self._model, GraphModule):
            set_training(self._model, training, spare=scope.spares)
            return
        self._model.train(training)
        for path, module in self._model.named_modules() if training else ():
            if scope.spares_module(path, module):
                module.eval()

    def _save(self) -> None:
        if self._checkpoints is None:
            return
        spent = self._progress.spent_s + time.monotonic() - self._begin
        generators = self._fabric.all_gather(torch.get_rng_state().to(self._fabric.device))
        assert isinstance(generators, Tensor)
        found = checkpoint_of(
            self._progress,
            self._model,
            self._loss,
            self._optimizer,
            self._ema,
            generators.cpu().reshape(self._fabric.world_size, -1),
            self._after_step,
            spent_s=spent,
        )
        if self._fabric.global_rank == 0:
            self._checkpoints.save(found)
        self._fabric.barrier()

    def _resume(self) -> None:
        found = None if self._checkpoints is None else self._checkpoints.latest()
        if found is None:
            return
        parts = found, self._model, self._loss, self._optimizer, self._ema
        if not fits(*parts, processes=self._fabric.world_size):
            _log.warning("the checkpoint of epoch %d is not of this training; it begins anew", found.epoch)
            return
        generators = restore(
            found, self._progress, self._model, self._loss, self._optimizer, self._ema, self._after_step
        )
        # A copy, for torch 2.13 does not heed where in its storage a state begins: a view of a row crashes it.
        torch.set_rng_state(generators[self._fabric.global_rank].clone())
        for _ in range(self._progress.epoch):
            self._order.permutation(len(self._train))


@contextmanager
def _only(model: nn.Module, groups: Sequence[ParameterGroup]) -> Iterator[None]:
    """Only what is in ``groups`` gets a gradient; afterwards everything wants one again that did before."""
    learned = {id(parameter) for group in groups for parameter in group.parameters}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in learned]
    for parameter in frozen:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad = True
