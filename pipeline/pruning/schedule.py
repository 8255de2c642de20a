"""How widths come down over the steps of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from pipeline.pruning.widths import Widths

Schedule: TypeAlias = Literal["one_shot", "linear", "cubic"]


def shares(schedule: Schedule, steps: int) -> tuple[float, ...]:
    """The share of all removals that is done after each step; the last is 1.

    ``cubic`` is ``1 - (1 - t / n) ** 3`` of Zhu and Gupta, To Prune, or Not to Prune, arXiv 1710.01878, equation 1:
    fast while there is much to spare, slowly at the end.
    """
    if schedule == "one_shot":
        return (1.0,)
    if schedule == "linear":
        return tuple(step / steps for step in range(1, steps + 1))
    return tuple(1 - (1 - step / steps) ** 3 for step in range(1, steps + 1))


def steps_down(before: Widths, after: Widths, schedule: Schedule, steps: int) -> tuple[dict[str, int], ...]:
    """Widths after each step, whole numbers, never rising, the last those asked for; steps that do nothing left out."""
    found: list[dict[str, int]] = []
    last = dict(before)
    for share in shares(schedule, steps):
        here = {name: before[name] - round(share * (before[name] - width)) for name, width in after.items()}
        if any(here[name] != last[name] for name in here):
            found.append(here)
            last = here
    return tuple(found)
