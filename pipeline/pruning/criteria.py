"""How much a unit matters: the contract of a criterion, what it may look at, and all of them by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, fx

    from pipeline.data import Split
    from pipeline.pruning.groups import Group

Scores: TypeAlias = NDArray[np.float64]
Needs: TypeAlias = Literal["weights", "samples", "labels"]
SampleLoss: TypeAlias = "Callable[[Sequence[Tensor], Tensor], Tensor]"  # (outputs, labels) -> scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a criterion may look at beside the weights.

    Attributes:
        seed: Of what is drawn: random scores, random projections.
        samples: Inputs bound to the graph's names, with labels where the task has them; None: there are no data.
        loss: Loss of a batch from the graph's outputs and the labels; None: there is none.
        batch_size: Samples of one pass, where a criterion does not need them one by one.
        on_share: Told which share of the samples has been seen.
    """

    seed: int = 0
    samples: Split | None = None
    loss: SampleLoss | None = None
    batch_size: int = 32
    on_share: Callable[[float], None] = lambda _share: None


class Criterion(ABC):
    """Scores the units of groups; the lowest go first. Stateless.

    Attributes:
        name: What a recipe calls it.
        needs: ``weights`` alone, ``samples`` too, or samples with ``labels`` and a loss.
        comparable: Whether scores compare between groups as they are (they estimate one quantity, such as the loss).
    """

    name: ClassVar[str]
    needs: ClassVar[Needs] = "weights"
    comparable: ClassVar[bool] = False

    @final
    def score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence | None = None) -> dict[str, Scores]:
        """Importance of each unit of each group, at least 0: ``(units,)`` float64 by group name.

        Args:
            gm: The graph; left as it is, in evaluation mode.
            groups: Groups of that graph.
            evidence: Data, loss and seed.

        Raises:
            InputError: The criterion needs data or labels that are not there, a group has not what it looks at, or
                what it computes is not finite.
        """
        evidence = evidence or Evidence()
        self._check(evidence)
        scores = self._score(gm, groups, evidence)
        for group in groups:
            found = scores[group.name]
            assert found.shape == (group.size,)
            assert found.dtype == np.float64
            if not (np.isfinite(found).all() and (found >= 0).all()):
                raise InputError(
                    f"the importance of channels by criterion {self.name!r} is not finite",
                    f"in {group.name}, {np.count_nonzero(~np.isfinite(found))} of {group.size} units",
                    "check the weights for extreme values, or choose another prune.criterion",
                )
        return scores

    def _check(self, evidence: Evidence) -> None:
        if self.needs == "weights":
            return
        if evidence.samples is None:
            raise InputError(
                f"criterion {self.name!r} needs data",
                "there are no samples to score with",
                "give training data, or choose a criterion that looks at weights alone (l2, fpgm, lamp, ...)",
            )
        if self.needs == "labels" and (evidence.samples.labels is None or evidence.loss is None):
            raise InputError(
                f"criterion {self.name!r} needs labels",
                "the samples have none, so there is no loss to look at",
                "give labels, or choose output_sensitivity or activation_mean, which need none",
            )

    @abstractmethod
    def _score(self, gm: fx.GraphModule, groups: Sequence[Group], evidence: Evidence) -> dict[str, Scores]:
        """See `score`."""


def all_criteria() -> Mapping[str, Criterion]:
    """Every criterion by name. A new one is a class with a name, listed here and in the recipe's `CriterionName`."""
    from pipeline.pruning.criteria_data import ActivationMean, OutputSensitivity, SecondOrder, Taylor
    from pipeline.pruning.criteria_weights import BatchNormScale, GeometricMedian, L1Norm, L2Norm, Lamp, Random

    kinds: tuple[type[Criterion], ...] = (
        L1Norm, L2Norm, Random, BatchNormScale, GeometricMedian, Lamp,
        Taylor, SecondOrder, OutputSensitivity, ActivationMean,
    )  # fmt: skip
    return MappingProxyType({kind.name: kind() for kind in kinds})


_NORMS: Final[Mapping[str, Callable[[Scores], float]]] = MappingProxyType(
    {
        "none": lambda _scores: 1.0,
        "mean": lambda scores: float(scores.mean()),
        "max": lambda scores: float(scores.max()),
        "sum": lambda scores: float(scores.sum()),
        "l2": lambda scores: float(np.sqrt(np.square(scores).sum())),
    }
)
Normalization: TypeAlias = Literal["none", "mean", "max", "sum", "l2"]


def normalized(scores: Mapping[str, Scores], how: Normalization) -> dict[str, Scores]:
    """Scores divided by a figure of their own group, so that groups compare; a group of zeros stays zeros."""
    found = {}
    for name, values in scores.items():
        scale = _NORMS[how](values)
        found[name] = values / scale if scale > 0 else values
    return found
