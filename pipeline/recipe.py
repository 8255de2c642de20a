"""The recipe: what to compress, with which data, down to which budget. Checked as a whole before anything runs."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from pipeline.recipe_faults import consistency_faults
from targets.errors import InputError, UsageError, faults_error
from targets.faults import faults_of, read_toml
from targets.profile import DeviceName

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Algorithm = Literal["spare", "equalize", "smooth", "ranges", "bias", "rounding"]
Format = Literal["fp16", "bf16", "int8-dynamic", "int8-weights", "int4-weights"]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class ModelSection(_Section):
    """Where the model comes from: a Python factory (with weights, or trained by ``[train]``), or an ONNX file."""

    factory: Annotated[
        str, Field(description="`file.py:function` or `package.module:function` that returns an nn.Module")
    ] = ""
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    weights: Annotated[str, Field(description="trained weights: .safetensors, or .pt/.pth holding tensors only")] = ""
    onnx: Annotated[str, Field(description="a float ONNX file instead of a factory; starts at quantize")] = ""


class DataSection(_Section):
    """Where the data comes from: a Python factory, or an .npz file with arrays named like the model's inputs."""

    factory: Annotated[str, Field(description="`file.py:function` that returns {split: (inputs, labels)}")] = ""
    args: Annotated[dict[str, Any], Field(description="keyword arguments of the factory")] = {}
    files: Annotated[
        dict[str, str], Field(description="files the factory reads, passed to it as paths by these names")
    ] = {}
    npz: Annotated[str, Field(description="arrays named like the inputs, and `labels` where there are any")] = ""


class TrainSection(_Section):
    """One training from scratch, when there are no weights yet."""

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.05
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0


class PruneSection(_Section):
    """Structured pruning."""

    ratio: Annotated[Share, Field(description="share of the prunable channels to remove")]
    criterion: Literal["l2"] = "l2"
    scope: Annotated[
        Literal["global", "local"], Field(description="rank channels over the whole net, or per group")
    ] = "local"
    protect: Annotated[list[str], Field(description="module paths (globs allowed) that keep all their channels")] = []


class DistillSection(_Section):
    """Fine-tuning of the pruned net with its dense parent as teacher."""

    epochs: PositiveInt
    batch_size: PositiveInt = 64
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.02
    weight_decay: NonNegativeFloat = 5e-4
    temperature: PositiveFloat = 4.0
    alpha: Annotated[float, Field(ge=0, le=1, description="weight of the labels; 1 - alpha is the teacher's")] = 0.3


class QuantizeSection(_Section):
    """int8: how ranges are measured, what is tried, and what happens below the accuracy floor; and other formats."""

    formats: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[list[Format], Tag("list")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
        Field(description="beside fp32 and int8; auto: what the target names and this model can gain from; []: none"),
    ] = "auto"

    method: Annotated[
        Literal["auto", "minmax", "moving_average", "percentile", "entropy", "mse"],
        Field(description="how ranges are chosen; auto: the best of all on held-back samples"),
    ] = "auto"
    algorithms: Annotated[
        Annotated[Literal["auto"], Tag("text")] | Annotated[list[Algorithm], Tag("list")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "list"),
        Field(description="what is done beside; auto: what pays on held-back samples; []: nothing"),
    ] = "auto"
    samples: Annotated[int, Field(ge=1, description="calibration samples used, every fifth of them held back")] = 512
    min_samples: Annotated[int, Field(ge=1, description="with fewer samples than this, a warning")] = 100
    observe: Annotated[
        Literal["sampled", "all"],
        Field(description="histograms take one value in seven, or all; extremes always take all"),
    ] = "sampled"
    memory_mb: Annotated[int, Field(ge=1, description="most activations held at once while calibrating")] = 64
    time_budget_s: Annotated[PositiveFloat, Field(description="no further algorithm is tried after that long")] = 300.0
    target_snr_db: Annotated[
        float, Field(gt=0, le=100, allow_inf_nan=False, description="good enough: no further algorithm is tried")
    ] = 40.0
    sensitivity: Annotated[
        Literal["off", "auto", "on"],
        Field(description="measure what int8 costs in each layer; auto: where that is little work"),
    ] = "auto"
    qat: Annotated[
        Literal["off", "auto", "on"],
        Field(description="train the int8 model; auto: when it misses the accuracy floor"),
    ] = "auto"
    qat_epochs: Annotated[PositiveInt, Field(description="epochs of that training")] = 3
    mixed_precision: Annotated[
        Literal["off", "auto"],
        Field(description="auto: layers go back to float, as few as needed, when all else misses the accuracy floor"),
    ] = "auto"


