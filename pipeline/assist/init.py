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
        images: A folder of images instead of data of another form.
        image_size: Height and width that images are brought to.
        accuracy_drop: Largest loss that may ship.
        latency_ms: Ceiling; None for none.
        found: What was found out about model and data, one line each.
    """

    model: str | None
    weights: str | None
    onnx: str | None
    data: str | None
    npz: str | None
    task: str
    target: str
    images: str | None = None
    image_size: tuple[int, int] | None = None
    accuracy_drop: float = 0.01
    latency_ms: float | None = None
    found: tuple[str, ...] = ()


def check_answers(answers: Answers) -> None:
    """One model, one source of data, and what belongs to each.

    Raises:
        UsageError: Model or data are missing, or given twice; or weights beside an ONNX file.
    """
    if bool(answers.model) == bool(answers.onnx):
        raise UsageError(
            "init needs one model",
            "neither or both of --model and --onnx were given",
            "give --model net.py:make_net, or --onnx net.onnx",
        )
    if sum(map(bool, (answers.data, answers.npz, answers.images))) != 1:
        raise UsageError(
            "init needs one data source",
            "none or several of --data, --npz and --images were given",
            "give --data data.py:make_data, --npz data.npz, or --images FOLDER --image-size 224x224",
        )
    if answers.images and answers.image_size is None:
        raise UsageError("--images without --image-size", "arrays have one size", "add e.g. --image-size 224x224")
    if answers.onnx and answers.weights:
        raise UsageError("init cannot use --weights", "an ONNX file holds its weights", "leave --weights out")


def recipe_of(answers: Answers, path: Path) -> Recipe:
    """The recipe that these answers make, checked; its files are not looked at.

    Raises:
        UsageError: As `check_answers`.
        InputError: The target does not exist, or the answers do not fit together.
    """
    check_answers(answers)
    document = tomllib.loads(recipe_text(answers))
    recipe = Recipe.model_validate({"name": "recipe", "folder": path.absolute().parent, **document})
    load_profiles(recipe)
    if faults := consistency_faults(recipe):
        raise faults_error("the recipe these answers make", faults)
    return recipe


def write_recipe(answers: Answers, path: Path) -> None:
    """Writes the recipe.

    Raises:
        UsageError: Model or data are missing, or given twice; or weights beside an ONNX file.
        InputError: The file exists already, or the target does not.
    """
    recipe_of(answers, path)
    if path.exists():
        raise InputError(f"{path} exists already", "init never overwrites", "choose another file with --out")
    write_atomic(path, recipe_text(answers).encode())


def recipe_text(answers: Answers) -> str:
    """The recipe as commented TOML."""
    sections = [_head(answers), _model(answers), _data(answers)]
    if answers.model:
        sections += [] if answers.weights else [_TRAIN]
        own_splits = answers.data or answers.images
        sections += [_PRUNE, *([_distill(answers.task)] if answers.task != "fidelity" and own_splits else [])]
    return "\n".join([*sections, _tail(answers)])


def _head(answers: Answers) -> str:
    found = "".join(f"# {_printable(line)}\n" for line in answers.found)
    return (
        f"{found}"
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


def _tail(answers: Answers) -> str:
    ceiling = f"latency_ms = {answers.latency_ms:g}" if answers.latency_ms else "# latency_ms = 5.0"
    return _TAIL.format(drop=f"accuracy_drop = {answers.accuracy_drop:g}", ceiling=ceiling)


def _printable(line: str) -> str:
    """Foreign names must not end a comment."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _data(answers: Answers) -> str:
    if answers.images:
        assert answers.image_size is not None
        return (
            f"[data.images]\nfolder = {_toml(answers.images)}               # a folder a class;"
            f" with train/, validation/, test/ on top these are the splits\n"
            f"size = {_toml(list(answers.image_size))}                  # height, width\n"
            '# fit = "crop"                      # stretch to the size, or crop to its shape first\n'
            "# mean = [0.485, 0.456, 0.406]      # of pixels from 0 to 1, and std; as the model was trained\n"
        )
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
    if task == "classification":
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
{drop:<35} # against the dense fp32 model, on the validation split
{ceiling:<35} # ceilings; what misses one does not ship (also latency_p95_ms, energy_mj)
# memory_mb = 200
# size_mb = 10

[benchmark]
budget_s = 60                       # wall clock of the whole campaign
"""
