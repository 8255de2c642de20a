"""Sections that train: each key is valid, and together they make no sense. All said before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.recipe import TrainSection
from pipeline.recipe.faults_training import learning_faults, qat_faults
from pipeline.recipe.quantization import QuantizeSection

CASES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"warmup_epochs": 10}, "warmup_epochs", "10 epochs of warm-up are no less than the 10", "below epochs"),
    ({"warmup_epochs": 4, "decay_until_epoch": 3}, "decay_until_epoch", "ends (epoch 3) before it starts", "above"),
    ({"decay_from_epoch": 6, "decay_until_epoch": 6}, "decay_until_epoch", "ends (epoch 6) before it starts", "above"),
    ({"decay_from_epoch": 10}, "decay_from_epoch", "the schedule ends (epoch 10) before it starts", "within"),
    ({"decay_until_epoch": 11}, "decay_until_epoch", "epoch 11 never comes: there are 10", "epochs or below"),
    ({"schedule": "step", "milestones": [5, 10]}, "milestones", "epoch 10 is not before the end", "below epochs"),
    ({"milestones": [5]}, "milestones", "is not used with schedule = 'cosine'", "schedule = 'step'"),
    ({"optimizer": "adam", "momentum": 0.5}, "momentum", "is not used with optimizer = 'adam'", "optimizer = 'sgd'"),
    ({"schedule": "constant", "final_ratio": 0.1}, "final_ratio", "is not used with schedule", "'cosine'"),
    ({"clip_norm": 1, "clip_value": 1}, "clip_value", "clip_norm is given too", "one of them"),
    ({"patience": 3, "keep": "last"}, "keep", "the last epoch is one that was no better", "best"),
    ({"patience": 10}, "patience", "10 epochs without a better score cannot come in 10", "below epochs"),
    ({"precision": "fp16"}, "precision", "fp16 needs a GPU", '"bf16"'),
    ({"momentum": 0, "nesterov": True}, "nesterov", "needs momentum", "momentum above 0"),
    ({"processes": 4, "batch_size": 6}, "processes", "fewer than two samples for each of 4", "3 or below"),
    ({"augment": {"time_masks": 1}}, "augment.time_width", "time_masks and time_width are needed both", "both"),
    ({"augment": {"frequency_width": 4}}, "augment.frequency_masks", "are needed both", "both"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "where", "what", "fix"), CASES)
def test_each_clash_is_one_fault(keys: dict[str, Any], where: str, what: str, fix: str) -> None:
    """Promise: the key, what is wrong with it, and what would do."""
    (fault,) = learning_faults("train", TrainSection.model_validate({"epochs": 10, **keys}))
    assert fault.where == f"train.{where}"
    assert what in fault.what
    assert fix in fault.fix


def test_a_section_without_fault_has_none() -> None:
    """The defaults, and each schedule at its limits."""
    for keys in (
        {}, {"warmup_epochs": 9.5}, {"decay_from_epoch": 9.9, "warmup_epochs": 0}, {"patience": 9},
        {"schedule": "step", "milestones": [9.9]}, {"precision": "fp16", "device": "cuda"},
        {"processes": 4, "batch_size": 8}, {"decay_until_epoch": 10},
    ):  # fmt: skip
        assert learning_faults("train", TrainSection.model_validate({"epochs": 10, **keys})) == []


def test_all_faults_are_told_at_once() -> None:
    """Promise: one round, whatever is wrong."""
    section = TrainSection.model_validate({"epochs": 3, "warmup_epochs": 3, "precision": "fp16", "patience": 4})
    assert {fault.where for fault in learning_faults("distill", section)} == {
        "distill.warmup_epochs", "distill.patience", "distill.precision",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"training": {"epochs": 3}, "qat_epochs": 2}, "quantize.qat_epochs"),
        ({"training": {"epochs": 3}, "qat": "off"}, "quantize.training"),
        ({"qat_epochs": 2, "qat": "off"}, "quantize.qat_epochs"),
        ({"training": {"rates": {"fc": 0.1}}}, "quantize.training.rates"),
        ({"training": {"processes": 2}}, "quantize.training.processes"),
        ({"training": {"keep": "last"}}, "quantize.training.keep"),
    ],
)
def test_what_the_training_of_the_int8_file_cannot(keys: dict[str, Any], where: str) -> None:
    """Promise: keys that would change nothing there are faults."""
    assert [fault.where for fault in qat_faults(QuantizeSection.model_validate(keys))] == [where]
