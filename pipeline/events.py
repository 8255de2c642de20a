"""What happens during a run, as data; whoever wants to show it subscribes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted:
    """A stage begins to work (reused stages never start)."""

    stage: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """A stage got further.

    Attributes:
        done: Share of the work that is done, 0 to 1.
        text: Where it stands, for people.
        values: Named figures, such as an epoch's loss.
        left_s: Seconds that the stage takes yet at its pace; None as long as that is not known.
    """

    stage: str
    done: float
    text: str
    values: Mapping[str, float] = field(default_factory=dict)
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingStep:
    """A stage that trains made an optimiser step: many a second, for logs and live displays.

    Attributes:
        done: Share of the stage, from 0 to 1.
        step: From 1, over the whole training.
        steps: Of the whole training.
        epoch: From 1.
        values: Loss, learning rate, norm of the gradient.
        left_s: Seconds that the stage takes yet at its pace; None as long as that is not known.
    """

    stage: str
    done: float
    step: int
    steps: int
    epoch: int
    values: Mapping[str, float]
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFinished:
    """A stage's artifact is in the store.

    Attributes:
        reused: It was there already.
        wall_s: Seconds it took when it was made.
        results: Small results of the stage.
        digest: Content digest of the artifact.
    """

    stage: str
    title: str
    reused: bool
    wall_s: float
    results: Mapping[str, object]
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something a user should know: a damaged cache entry, a wait for another run, a warning of a stage."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateDropped:
    """A candidate that nobody insisted on cannot be had; the run goes on without it.

    Attributes:
        name: The candidate; the node, where no candidate is made of it.
        what: What happened.
        why: Why.
        fix: What would bring it back.
        quiet: Nothing went wrong, it has nothing to offer for this model: worth a detail, no warning.
    """

    name: str
    what: str
    why: str
    fix: str
    quiet: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A search begins to try a candidate.

    Attributes:
        number: Of the trial, from 0.
        of: How many will be tried.
        point: The recipe keys that vary, and their values.
        left_s: What this and all further trials will take; None before the first one told.
    """

    number: int
    of: int
    point: Mapping[str, object]
    left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFinished:
    """A search knows what came of a candidate.

    Attributes:
        number: Of the trial.
        outcome: One line.
    """

    number: int
    outcome: str


Event = (
    StageStarted
    | StageProgress
    | TrainingStep
    | StageFinished
    | Notice
    | CandidateDropped
    | TrialStarted
    | TrialFinished
)
Observer = Callable[[Event], None]
