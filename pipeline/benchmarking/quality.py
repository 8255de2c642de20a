"""The quality grade of a measurement: A, B, C, or F where no number is left to trust.

=====  ==============================================================================================================
A      95 % interval within 1 %, steady, not throttled, outputs right, nothing to warn of
B      within 3 %, or a warning
C      wider; from 10 % on the reasons say so
F      throttled, no steady state, wrong outputs, emulated, device lost: no verdict
=====  ==============================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pipeline.benchmarking.conditions import CampaignFacts, Runs
from pipeline.benchmarking.results import headline_interval
from pipeline.benchmarking.warnings import Caution
from targets.words import counted

_A_WIDTH: Final = 0.01
_B_WIDTH: Final = 0.03
_C_WIDTH: Final = 0.10
_CAPS: Final = frozenset({"W-VIRTUAL"})  # notes that still keep a measurement from grade A


def quality(runs: Mapping[str, Runs], cautions: Sequence[Caution], campaign: CampaignFacts) -> dict[str, Any]:
    """``quality`` of benchmark.json: the grade of each engine, and the worst of them for all.

    Args:
        runs: The rows of each engine that count.
        cautions: All warnings.
        campaign: How the campaign went.
    """
    widths = {name: headline_interval(rows).half_width_ratio for name, rows in runs.items()}
    engines = {}
    for name, rows in runs.items():
        own = [caution for caution in cautions if caution.engine in {None, name}]
        engines[name] = _grade(widths[name], len(rows), own, campaign)
    reasons = {reason: None for item in engines.values() for reason in item["reasons"]}
    widest = max(widths.values())
    return {
        "grade": max(item["grade"] for item in engines.values()),  # F > C > B > A
        "half_width_ratio": widest if math.isfinite(widest) else None,
        "reasons": list(reasons),
        "engines": engines,
    }


def _grade(width: float, blocks: int, cautions: Sequence[Caution], campaign: CampaignFacts) -> dict[str, Any]:
    reasons = sorted({f"{c.code}: {c.text}" for c in cautions if c.severity != "note"})
    if campaign.stop == "lost":
        reasons.append("the device was lost")
    if not campaign.verdicts:
        reasons.append(f"mode {campaign.mode} is screening only")
    if not campaign.quiet:
        reasons.append("the device was not quiet at the start")
    if blocks < campaign.min_blocks:
        reasons.append(f"{counted(blocks, 'block')} only, no verdict is given below {campaign.min_blocks}")
    if blocks == 1:
        reasons.append("one process only: there is no interval")
    if math.isfinite(width) and width > campaign.target_half_width:
        wide = ", too wide for most purposes" if width > _C_WIDTH else ""
        goal = f"the goal is +-{campaign.target_half_width:.0%}"
        reach = f"+-{math.expm1(width):.1%}" if width < math.log(2) else f"a factor of {math.exp(width):.2g} each way"
        reasons.append(f"the 95 % interval is {reach}{wide}, {goal}")
    if campaign.stop == "lost" or any(caution.severity == "void" for caution in cautions):
        grade = "F"
    elif width > _B_WIDTH:
        grade = "C"
    else:
        capped = width > _A_WIDTH or reasons or any(caution.code in _CAPS for caution in cautions)
        grade = "B" if capped else "A"
    return {"grade": grade, "half_width_ratio": width if math.isfinite(width) else None, "reasons": reasons}
