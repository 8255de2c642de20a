"""Quantisation-aware training on the one loop, in this process or in a limited child."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from calibration.child import finish_for_cpus, sample_sets
from calibration.fidelity import Judge
from calibration.qat import DistillationLoss, DistillationSettings, QuantizedStudent
from pipeline.data import Split
from pipeline.recipe import QatSection
from pipeline.tasks import Task, make_task
from pipeline.training.batches import steps_in
from pipeline.training.config import TrainConfig, train_config
from pipeline.training.loop import fit
from pipeline.training.optimizers import ParameterGroup
from pipeline.training.predicting import predict
from targets.errors import InputError
from targets.scheme import scheme
from targets.telling import teller_of

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.results import EpochResult, StepResult

LABELS: Final = "labels."
"""Labels among the arrays of an archive: a name that no model input has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QatResult:
    """What came of a training.

    Attributes:
        curve: Figures of each epoch.
        kept_epoch: Whose weights were written; 0: those that came.
        changed_ratio: Share of weight integers that differ from before.
    """

    curve: Sequence[EpochResult]
    kept_epoch: int
    changed_ratio: float


def train_quantized(
    float_model: Path,
    quantized: Path,
    train: Split,
    out: Path,
    config: TrainConfig,
    settings: DistillationSettings,
    *,
    scale_ratio: float,
    score: Callable[[QuantizedStudent], float],
    label_loss: Callable[[Sequence[Tensor], Tensor], Tensor] | None = None,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
    on_step: Callable[[StepResult], None] = lambda _: None,
    checkpoints: Path | None = None,
) -> QatResult:
    """Trains weights, biases and scales of a Q/DQ file by distillation from its float parent.

    Args:
        float_model: The float ONNX file the Q/DQ file was made from.
        quantized: The Q/DQ file.
        train: Training samples; labels only where they count.
        out: File to write.
        config: How to train; its rate is in integer steps of the weights.
        settings: What for.
        scale_ratio: Factor of the rate for scales; 0 keeps them.
        score: Of the student, higher is better.
        label_loss: The task's loss.
        on_epoch: Called with each epoch's figures.
        on_step: Called with each step's figures.
        checkpoints: A folder of this very training: it is saved there after each epoch, and goes on from there.

    Raises:
        InputError: A node has no differentiable implementation, or as `pipeline.training.fit`.
    """
    student = QuantizedStudent(float_model, quantized)
    groups = [
        ParameterGroup(parameters=parameters, rate=rate) for parameters, rate in student.parameter_groups(scale_ratio)
    ]
    curve = fit(
        student,
        train.bound(student.inputs),
        DistillationLoss(student, settings, label_loss),
        config,
        validate=score,
        on_epoch=on_epoch,
        on_step=on_step,
        groups=groups,
        checkpoints=checkpoints,
    )
    changed = student.write(out)
    kept = next((result.epoch for result in curve if result.kept), 0)
    return QatResult(curve=curve, kept_epoch=kept, changed_ratio=changed)


def train_in_child(request: Mapping[str, Any]) -> dict[str, Any]:
    """Trains a Q/DQ file; for `targets.process.call_limited`.

    Args:
        request: ``model`` (the float model), ``quantized`` (its Q/DQ file), ``parent`` (the float model that file was
            made from, where algorithms have changed it), ``samples`` and ``batch_size`` as for
            `calibration.child.calibrate_in_child` (the held-back ones judge the file written), ``training`` and
            ``validation`` (``.npz``, with labels where there are any), ``task`` and ``metric`` by name (a metric of
            the user's own code stays outside: the task's default stands for it), ``section`` (a
            `QatSection` as JSON), ``seed``, ``threads``, ``time_budget_s``, ``scheme`` and ``out`` (file to write);
            where wanted ``checkpoints`` (folder, see `train_quantized`) and ``tell`` (`targets.telling`: gets
            ``begin`` with ``epochs``, ``steps`` and ``metric``, then each ``step`` and ``epoch``).

    Returns:
        ``{epochs_run, kept_epoch, training_samples, curve, changed_ratio, output_snr_db, agreement}``; the last two of
        the written file against ``model``, on the held-back samples.

    Raises:
        InputError: As `train_quantized`, or the training samples do not fit the model.
    """
    from pipeline.stages.learning import curve_of
    from pipeline.stages.watching import telling

    model, out = Path(request["model"]), Path(request["out"])
    task = make_task(request["task"], request.get("metric", ""))
    assert isinstance(task, Task), task
    section = QatSection.model_validate(request["section"])
    _, seen, held = sample_sets(request, model)
    train, validation = _read(Path(request["training"])), _read(Path(request["validation"]))
    _check(train, {name: tuple(array.shape[1:]) for name, array in seen.rows(0, 1).items()})
    config = train_config(section, seed=request["seed"], threads=request["threads"])
    config = replace(config, keep="best", time_budget_s=float(request["time_budget_s"]))
    reference: list[list[np.ndarray[Any, Any]]] = []

    def score(student: QuantizedStudent) -> float:
        split = validation.bound(student.inputs)
        if not reference:
            reference.append(_exact(student, split, config.threads))
        return task.score(predict(student, split, threads=config.threads), split.labels, reference[0])

    with teller_of(request) as tell:
        steps = steps_in(config, len(train))
        tell({"kind": "begin", "epochs": config.epochs, "steps": steps, "metric": task.metric})
        on_epoch, on_step = telling(tell)
        learned = train_quantized(
            Path(request.get("parent", model)),
            Path(request["quantized"]),
            train,
            out,
            config,
            DistillationSettings(
                loss=section.loss,
                temperature=section.temperature,
                inner_weight=section.inner_weight,
                label_weight=section.label_weight,
            ),
            scale_ratio=section.scale_ratio,
            score=score,
            label_loss=None
            if train.labels is None
            else lambda outputs, labels: task.loss(outputs, labels, label_smoothing=section.label_smoothing),
            on_epoch=on_epoch,
            on_step=on_step,
            checkpoints=Path(request["checkpoints"]) if request.get("checkpoints") else None,
        )
    finish_for_cpus(out, scheme(str(request["scheme"])))
    found = Judge(model, held, threads=config.threads)(out)
    return {
        "epochs_run": len(learned.curve),
        "kept_epoch": learned.kept_epoch,
        "training_samples": len(train),
        "curve": curve_of(learned.curve),
        "changed_ratio": round(learned.changed_ratio, 6),
        "output_snr_db": found.snr_db,
        "agreement": found.agreement,
    }


def _exact(student: QuantizedStudent, split: Split, threads: int) -> list[np.ndarray[Any, Any]]:
    """Outputs of the float parent."""
    import torch

    from pipeline.training.batches import tensors
    from pipeline.training.predicting import torch_threads

    with torch_threads(threads):
        parts = [student.exact(tensors(batch.inputs, torch.device("cpu"))) for batch in split.batches(256)]
    return [np.concatenate([part[index].numpy() for part in parts]) for index in range(student.output_count)]


def _read(path: Path) -> Split:
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    labels = arrays.pop(LABELS, None)
    return Split(inputs=arrays, labels=labels)


def _check(train: Split, wanted: Mapping[str, tuple[int, ...]]) -> None:
    found = {name: tuple(array.shape[1:]) for name, array in train.inputs.items()}
    if found != dict(wanted):
        raise InputError(
            f"training samples are {found}",
            f"the model takes {dict(wanted)}",
            "train on samples prepared like those for calibration",
        )
