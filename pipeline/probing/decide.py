"""From times to a choice: which engine first, in which dialect, in which precisions, and what stays an alternative."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.probing.measure import Score
from targets.options import EngineOptions, Precision

WORTH: Final = 0.97
"""What comes later in the order of preference, or costs accuracy, must take less than this part of the time."""

NEAR: Final = 1.25
"""An engine stays an alternative when on some net it takes at most this multiple of the fastest one's time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One engine as a profile names it.

    Attributes:
        label: Of its trials.
        engine: The engine.
        scheme: Its best dialect.
        precisions: Float, and what is faster than float.
        ratio: Of the fastest of them, to the first trial.
    """

    label: str
    engine: EngineOptions
    scheme: str
    precisions: tuple[Precision, ...]
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What the profile says: the engines to use, the fastest first, and those left out as too slow."""

    kept: tuple[Choice, ...]
    slow: tuple[Choice, ...]


def decide(scores: Sequence[Score]) -> Decision:
    """Ranks the engines by the geometric mean over the nets; among equals (3 %) the one that was tried first wins.

    Args:
        scores: In order of preference; at least one.
    """
    labels = dict.fromkeys(score.trial.label for score in scores)
    choices = [_choice([score for score in scores if score.trial.label == label]) for label in labels]
    ranked: list[Choice] = []
    while choices:
        best = choices[0]
        for other in choices[1:]:
            best = other if other.ratio < WORTH * best.ratio else best
        choices.remove(best)
        ranked.append(best)
    near = [choice for choice in ranked[1:] if _is_near(choice.label, ranked[0].label, scores)]
    return Decision(kept=(ranked[0], *near), slow=tuple(choice for choice in ranked[1:] if choice not in near))


def _choice(scores: Sequence[Score]) -> Choice:
    """One engine: its float, and of each other precision the best dialect where it is faster than float."""
    base = scores[0]
    kept: list[Score] = [base]
    for precision in dict.fromkeys(score.trial.precision for score in scores[1:]):
        best: Score | None = None
        for score in scores[1:]:
            if score.trial.precision == precision and (best is None or score.ratio < WORTH * best.ratio):
                best = score
        if best is not None and best.ratio < WORTH * base.ratio:
            kept.append(best)
    dialect = next((score for score in kept if score.trial.precision == "int8"), base)
    return Choice(
        label=base.trial.label,
        engine=base.trial.engine,
        scheme=dialect.trial.scheme,
        precisions=tuple(score.trial.precision for score in kept),
        ratio=min(score.ratio for score in kept),
    )


def _is_near(label: str, winner: str, scores: Sequence[Score]) -> bool:
    def best(of: str, net: str) -> float:
        return min(score.times[net].latency_ms for score in scores if score.trial.label == of)

    return any(best(label, net) <= NEAR * best(winner, net) for net in scores[0].times)
