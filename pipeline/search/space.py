"""What may vary in a search, and the recipe of one point of that space."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.recipe.faults import consistency_faults
from pipeline.recipe.searching import Range
from targets.errors import EdgepressError, Fault, InputError, faults_error, nearest
from targets.faults import faults_of

if TYPE_CHECKING:
    from pipeline.recipe import Recipe

OFF: Final = "off"
_WHERE: Final = "search.space"
_FIXED: Final = {"name", "targets", "search", "folder", "data", "task"}

Point = Mapping[str, Any]
"""A value for each recipe key that varies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Values to choose from, whatever they are: optuna sees each as its JSON text.

    Attributes:
        key: The recipe's key.
        values: At least one.
    """

    key: str
    values: tuple[Any, ...]

    def texts(self) -> tuple[str, ...]:
        """The values as optuna knows them."""
        return tuple(json.dumps(value, sort_keys=True) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Numbers between two ends, both included.

    Attributes:
        key: The recipe's key.
        low: Smallest.
        high: Largest.
        step: Distance of two neighbours; None for any number (1 for whole numbers).
        log: Drawn evenly over the logarithm.
        whole: Whether they are whole numbers.
    """

    key: str
    low: float
    high: float
    step: float | None
    log: bool
    whole: bool


Variable = Choices | Numbers
Space = tuple[Variable, ...]


def search_space(recipe: Recipe) -> Space:
    """The space of the recipe's ``[search]``, each end of it a valid recipe.

    Raises:
        InputError: A key does not exist, cannot vary, or takes values that the recipe refuses; all faults at once.
    """
    assert recipe.search is not None
    variables = tuple(_variable(key, what) for key, what in sorted((recipe.search.space or _default(recipe)).items()))
    if not variables:
        raise InputError(
            "there is nothing to search",
            "the recipe has no section that varies by default, and search.space is empty",
            'name what may vary: "prune.ratio" = { low = 0.2, high = 0.6 } under [search.space]',
        )
    faults = [fault for variable in variables for fault in _faults(recipe, variable)]
    if faults:
        raise faults_error(f"recipe {recipe.name!r}", faults)
    return variables


def recipe_at(recipe: Recipe, point: Point, *, screening: bool) -> Recipe:
    """The recipe with the values of a point; while candidates are tried, also those of ``search.screening``.

    Raises:
        InputError: They do not make a valid recipe.
    """
    assert recipe.search is not None
    values = {**(recipe.search.screening if screening else {}), **point}
    return _validated(recipe, values)


def decoded(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The point that optuna's values stand for."""
    return {
        variable.key: json.loads(drawn[variable.key]) if isinstance(variable, Choices) else drawn[variable.key]
        for variable in space
    }


def _validated(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    from pydantic import ValidationError

    data = recipe.model_dump(mode="python", exclude_unset=True, exclude={"folder", "search"})
    data = copy.deepcopy(data)
    for key in sorted(values, key=lambda name: name.count(".")):  # a whole section before what is in it
        _assign(data, key.split("."), values[key])
    try:
        found = type(recipe).model_validate({**data, "folder": recipe.folder})
    except ValidationError as error:
        raise faults_error(f"a candidate of recipe {recipe.name!r}", faults_of(error, type(recipe))) from error
    if faults := consistency_faults(found):
        raise faults_error(f"a candidate of recipe {recipe.name!r}", faults)
    return found


def _assign(data: dict[str, Any], keys: list[str], value: object) -> None:
    table = data
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            table[key] = inner = {}
        table = inner
    if value == OFF and isinstance(table.get(keys[-1], {}), dict):
        table.pop(keys[-1], None)
    else:
        table[keys[-1]] = value


def _variable(key: str, what: Range | list[Any]) -> Variable:
    if isinstance(what, list):
        return Choices(key=key, values=tuple(what))
    whole = all(isinstance(value, int) for value in (what.low, what.high, what.step or 1))
    return Numbers(key=key, low=what.low, high=what.high, step=what.step, log=what.log, whole=whole)


def _default(recipe: Recipe) -> dict[str, Range | list[Any]]:
    """What is worth varying in the sections that the recipe has."""
    space: dict[str, Range | list[Any]] = {}
    if recipe.prune is not None:
        space["prune.ratio"] = Range(low=0.1, high=0.7, step=0.05)
        space["prune.scope"] = ["local", "global"]
    if recipe.distill is not None:
        space["distill.alpha"] = Range(low=0.1, high=0.9, step=0.2)
        space["distill.temperature"] = [2.0, 4.0, 8.0]
    return space


def _faults(recipe: Recipe, variable: Variable) -> list[Fault]:
    where = f'{_WHERE}."{variable.key}"'
    top = variable.key.split(".")[0]
    if top in _FIXED or top not in type(recipe).model_fields:
        allowed = sorted(set(type(recipe).model_fields) - _FIXED)
        return [Fault(where=where, what="cannot vary, or there is no such key", fix=nearest(top, allowed))]
    if isinstance(variable, Numbers) and (fault := _range_fault(variable, where)):
        return [fault]
    ends = (
        variable.values
        if isinstance(variable, Choices)
        else (_end(variable, variable.low), _end(variable, variable.high))
    )
    found = []
    for value in ends:
        try:
            _validated(recipe, {variable.key: value})
        except EdgepressError as error:
            what = "; ".join(f"{f.where}: {f.what}" for f in error.faults) or error.why
            fix = error.faults[0].fix if error.faults else error.fix
            found.append(Fault(where=where, what=f"{json.dumps(value)} is no valid value: {what}", fix=fix))
    return found


def _end(variable: Numbers, value: float) -> float | int:
    return int(value) if variable.whole else float(value)


def _range_fault(variable: Numbers, where: str) -> Fault | None:
    if not variable.low < variable.high:
        return Fault(
            where=where, what=f"low {variable.low} is not below high {variable.high}", fix="swap or widen them"
        )
    if variable.log and (variable.low <= 0 or variable.step is not None):
        return Fault(where=where, what="log takes a low above 0, and no step", fix="remove log, or the step")
    if variable.step is not None and not 0 < variable.step <= variable.high - variable.low:
        return Fault(where=where, what=f"step {variable.step} does not fit between low and high", fix="make it smaller")
    return None
