"""Scores the units of a graph as `[prune]` asks, on a seeded draw of training samples where that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pipeline.recipe.pruning import SAMPLED
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor
    from torch.fx import GraphModule

    from pipeline.data import Dataset, Split
    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.groups import Group
    from pipeline.recipe import PruneSection
    from pipeline.tasks import Task


_TOLD: Final = 10  # times that progress is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Importance of the units of groups, by group name.

    Attributes:
        scores: As the criterion gives them; their order within a group says which go first.
        compared: The same, so that groups compare.
    """

    scores: Mapping[str, Scores]
    compared: Mapping[str, Scores]


def score_units(
    gm: GraphModule,
    groups: Sequence[Group],
    prune: PruneSection,
    *,
    data: Dataset,
    names: tuple[str, ...],
    task: Task,
    seed: int,
    on_share: Callable[[float], None],
) -> Scored:
    """The importance of every unit.

    Raises:
        InputError: There are fewer training samples than asked for, or what the criterion raises.
    """
    from pipeline.pruning import Evidence, all_criteria, normalized

    criterion = all_criteria()[prune.criterion]

    def loss(outputs: Sequence[Tensor], labels: Tensor) -> Tensor:
        return task.loss(outputs, labels, label_smoothing=0.0)

    samples = _draw(data["train"].bound(names), prune, seed) if prune.criterion in SAMPLED else None
    evidence = Evidence(
        seed=seed, samples=samples, loss=loss if task.needs_labels else None, on_share=_seldom(on_share)
    )
    scores = criterion.score(gm, groups, evidence)
    how = prune.normalize or ("none" if criterion.comparable else "mean")
    return Scored(scores=scores, compared=normalized(scores, how))


def _seldom(on_share: Callable[[float], None]) -> Callable[[float], None]:
    """Tells of every tenth only, however many samples there are."""
    told = [0]

    def tell(share: float) -> None:
        if int(_TOLD * share) > told[0]:
            told[0] = int(_TOLD * share)
            on_share(share)

    return tell


def _draw(split: Split, prune: PruneSection, seed: int) -> Split:
    """As many samples as the recipe says; of its default as many as there are."""
    import numpy as np

    count = prune.samples
    if len(split) < count and "samples" in prune.model_fields_set:
        raise InputError(
            f"prune.samples = {count} cannot be had",
            f"the training split has {len(split)} samples",
            f"set prune.samples to {len(split)} or fewer",
        )
    return split.take(np.sort(np.random.default_rng(seed).permutation(len(split))[:count]))
