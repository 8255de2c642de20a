"""What is wrong between the sections of a recipe whose keys are each valid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pipeline.recipe.faults_distill import distill_faults
from pipeline.recipe.faults_edits import edit_faults
from pipeline.recipe.faults_pruning import pruning_faults
from pipeline.recipe.faults_training import learning_faults, qat_faults
from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.recipe import Recipe


def consistency_faults(recipe: Recipe) -> list[Fault]:
    """What is wrong between the sections of a recipe whose keys are each valid."""
    return [
        *_args_faults("model.args", recipe.model.args),
        *_args_faults("data.args", recipe.data.args),
        *_teaching_args_faults(recipe),
        *_model_faults(recipe),
        *_data_faults(recipe),
        *edit_faults(recipe),
        *_training_faults(recipe),
        *distill_faults(recipe),
        *pruning_faults(recipe),
        *(fault for where, section in recipe.learning.items() for fault in learning_faults(where, section)),
        *qat_faults(recipe.quantize),
        *_budget_faults(recipe),
    ]


def _args_faults(where: str, value: object) -> list[Fault]:
    """Arguments are part of cache keys: texts, finite numbers, yes or no, lists and tables of them."""
    if isinstance(value, dict):
        return [fault for key, item in value.items() for fault in _args_faults(f"{where}.{key}", item)]
    if isinstance(value, list):
        return [fault for index, item in enumerate(value) for fault in _args_faults(f"{where}.{index}", item)]
    if isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return []
    fix = "use a finite number" if isinstance(value, float) else "write it as a string, and let the factory read that"
    return [Fault(where=where, what=f"{value} cannot be an argument", fix=fix)]


def _teaching_args_faults(recipe: Recipe) -> list[Fault]:
    if recipe.distill is None:
        return []
    args = {f"distill.teachers.{index}.args": item.args for index, item in enumerate(recipe.distill.teachers)}
    if recipe.distill.student:
        args["distill.student.args"] = recipe.distill.student.args
    return [fault for where, value in args.items() for fault in _args_faults(where, value)]


def _model_faults(recipe: Recipe) -> list[Fault]:
    model = recipe.model
    if bool(model.factory) == bool(model.onnx):
        return [
            Fault(
                where="model",
                what="needs either `factory` or `onnx`",
                fix='write factory = "model.py:make_net" or onnx = "net.onnx"',
            )
        ]
    if model.onnx:
        return [
            Fault(
                where=key,
                what="cannot be used with an ONNX model, which has no PyTorch graph to train",
                fix=f"remove {key}, or give model.factory",
            )
            for key, used in {
                "model.weights": bool(model.weights),
                "model.args": bool(model.args),
                "export": "export" in recipe.model_fields_set,
                "train": recipe.train,
                "finetune": recipe.finetune,
                **dict.fromkeys(recipe.edits, True),
                "distill": recipe.distill,
            }.items()
            if used
        ]
    if bool(model.weights) == bool(recipe.train):
        what = (
            "there are both weights and [train]"
            if model.weights
            else "the model has neither weights nor a [train] section"
        )
        return [
            Fault(
                where="model.weights",
                what=what,
                fix="give one of them: trained weights, or [train] with `epochs = ...`",
            )
        ]
    return []


def _data_faults(recipe: Recipe) -> list[Fault]:
    data = recipe.data
    given = [key for key in ("factory", "npz", "images") if getattr(data, key)]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "needs one of `factory`, `npz` and `images`"
        fix = 'write one of factory = "data.py:make_data", npz = "data.npz" or images = { folder = ..., size = ... }'
        return [Fault(where="data", what=what, fix=fix)]
    faults = [
        Fault(where=f"data.{key}", what="is only for a factory", fix=f"remove data.{key}, or use data.factory")
        for key, used in {"args": data.args, "files": data.files}.items()
        if used and not data.factory
    ]
    if data.split:
        faults += _split_faults(recipe)
    clash = sorted(set(data.args) & set(data.files))
    if clash:
        faults.append(Fault(where=f"data.files.{clash[0]}", what="is also in data.args", fix="rename one of them"))
    return faults


def _split_faults(recipe: Recipe) -> list[Fault]:
    split, where = recipe.data.split, "data.split"
    faults = []
    if recipe.data.factory:
        faults.append(Fault(where=where, what="is not for a factory, which splits itself", fix="remove data.split"))
    if "validation" not in split:
        faults.append(Fault(where=where, what="has no validation share", fix="add validation = 0.2"))
    if "train" not in split and recipe.learning:
        faults.append(Fault(where=where, what="has no train share to train on", fix="add train = 0.6"))
    if not math.isclose(sum(split.values()), 1.0, abs_tol=1e-6):
        faults.append(Fault(where=where, what=f"makes {sum(split.values()):g}, not 1", fix="let the shares make 1"))
    return faults


def _training_faults(recipe: Recipe) -> list[Fault]:
    faults = [
        Fault(
            where=key,
            what="needs labels, and task `fidelity` has none",
            fix=f'use task = "classification", or remove [{key}]',
        )
        for key, used in {"train": recipe.train, "finetune": recipe.finetune}.items()
        if used and recipe.task == "fidelity"
    ]
    if recipe.finetune and recipe.train:
        faults.append(
            Fault(
                where="finetune",
                what="starts from model.weights, and [train] starts from none",
                fix="remove one of [train] and [finetune]",
            )
        )
    return faults


def _budget_faults(recipe: Recipe) -> list[Fault]:
    """A ceiling that nobody measures would count as met; a device that nobody measures on was meant to be used."""
    faults = [
        Fault(
            where="benchmark.device",
            what="is not used with benchmark.measure = false",
            fix="set benchmark.measure = true, or remove benchmark.device (--device)",
        )
    ]
    return (faults if recipe.benchmark.device is not None and not recipe.benchmark.measure else []) + [
        Fault(
            where=f"budget.{key}",
            what="cannot be checked with benchmark.measure = false",
            fix=f"set benchmark.measure = true, or remove budget.{key}",
        )
        for key in ("latency_ms", "latency_ratio", "latency_p95_ms", "memory_mb", "energy_mj")
        if not recipe.benchmark.measure and getattr(recipe.budget, key) is not None
    ]
