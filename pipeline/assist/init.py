"""Writes a first recipe, commented, for the user's model."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.api import load_profiles
from pipeline.recipe import Recipe
from pipeline.recipe.faults import consistency_faults
from targets.errors import InputError, UsageError, faults_error
from targets.files import write_atomic


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the user told; None where nothing was said.

    Attributes:
        model: Factory of the model.
        weights: Its trained weights.
        onnx: An ONNX file instead.
        data: Factory of the data.
        npz: An ``.npz`` file instead.
        task: Name of the task.
        target: Profile name or file.
    """

    model: str | None
    weights: str | None
    onnx: str | None
    data: str | None
    npz: str | None
    task: str
    target: str


def write_recipe(answers: Answers, path: Path) -> None:
    """Writes the recipe.

    Raises:
        UsageError: Model or data are missing, or given twice; or weights beside an ONNX file.
        InputError: The file exists already, or the target does not.
    """
    if bool(answers.model) == bool(answers.onnx):
        raise UsageError(
            "init needs one model",
            "neither or both of --model and --onnx were given",
            "give --model net.py:make_net, or --onnx net.onnx",
        )
    if bool(answers.data) == bool(answers.npz):
        raise UsageError(
            "init needs one data source",
            "neither or both of --data and --npz were given",
            "give --data data.py:make_data, or --npz data.npz",
        )
    if answers.onnx and answers.weights:
        raise UsageError("init cannot use --weights", "an ONNX file holds its weights", "leave --weights out")
    text = recipe_text(answers)
    recipe = Recipe.model_validate({"name": "recipe", "folder": path.absolute().parent, **tomllib.loads(text)})
    load_profiles(recipe)
    if faults := consistency_faults(recipe):
        raise faults_error("the recipe these answers make", faults)
    if path.exists():
        raise InputError(f"{path} exists already", "init never overwrites", "choose another file with --out")
    write_atomic(path, text.encode())


def recipe_text(answers: Answers) -> str:
    """The recipe as commented TOML."""
    sections = [_head(answers), _model(answers), _data(answers)]
    if answers.model:
        sections += [] if answers.weights else [_TRAIN]
        sections += [_PRUNE, *([_distill(answers.task)] if answers.task != "fidelity" and answers.data else [])]
    return "\n".join([*sections, _TAIL])


def _head(answers: Answers) -> str:
    return (
        f'task = "{answers.task}"            # {_TASK_NOTES[answers.task]}\n'
        f"targets = {_toml([answers.target])}\n"
        "seed = 0\n"
    )


def _model(answers: Answers) -> str:
    if answers.onnx:
        return f"[model]\nonnx = {_toml(answers.onnx)}              # float ONNX; starts at quantize\n"
    weights = (
        f"weights = {_toml(answers.weights)}        # .safetensors, or .pt with a plain state dict\n"
        if answers.weights
        else ""
    )
    return (
        f"[model]\nfactory = {_toml(answers.model)}     # a function that returns your nn.Module\n"
        f"{weights}# args = {{ width = 64 }}            # keyword arguments of that function\n"
    )


def _data(answers: Answers) -> str:
    if answers.npz:
        return (
            f"[data]\nnpz = {_toml(answers.npz)}                # arrays named like the model's inputs, and `labels`\n"
        )
    return (
        f"[data]\nfactory = {_toml(answers.data)}"
        '     # returns {"train": (x, y), "validation": (x, y), "test": (x, y)}\n'
        '# files = { images = "images.npz" } # files it reads, passed to it as paths; part of the cache key\n'
    )


def _distill(task: str) -> str:
    """Where answers are no logits of classes, the labels alone teach."""
    if task in {"classification", "recommendation"}:
        return _DISTILL
    return _DISTILL.replace("the dense model teaches the pruned one", "the pruned model learns again") + (
        "alpha = 1.0                         # from the labels alone; [[distill.losses]] has teachers for all answers\n"
    )


def _toml(value: object) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # JSON strings and lists of strings are TOML too


_TASK_NOTES: Final = {
    "classification": "(batch, classes) logits; labels are class numbers from 0",
    "detection": "pairs of logits and reaches, labels are padded boxes: docs/tasks.md",
    "segmentation": "(batch, classes, height, width) logits; labels are masks of class numbers",
    "regression": "(batch, targets) numbers; labels alike",
    "recommendation": "(batch, candidates) scores; labels are the relevant candidate's number",
    "fidelity": "no labels: compares with the uncompressed model",
}
_TRAIN = """\
[train]                             # there are no weights yet, so the model is trained first
epochs = 15
learning_rate = 0.05
"""
_PRUNE = """\
[prune]
ratio = 0.3                         # share of the channels to remove
# protect = ["head"]                # modules that keep all their channels
"""
_DISTILL = """\
[distill]                           # the dense model teaches the pruned one
epochs = 5
learning_rate = 0.02
"""
_TAIL = """\
[budget]
accuracy_drop = 0.01                # against the dense fp32 model, on the validation split
# latency_ms = 5.0                  # ceilings; what misses one does not ship (also latency_p95_ms, energy_mj)
# memory_mb = 200
# size_mb = 10

[benchmark]
budget_s = 60                       # wall clock of the whole campaign
"""