class BuildSection(_Section):
    """Which engines are built and compared."""

    candidates: Annotated[
        list[str] | None,
        Field(
            min_length=1,
            description="just these, which then must not fail, and the float reference; by default all that the target "
            "offers, without those that cannot be built",
        ),
    ] = None


class ExportSection(_Section):
    """PyTorch to ONNX."""

    opset: Annotated[int, Field(ge=18, le=23)] = 20
    tolerance: Annotated[
        PositiveFloat, Field(description="largest difference to torch, relative to the output's range")
    ] = 1e-4


class BudgetSection(_Section):
    """Floor and ceilings. What does not meet them does not ship."""

    accuracy_drop: Annotated[float, Field(ge=0, le=1, description="largest loss against the dense fp32 model")] = 0.01
    latency_ms: PositiveFloat | None = None
    memory_mb: PositiveFloat | None = None
    size_mb: PositiveFloat | None = None


class BenchmarkSection(_Section):
    """One interleaved campaign over all candidates, on the target or on a device that can stand in for it."""

    device: Annotated[
        DeviceName | None, Field(description="a registered device, or `local`; the profile's own when not given")
    ] = None
    mode: Annotated[
        Literal["quick", "default", "rigorous"],
        Field(description="quick: screening, without verdicts; rigorous: more and longer blocks"),
    ] = "default"
    budget_s: Annotated[PositiveFloat, Field(description="wall-clock seconds for the whole campaign")] = 60.0
    accuracy_on_device: Annotated[
        bool | None,
        Field(description="score the validation split on the device; by default where that is not this machine"),
    ] = None
    measure: Annotated[bool, Field(description="false: choose by accuracy and size, and say so everywhere")] = True


class Recipe(_Section):
    """Everything that one compression is made of.

    Attributes:
        folder: Folder of the recipe's file; relative paths start there. Not part of the file.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    task: Literal["classification", "fidelity"]
    targets: Annotated[list[str], Field(min_length=1)] = ["host"]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=256, description="threads of training and calibration on this machine")] = 2
    model: ModelSection
    data: DataSection
    train: TrainSection | None = None
    prune: PruneSection | None = None
    distill: DistillSection | None = None
    export: ExportSection = ExportSection()
    quantize: QuantizeSection = QuantizeSection()
    build: BuildSection = BuildSection()
    budget: BudgetSection = BudgetSection()
    benchmark: BenchmarkSection = BenchmarkSection()
    folder: Annotated[Path, Field(exclude=True, repr=False)] = Path()

    def resolve(self, path: str) -> Path:
        """``path`` of the recipe, relative to the recipe's folder; ``~`` is the user's home."""
        return (self.folder / os.path.expanduser(path)).absolute()  # noqa: PTH111 - pathlib raises for ~nobody


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a TOML file, or in the ``recipe.toml`` of a folder.

    Args:
        path: The file or folder.
        overrides: ``dotted.key=value`` each, values in TOML syntax (bare words are strings); they win over the file.

    Raises:
        InputError: The file is missing or not TOML, or the recipe is not valid (all faults at once).
        UsageError: An override is not of the form ``dotted.key=value``.
    """
    file = Path(path)
    if file.is_dir():
        file /= "recipe.toml"
        if not file.exists():
            raise InputError(
                f"{path} holds no recipe.toml", "a folder stands for the recipe in it", "`edgepress init` writes one"
            )
    data = read_toml(file, "the recipe")
    for override in overrides:
        _override(data, override)
    folder = file.absolute().parent
    if "folder" in data:
        raise InputError(f"recipe {file} is not valid", "folder: there is no such key", "remove it")
    called = Path(os.path.normpath(folder)).name  # `..` is a name too
    data.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+", "-", called).strip("-._")[:64] or "recipe")
    try:
        recipe = Recipe.model_validate({**data, "folder": folder})
    except ValidationError as error:
        raise faults_error(f"recipe {file}", faults_of(error, Recipe)) from error
    faults = consistency_faults(recipe)
    if faults:
        raise faults_error(f"recipe {file}", faults)
    return recipe


def _override(data: dict[str, Any], override: str) -> None:
    dotted, sign, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not sign or not all(keys):
        raise UsageError(
            f"--set {override!r} is not an assignment",
            "it must look like dotted.key=value",
            "write e.g. --set prune.ratio=0.3",
        )
    table: Any = data
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UsageError(
                f"--set {override!r} cannot be applied", f"{key!r} is not a table", "name a key inside a table"
            )
    table[keys[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file."""
    schema = Recipe.model_json_schema()
    schema["properties"].pop("folder", None)
    schema["required"].remove("name")  # the folder's name, unless given
    return schema
