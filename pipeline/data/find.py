"""The data source of a recipe, found and hashed without running user code or decoding anything."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

from pipeline.data.images import Layout, find_images
from pipeline.data.npz import NpzData
from pipeline.data.shares import CALIBRATED, TRAINED, Shares
from pipeline.data.source import DataSource, FactoryData, find_file
from pipeline.usercode import find_factory
from targets.errors import Fault

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

_LAYOUTS: Final[dict[str, Layout]] = {"classification": "classes", "segmentation": "masks", "fidelity": "bare"}


def find_data(recipe: Recipe) -> DataSource | list[Fault]:
    """The recipe's data source, found without running user code or reading arrays."""
    if recipe.data.images is not None:
        return _images(recipe)
    if recipe.data.npz:
        file = find_file(recipe.resolve(recipe.data.npz), "data.npz")
        if isinstance(file, Fault):
            return [file]
        return NpzData(file=file, shares=_shares(recipe), chosen=bool(recipe.data.split))
    factory = find_factory(recipe.data.factory, recipe.folder, recipe.data.args, "data.factory")
    found = {name: find_file(recipe.resolve(path), f"data.files.{name}") for name, path in recipe.data.files.items()}
    faults = [item for item in (factory, *found.values()) if isinstance(item, Fault)]
    if faults:
        return faults
    assert not isinstance(factory, Fault)
    return FactoryData(
        factory=factory, files={name: file for name, file in found.items() if not isinstance(file, Fault)}
    )


def _shares(recipe: Recipe) -> Shares:
    trains = recipe.train is not None or recipe.distill is not None
    standard = TRAINED if trains else CALIBRATED
    chosen: dict[str, float] = dict(recipe.data.split.items())
    return Shares(parts=chosen or standard, seed=recipe.seed)


def _images(recipe: Recipe) -> DataSource | list[Fault]:
    section = recipe.data.images
    assert section is not None
    if recipe.task not in _LAYOUTS:
        what = f"has no labels for task `{recipe.task}`: it takes classes from folders, or masks"
        return [Fault(where="data.images", what=what, fix="use data.factory")]
    if importlib.util.find_spec("PIL") is None:
        return [Fault(where="data.images", what="needs Pillow, which is not installed", fix="pip install pillow")]
    folder = recipe.resolve(section.folder)
    prepare = section.model_copy(update={"folder": "."})  # where it lies is no part of what it is
    chosen = bool(recipe.data.split)
    found = find_images(folder, prepare, _LAYOUTS[recipe.task], _shares(recipe), chosen=chosen)
    return [found] if isinstance(found, Fault) else found
