"""What may vary in a search, and the recipe of one point of that space."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, get_args

from pipeline.recipe.base import Section
from pipeline.recipe.document import EDITS
from pipeline.recipe.faults import consistency_faults
from pipeline.recipe.pruning import TARGETS
from pipeline.recipe.searching import Range
from pipeline.search.target import is_of_target, profile_at
from targets.errors import EdgepressError, Fault, InputError, faults_error, nearest
from targets.faults import faults_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from pipeline.recipe import Recipe
    from targets.profile import TargetProfile

OFF: Final = "off"
_WHERE: Final = "search.space"
_AMOUNTS: Final = frozenset(
    {*(f"prune.{key}" for key in TARGETS), "depth.blocks", "depth.share", "sparsify.ratio", "distill.epochs"}
)
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


def search_space(recipe: Recipe, profile: TargetProfile) -> Space:
    """The space of the recipe's ``[search]``, each end of it a valid recipe and a valid target.

    Raises:
        InputError: A key does not exist, cannot vary, or takes values that the recipe refuses; all faults at once.
    """
    assert recipe.search is not None
    variables = tuple(_variable(key, what) for key, what in sorted(recipe.search.space.items()))
    if not variables:
        raise InputError(
            "there is nothing to search",
            "search.space is empty, and nothing of this model varies by default",
            'name what may vary: "prune.ratio" = { low = 0.2, high = 0.6 } under [search.space]',
        )
    usual = {variable.key: _usual(variable) for variable in variables}
    faults = [fault for variable in variables for fault in _faults(recipe, profile, variable, usual)]
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
    return changed(recipe, {key: value for key, value in values.items() if not is_of_target(key)})


def decoded(space: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The point that optuna's values stand for."""
    return {
        variable.key: json.loads(drawn[variable.key]) if isinstance(variable, Choices) else drawn[variable.key]
        for variable in space
    }


def changed(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with other values; what is ``off`` leaves its section out, whatever else is said of that section.

    Where that leaves nothing that removes anything, distillation from the dense model goes too.

    Raises:
        InputError: They do not make a valid recipe.
    """
    from pydantic import ValidationError

    data = copy.deepcopy(recipe.model_dump(mode="python", exclude_unset=True, exclude={"folder", "search"}))
    off = []
    for key in sorted(values, key=lambda name: name.count(".")):  # a whole section before what is in it
        section = _left_out(type(recipe), key, values[key])
        if section is None:
            _assign(data, key.split("."), values[key])
        else:
            off.append(section)
    for section in off:
        _remove(data, section.split("."))
    if off and not any(name in data for name in EDITS) and not {"student", "teachers"} & data.get("distill", {}).keys():
        data.pop("distill", None)  # nothing is removed: there is nothing to learn from the dense model
    try:
        found = type(recipe).model_validate({**data, "folder": recipe.folder})
    except ValidationError as error:
        raise faults_error(f"a candidate of recipe {recipe.name!r}", faults_of(error, type(recipe))) from error
    if faults := consistency_faults(found):
        raise faults_error(f"a candidate of recipe {recipe.name!r}", faults)
    return found


def _left_out(model: type[BaseModel], key: str, value: object) -> str | None:
    """The section that ``off`` leaves out: the key's own, or the one of which it says how much; else it is a value."""
    if value != OFF:
        return None
    if key in _AMOUNTS:
        return key.rpartition(".")[0]
    return key if _is_section(model, key.split(".")) else None


def _is_section(model: type[BaseModel], keys: Sequence[str]) -> bool:
    field = model.model_fields.get(keys[0])
    if field is None:
        return False
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if isinstance(kind, type)]
    sections = [kind for kind in kinds if issubclass(kind, Section)]
    return bool(sections) if len(keys) == 1 else any(_is_section(kind, keys[1:]) for kind in sections)


def _assign(data: dict[str, Any], keys: list[str], value: object) -> None:
    table = data
    for key in keys[:-1]:
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            table[key] = inner = {}
        table = inner
    table[keys[-1]] = value


def _remove(data: dict[str, Any], keys: list[str]) -> None:
    table: Any = data
    for key in keys[:-1]:
        table = table.get(key)
        if not isinstance(table, dict):
            return
    table.pop(keys[-1], None)


def _variable(key: str, what: Range | list[Any]) -> Variable:
    if isinstance(what, list):
        return Choices(key=key, values=tuple(what))
    whole = all(isinstance(value, int) for value in (what.low, what.high, what.step or 1))
    return Numbers(key=key, low=what.low, high=what.high, step=what.step, log=what.log, whole=whole)


def _usual(variable: Variable) -> Any:  # noqa: ANN401 - whatever the recipe takes
    """A value that stands for the variable while others are checked."""
    if isinstance(variable, Numbers):
        return _end(variable, variable.low)
    return next((value for value in variable.values if value != OFF), variable.values[0])


def _check(recipe: Recipe, profile: TargetProfile, variable: Variable, value: object, usual: Point) -> None:
    """Raises where a value is not valid, neither alone nor beside usual values of all that varies."""
    if is_of_target(variable.key):
        profile_at(profile, {variable.key: value})
        return
    try:
        changed(recipe, {variable.key: value})
    except EdgepressError:
        if len(usual) == 1:
            raise
        others = {key: one for key, one in usual.items() if not is_of_target(key)}
        try:
            changed(recipe, {**others, variable.key: value})
        except EdgepressError as beside:
            if not any(fault.where.startswith(variable.key) for fault in beside.faults):
                return  # another value is at fault: it is told where that one is checked
            raise


def _faults(recipe: Recipe, profile: TargetProfile, variable: Variable, usual: Point) -> list[Fault]:
    where = f'{_WHERE}."{variable.key}"'
    top = variable.key.split(".")[0]
    of_target = is_of_target(variable.key)
    if not of_target and (top in _FIXED or top not in type(recipe).model_fields):
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
            _check(recipe, profile, variable, value, usual)
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
