"""Between blocks: waits until the device is about as cool as before the first one, for as long as it may get quiet."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.preflight import patience_s

if TYPE_CHECKING:
    from pipeline.benchmarking.journal import Header, Pass
    from targets.devices.base import Session

WARMER_C: Final = 3.0  # degrees above the start of the first block that count as the same temperature
_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooled:
    """How a block found the device.

    Attributes:
        waited_s: How long it was waited for.
        above_c: By how much it was still warmer than before the first block, where that is too much; else None.
    """

    waited_s: float = 0.0
    above_c: float | None = None


def wait_until_cool(
    session: Session, header: Header, passes: Sequence[Pass], *, budget_s: float, left_s: float
) -> Cooled:
    """Waits for a device that the last process left too warm; one that tells no temperature is never waited for.

    All waiting of a campaign together, for quiet and for coolness, takes no more than the quiet gate may.

    Raises:
        DeviceLost: It stopped answering.
    """
    if header.temp_c is None or not passes or not _may_be_warm(passes[-1].rows, header.temp_c):
        return Cooled()
    spent_s = header.waited_s + sum(item.waited_s for item in passes)
    share_s = max(0.0, min(patience_s(budget_s) - spent_s, left_s))
    begin = time.monotonic()
    while True:
        facts = session.facts()
        now_c, waited_s = facts.raw.get("temp_c"), time.monotonic() - begin
        above_c = None if now_c is None or now_c <= header.temp_c + WARMER_C else now_c - header.temp_c
        if above_c is None or waited_s + _POLL_S + facts.wall_s > share_s:
            return Cooled(waited_s=round(waited_s, 3), above_c=above_c)
        time.sleep(_POLL_S)


def _may_be_warm(rows: Sequence[Mapping[str, Any]], start_c: float) -> bool:
    """Whether the samplers saw more than the start's temperature at the end of the last process."""
    told = ((rows[-1].get("telemetry") or {}).get("temp_c") or {}) if rows else {}
    end_c = told.get("end")
    return end_c is not None and bool(end_c > start_c + WARMER_C)
