"""Which engines of a campaign can no longer win, so that a tight budget goes to those that can.

An engine is left out when another one is faster in the blocks so far, beyond doubt and by a margin that matters, and
is worse in nothing else that a decision looks at: then no decision could prefer it. The test is one-sided, paired by
block, at a thousandth, against a ratio of 1.05: a pair that differs by less is told apart wrongly in at most 4 of 1,000
campaigns (looks after 3, 4, 5 and 6 blocks), and what is left out keeps its blocks and their interval. Nothing is left
out while the budget holds all blocks up to the next look for all.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.distributions import t_quantile
from pipeline.benchmarking.request import TWIN
from pipeline.benchmarking.results import latency_ns, outputs_ok

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.benchmarking.blocks import Passes, Sitting
    from pipeline.benchmarking.request import Standing

MARGIN: Final = 0.05
CONFIDENCE: Final = 0.998  # two-sided: one-sided a thousandth
FEWEST_BLOCKS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """An engine that is measured no longer.

    Attributes:
        after: Blocks that it was measured in.
        by: The engine that it cannot win against.
        ratio: Its latency over that one's.
    """

    after: int
    by: str
    ratio: float

    def to_json(self) -> dict[str, Any]:
        """What benchmark.json says of it."""
        return {"after_blocks": self.after, "by": self.by, "ratio": round(self.ratio, 4)}


def left_out(sitting: Sitting, passes: Passes) -> dict[str, LeftOut]:
    """The engines that are not measured in the next block, from finished passes alone."""
    if sitting.options.scenario.kind != "latency" or not sitting.mode.verdicts or len(sitting.looks) < 2:  # noqa: PLR2004
        return {}
    found: dict[str, LeftOut] = {}
    done = 0
    for number, item in enumerate(passes, start=1):
        if item.discarded is not None:
            continue
        done += 1
        if done < FEWEST_BLOCKS or not _is_tight(sitting, passes[:number], done, len(found)):
            continue
        rows = [row for before in passes[:number] if before.discarded is None for row in before.rows]
        found |= _hopeless(sitting, rows, found, done)
    return found


def _is_tight(sitting: Sitting, passes: Passes, done: int, gone: int) -> bool:
    """Whether the budget does not hold the blocks up to the next look for all that still run."""
    look = next((look for look in sitting.looks if look > done), None)
    if look is None:
        return False
    last = passes[-1]
    block_s = last.length_s * (len(sitting.staged) - gone) / max(1, len(last.order))
    return (look - done) * block_s > sitting.options.budget_s - last.elapsed_s


def _hopeless(
    sitting: Sitting, rows: Sequence[Mapping[str, Any]], gone: Mapping[str, LeftOut], done: int
) -> dict[str, LeftOut]:
    own = {item.name: [row for row in rows if row["engine"] == item.name] for item in sitting.staged}
    running = [item for item in sitting.staged if item.name not in gone and item.name != TWIN and item.standing]
    found: dict[str, LeftOut] = {}
    for loser in running:
        assert loser.standing is not None
        if not loser.standing.may_leave:
            continue
        for winner in running:
            assert winner.standing is not None
            if winner is loser or winner.name in found or outputs_ok(own[winner.name]) is False:
                continue
            if not _is_worse_in_nothing(winner.standing, loser.standing, own[winner.name], own[loser.name]):
                continue
            ratio = _surely_slower(own[loser.name], own[winner.name])
            if ratio is not None:
                found[loser.name] = LeftOut(after=done, by=winner.name, ratio=ratio)
                break
    return found


def _is_worse_in_nothing(
    winner: Standing, loser: Standing, rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> bool:
    if winner.accuracy < loser.accuracy or winner.size_bytes > loser.size_bytes:
        return False
    if not winner.memory_counts:
        return True
    peaks = [max(float((row.get("mem") or {}).get("run_peak") or math.inf) for row in of) for of in (rows, others)]
    return peaks[0] <= peaks[1]


def _surely_slower(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> float | None:
    """The ratio of latencies where it is above the margin beyond doubt; None otherwise."""
    own, other = ({row["block"]: latency_ns(row) for row in of} for of in (rows, others))
    logs = [math.log(own[block] / other[block]) for block in sorted(own) if block in other]
    if len(logs) < FEWEST_BLOCKS:
        return None
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    lowest = mean - t_quantile(len(logs) - 1, CONFIDENCE) * error
    return math.exp(mean) if lowest > math.log1p(MARGIN) else None
