"""What is wrong inside a section that trains, though each of its keys is valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.recipe.quantization import QuantizeSection
    from pipeline.recipe.training import LearningSection

_ONLY_FOR: Final = {
    "momentum": ("optimizer", {"sgd"}),
    "nesterov": ("optimizer", {"sgd"}),
    "milestones": ("schedule", {"step"}),
    "decay_factor": ("schedule", {"step", "exponential"}),
    "final_ratio": ("schedule", {"cosine"}),
    "decay_from_epoch": ("schedule", {"cosine", "exponential"}),
    "decay_until_epoch": ("schedule", {"cosine", "exponential"}),
}


def learning_faults(where: str, section: LearningSection) -> list[Fault]:
    """Faults of one section that trains.

    Args:
        where: Its dotted path.
        section: It.
    """
    return [
        *_unused(where, section),
        *_schedule_faults(where, section),
        *_clash_faults(where, section),
        *_augment_faults(where, section),
    ]


def _unused(where: str, section: LearningSection) -> list[Fault]:
    """A key that would change nothing was meant to change something."""
    return [
        Fault(
            where=f"{where}.{key}",
            what=f"is not used with {owner} = {getattr(section, owner)!r}",
            fix=f"remove it, or set {owner} = {' or '.join(repr(item) for item in sorted(fits))}",
        )
        for key, (owner, fits) in _ONLY_FOR.items()
        if key in section.model_fields_set and getattr(section, owner) not in fits
    ]


def _schedule_faults(where: str, section: LearningSection) -> list[Fault]:
    faults = []
    epochs, warmup = section.epochs, section.warmup_epochs or 0.0
    if warmup >= epochs:
        faults.append(
            Fault(
                where=f"{where}.warmup_epochs",
                what=f"{warmup:g} epochs of warm-up are no less than the {epochs} of the training",
                fix="set it below epochs",
            )
        )
    start = max(warmup, section.decay_from_epoch or 0.0)
    end = section.decay_until_epoch or epochs
    if start >= end and warmup < epochs:
        faults.append(
            Fault(
                where=f"{where}.{'decay_until_epoch' if section.decay_until_epoch else 'decay_from_epoch'}",
                what=f"the schedule ends (epoch {end:g}) before it starts (epoch {start:g})",
                fix="set decay_until_epoch above decay_from_epoch and warmup_epochs, and all within epochs",
            )
        )
    if section.decay_until_epoch is not None and section.decay_until_epoch > epochs:
        faults.append(
            Fault(
                where=f"{where}.decay_until_epoch",
                what=f"epoch {section.decay_until_epoch:g} never comes: there are {epochs}",
                fix="set it to epochs or below",
            )
        )
    late = [epoch for epoch in section.milestones or () if epoch >= epochs]
    if late:
        faults.append(
            Fault(
                where=f"{where}.milestones",
                what=f"epoch {late[0]:g} is not before the end of the training ({epochs})",
                fix="name epochs below epochs",
            )
        )
    return faults


def _clash_faults(where: str, section: LearningSection) -> list[Fault]:
    faults = []
    if section.clip_norm is not None and section.clip_value is not None:
        faults.append(Fault(where=f"{where}.clip_value", what="clip_norm is given too", fix="keep one of them"))
    if section.patience is not None and section.keep == "last":
        faults.append(
            Fault(
                where=f"{where}.keep",
                what="the last epoch is one that was no better, for training stopped there",
                fix='remove it, or set keep = "best"',
            )
        )
    if section.patience is not None and section.patience >= section.epochs:
        faults.append(
            Fault(
                where=f"{where}.patience",
                what=f"{section.patience} epochs without a better score cannot come in {section.epochs}",
                fix="set it below epochs",
            )
        )
    if section.precision == "fp16" and section.device == "cpu":
        faults.append(
            Fault(
                where=f"{where}.precision",
                what="fp16 needs a GPU: CPUs have no mixed precision of that kind",
                fix='set it to "fp32" or "bf16", or device = "cuda"',
            )
        )
    if section.processes > 1 and section.batch_size < 2 * section.processes:
        faults.append(
            Fault(
                where=f"{where}.processes",
                what=f"a batch of {section.batch_size} is fewer than two samples for each of {section.processes}",
                fix=f"set it to {max(1, section.batch_size // 2)} or below, or batch_size, that of all of them, higher",
            )
        )
    if section.nesterov and section.momentum == 0.0 and "nesterov" in section.model_fields_set:
        faults.append(Fault(where=f"{where}.nesterov", what="needs momentum", fix="remove it, or set momentum above 0"))
    return faults


def _augment_faults(where: str, section: LearningSection) -> list[Fault]:
    augment = section.augment
    pairs = (("time_masks", "time_width"), ("frequency_masks", "frequency_width"))
    return [
        Fault(
            where=f"{where}.augment.{count if getattr(augment, width) else width}",
            what=f"{count} and {width} are needed both",
            fix="give both, or neither",
        )
        for count, width in pairs
        if bool(getattr(augment, count)) != bool(getattr(augment, width))
    ]


def qat_faults(section: QuantizeSection) -> list[Fault]:
    """Faults of the training of the int8 file, whose module paths are gone."""
    training = section.training
    faults = learning_faults("quantize.training", training)
    if section.qat_epochs is not None and "epochs" in training.model_fields_set:
        faults.append(
            Fault(where="quantize.qat_epochs", what="training.epochs is given too", fix="keep quantize.training.epochs")
        )
    if section.qat == "off" and (training.model_fields_set or section.qat_epochs is not None):
        where = "quantize.training" if training.model_fields_set else "quantize.qat_epochs"
        faults.append(Fault(where=where, what='is not used with qat = "off"', fix="remove it, or set qat"))
    faults += [
        Fault(where=f"quantize.training.{key}", what="cannot be had when the int8 file is trained", fix="remove it")
        for key, plain in {
            "l1": 0.0, "train_only": [], "rates": {}, "batch_norm": "train", "device": "cpu", "processes": 1,
            "samples": None,
        }.items()
        if getattr(training, key) != plain
    ]  # fmt: skip
    if training.keep == "last":
        faults.append(Fault(where="quantize.training.keep", what="the best epoch is kept", fix="remove it"))
    return faults
