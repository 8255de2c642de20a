"""What is wrong in `[prune]` and between it and other sections, whose keys are each valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.recipe.pruning import LABELLED, SAMPLED, TARGETS
from targets.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.recipe import PruneSection, Recipe

_SEVERAL: Final = 2


def pruning_faults(recipe: Recipe) -> list[Fault]:
    """Every fault of the section, if there is one."""
    prune = recipe.prune
    if prune is None:
        return []
    return [*_target_faults(prune), *_schedule_faults(prune), *_data_faults(recipe, prune), *_latency(recipe, prune)]


def _target_faults(prune: PruneSection) -> Iterator[Fault]:
    given = [key for key in TARGETS if getattr(prune, key) is not None]
    if len(given) != 1:
        yield Fault(
            where="prune",
            what=f"says {'nothing' if not given else ' and '.join(given)} about how much to remove",
            fix=f"give exactly one of {', '.join(TARGETS)}",
        )


def _schedule_faults(prune: PruneSection) -> Iterator[Fault]:
    if prune.schedule == "one_shot" and prune.steps != 1:
        yield Fault(
            where="prune.steps",
            what=f"{prune.steps} steps, and the schedule is one_shot",
            fix='set prune.schedule = "linear" or "cubic", or remove prune.steps',
        )
    if prune.schedule != "one_shot" and prune.steps < _SEVERAL:
        yield Fault(
            where="prune.steps", what=f"schedule {prune.schedule} needs several", fix="set prune.steps to 2 or more"
        )
    if prune.schedule != "one_shot" and prune.finetune is None:
        yield Fault(
            where="prune.finetune",
            what=f"schedule {prune.schedule} trains between its steps, and there is no [prune.finetune]",
            fix='add [prune.finetune], or set prune.schedule = "one_shot"',
        )


def _data_faults(recipe: Recipe, prune: PruneSection) -> Iterator[Fault]:
    sampled = prune.criterion in SAMPLED
    if "samples" in prune.model_fields_set and not sampled:
        yield Fault(
            where="prune.samples",
            what=f"criterion {prune.criterion} looks at no samples",
            fix=f"remove it, or choose one of {', '.join(sorted(SAMPLED))}",
        )
    uses = {"prune.criterion": sampled, "prune.finetune": prune.finetune is not None}
    labelled = {"prune.criterion": prune.criterion in LABELLED, "prune.finetune": prune.finetune is not None}
    for where, used in uses.items():
        if used and recipe.data.npz:
            fix = "use data.factory, or " + (
                "remove it" if where == "prune.finetune" else "choose a criterion of weights alone, such as l2"
            )
            yield Fault(where=where, what="needs a training split, and data.npz has none", fix=fix)
        if labelled[where] and recipe.task == "fidelity":
            fix = "remove it" if where == "prune.finetune" else "choose output_sensitivity, activation_mean or l2"
            yield Fault(where=where, what="needs labels, and task `fidelity` has none", fix=fix)


def _latency(recipe: Recipe, prune: PruneSection) -> Iterator[Fault]:
    if not prune.by_latency:
        if "latency" in prune.model_fields_set:
            yield Fault(
                where="prune.latency",
                what="is only for a latency target",
                fix="give prune.latency_ratio or prune.latency_ms, or remove [prune.latency]",
            )
        return
    key = "latency_ms" if prune.latency_ms is not None else "latency_ratio"
    if not recipe.benchmark.measure:
        yield Fault(
            where=f"prune.{key}",
            what="cannot be measured with benchmark.measure = false",
            fix="set benchmark.measure = true, or give prune.macs_ratio",
        )
    if "scope" in prune.model_fields_set:
        yield Fault(
            where="prune.scope",
            what="a latency target weighs all channels of the net against each other",
            fix="remove prune.scope",
        )
