"""Widths for a latency: the knapsack's choice is built, measured, and the model corrected, a few times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pipeline.latency.knapsack import Problem, solve
from pipeline.pruning.widths import importance_kept
from targets.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.latency.model import LatencyModel
    from pipeline.pruning.criteria import Scores
    from pipeline.pruning.widths import Widths


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Two engines of one campaign.

    Attributes:
        latency_ms: Of the pruned net.
        dense_ms: Of the net before pruning.
    """

    latency_ms: float
    dense_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One choice and what it was measured at.

    Attributes:
        widths: Units kept.
        target_ms: What was asked for, at this campaign's latency of the dense net.
        predicted_ms: By the model as corrected so far.
        measured_ms: In a campaign with the dense net.
        dense_ms: That net's latency in it.
        importance_ratio: Share of importance kept.
    """

    widths: dict[str, int]
    target_ms: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    importance_ratio: float

    @property
    def off_ratio(self) -> float:
        """Measured over asked for, less one."""
        return self.measured_ms / self.target_ms - 1

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is asked for: a share of the dense net's latency, or milliseconds; and how near is near enough."""

    ratio: float | None
    latency_ms: float | None
    tolerance: float
    rounds: int

    def target_ms(self, dense_ms: float) -> float:
        """Milliseconds, when the dense net takes so many."""
        if self.latency_ms is not None:
            return self.latency_ms
        assert self.ratio is not None
        return self.ratio * dense_ms


def find_widths(
    model: LatencyModel,
    values: Mapping[str, Sequence[float]],
    compared: Mapping[str, Scores],
    goal: Goal,
    dense_ms: float,
    measure: Callable[[Widths], Measured],
    on_round: Callable[[int, str], None],
) -> tuple[Round, ...]:
    """Every round, the one to take last.

    Args:
        model: Fitted to the table.
        values: Importance that each group keeps at each of its widths.
        compared: Importance of each unit.
        goal: What is asked for.
        dense_ms: Latency of the dense net, as far as it is known before the first round.
        measure: Builds and measures the net of given widths beside the dense one.
        on_round: Told what is being done in which round.

    Raises:
        InputError: The dense net is fast enough, or the narrowest too slow.
    """
    problem = Problem(
        choices=model.anatomy.choices,
        values=values,
        meetings=[layer.groups for layer in model.anatomy.layers],
        cost=model.predict_ms,
    )
    target_ms, whole_ms = goal.target_ms(dense_ms), model.predict_ms(model.anatomy.whole)
    correction = dense_ms / whole_ms  # the sum of the layers, corrected by one measurement of the whole
    if target_ms >= dense_ms:
        raise InputError(
            "pruning would remove nothing",
            f"the dense engine takes {dense_ms:.4g} ms, and {target_ms:.4g} ms are asked for",
            "ask for less, or remove [prune] from the recipe",
        )
    found: list[Round] = []
    for number in range(1, goal.rounds + 1):
        on_round(number, "choosing widths")
        widths = solve(problem, target_ms / correction)
        if widths is None:
            if found:
                break
            raise _unreachable(model, compared, correction, target_ms)
        if any(widths == other.widths for other in found):
            break  # there is no net nearer to the target than one that was measured
        on_round(number, "building and measuring them")
        seen = measure(widths)
        target_ms = goal.target_ms(seen.dense_ms)
        here = Round(
            widths=widths,
            target_ms=target_ms,
            predicted_ms=correction * model.predict_ms(widths) * seen.dense_ms / dense_ms,  # this campaign's speed
            measured_ms=seen.latency_ms,
            dense_ms=seen.dense_ms,
            importance_ratio=importance_kept(compared, widths),
        )
        found.append(here)
        if abs(here.off_ratio) <= goal.tolerance:
            break
        correction, dense_ms = here.measured_ms / model.predict_ms(widths), seen.dense_ms
    found.sort(key=lambda item: abs(item.off_ratio), reverse=True)
    return tuple(found)


def _unreachable(
    model: LatencyModel, compared: Mapping[str, Scores], correction: float, target_ms: float
) -> InputError:
    least = {name: widths[0] for name, widths in model.anatomy.choices.items()}
    reachable_ms = correction * model.predict_ms(least)
    return InputError(
        "the pruning target cannot be reached",
        f"{target_ms:.4g} ms are asked for; with every prunable group as narrow as it may be, about {reachable_ms:.4g} "
        f"ms are left, at {importance_kept(compared, least):.0%} of the importance (expect a large loss of accuracy)",
        f"ask for at least {reachable_ms:.4g} ms, shorten prune.protect, or lower pruning.channel_alignment in the "
        "target's profile",
    )
