"""Which failures of an optional stage are its own, so that the run may go on without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.errors import DeviceError, DeviceLost, DiskFailure, EdgepressError, EnvironmentFailure, InputError

if TYPE_CHECKING:
    from pipeline.events import CandidateDropped
    from pipeline.plan import Node, Plan


def is_own_failure(error: EdgepressError) -> bool:
    """Whether the error is of what was tried: the model, the engine, its time or memory.

    Not of it are: a disk that is full or broken, a device that was lost, a refusal for security, an interruption. They
    would meet the next stage too, or are to be seen.
    """
    own = InputError | DeviceError | EnvironmentFailure
    return isinstance(error, own) and not isinstance(error, DeviceLost | DiskFailure)


def dropped_by(plan: Plan, node: Node, error: EdgepressError) -> tuple[CandidateDropped, ...]:
    """What to tell of the failure of ``node``: each candidate that goes with it, or the node where none does."""
    return _each(plan, node, error.what, error.why, error.fix, quiet=False)


def withdrawn_by(plan: Plan, node: Node, reason: str) -> tuple[CandidateDropped, ...]:
    """What to tell of a node that found nothing to gain for this model."""
    fix = "name it in [build] candidates to have it built all the same"
    return _each(plan, node, "nothing to gain here", reason, fix, quiet=True)


def _each(plan: Plan, node: Node, what: str, why: str, fix: str, *, quiet: bool) -> tuple[CandidateDropped, ...]:
    from pipeline.events import CandidateDropped

    names = [other.candidate for other in (node, *plan.dependants(node.name)) if other.candidate]
    return tuple(CandidateDropped(name=name, what=what, why=why, fix=fix, quiet=quiet) for name in names or [node.name])
