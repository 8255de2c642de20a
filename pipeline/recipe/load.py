"""A recipe read from a TOML file, with overrides, every fault at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.recipe.document import Recipe
from pipeline.recipe.faults import consistency_faults
from targets.errors import InputError, UsageError, faults_error
from targets.faults import faults_of, read_toml


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
                f"--set {override!r} cannot be applied",
                f"{key!r} is no table, so it has no {keys[-1]!r}",
                f"write --set {'.'.join(keys[: keys.index(key) + 1])}=VALUE, or name a key inside a table",
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
