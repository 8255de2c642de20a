"""The task of a recipe with its metrics, found without running user code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipeline.tasks.classification import Classification
from pipeline.tasks.detection import Detection
from pipeline.tasks.fidelity import Fidelity
from pipeline.tasks.recommendation import Recommendation
from pipeline.tasks.regression import Regression
from pipeline.tasks.segmentation import Segmentation
from pipeline.usercode import FactoryRef, find_factory
from targets.errors import Fault, nearest

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.tasks.base import Task

TASKS: Final[Mapping[str, type[Task]]] = {
    task.name: task for task in (Classification, Detection, Segmentation, Regression, Recommendation, Fidelity)
}


def find_task(recipe: Recipe) -> Task | list[Fault]:
    """The recipe's task; where a metric does not exist or cannot decide, a fault for each."""
    task = make_task(recipe.task, recipe.metrics.main, recipe.metrics.beside, recipe.folder)
    faults = [
        Fault(where=f"{key}.label_smoothing", what=f"task `{recipe.task}` has no classes to smooth", fix="remove it")
        for key, section in recipe.learning.items()
        if section.label_smoothing and not TASKS[recipe.task].smooths
    ]
    return [*(task if isinstance(task, list) else []), *faults] or task


def make_task(
    name: str, main: str = "", beside: Sequence[str] | None = None, folder: Path = Path()
) -> Task | list[Fault]:
    """A task by name.

    Args:
        name: One of `TASKS`.
        main: Name of the metric that counts, or ``file.py:function`` of the user's own; the task's default when empty.
        beside: Metrics shown beside it, in the same two forms; the task's default when None.
        folder: Where relative paths start.
    """
    task = TASKS[name]
    faults: list[Fault] = []
    functions: dict[str, FactoryRef] = {}

    def known(text: str, where: str, *, decides: bool) -> str:
        found = _known(task, text, where, folder, decides=decides)
        if isinstance(found, Fault):
            faults.append(found)
            return text
        if isinstance(found, FactoryRef):
            clash = task.knows(found.function) or functions.get(found.function, found) != found
            if clash:
                faults.append(
                    Fault(where=where, what=f"{found.function!r} is another metric's name too", fix="rename it")
                )
            functions[found.function] = found
            return found.function
        return found

    standard = task()
    metric = known(main, "metrics.main", decides=True) if main else standard.metric
    wanted = standard.beside if beside is None else beside
    shown = [known(text, f"metrics.beside.{at}", decides=False) for at, text in enumerate(wanted)]
    if faults:
        return faults
    names = tuple(name for name in dict.fromkeys(shown) if name != metric)
    return task(metric=metric, beside=names, functions=functions)


def _known(task: type[Task], text: str, where: str, folder: Path, *, decides: bool) -> str | FactoryRef | Fault:
    if ":" in text:
        return find_factory(text, folder, {}, where)
    if not task.knows(text):
        return Fault(
            where=where,
            what=f"task `{task.name}` has no metric {text!r}: it has {', '.join(task.known)}",
            fix=f'{nearest(text, task.known)}; or your own: "file.py:function"',
        )
    if decides and text in task.lower_is_better:
        return Fault(
            where=where,
            what=f"{text!r} falls as models get better, and the metric that decides must rise",
            fix=f'move it to metrics.beside, and use "{task().metric}" here',
        )
    return text
