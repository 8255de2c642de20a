"""One coded warning: what makes the numbers weaker, the evidence, and how to mend it; and all of one campaign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipeline.benchmarking.conditions import CampaignFacts, Runs

Severity = Literal["note", "warning", "void"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """One warning.

    Attributes:
        code: Stable name.
        severity: ``note`` informs, ``warning`` weakens the numbers, ``void`` makes them worthless.
        engine: The engine concerned; None for the whole campaign.
        text: What is wrong, one line.
        evidence: The numbers that show it.
        fix: What to do about it.
    """

    code: str
    severity: Severity
    engine: str | None
    text: str
    evidence: str
    fix: str

    def to_json(self) -> dict[str, object]:
        """The warning as plain data."""
        return asdict(self)


def campaign_warnings(
    runs: Mapping[str, Runs],
    engines: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    campaign: CampaignFacts,
) -> list[Caution]:
    """All warnings of a campaign: of the device, of its blocks, of each engine.

    Args:
        runs: The rows of each engine that count, in block order.
        engines: What each engine is, as in benchmark.json.
        facts: What the device says of itself; ``at_end``: what it said after the last block.
        campaign: How the campaign went.
    """
    from pipeline.benchmarking.warnings_blocks import block_warnings
    from pipeline.benchmarking.warnings_device import device_warnings
    from pipeline.benchmarking.warnings_engine import engine_warnings

    found = device_warnings(runs, engines, facts, campaign)
    found += block_warnings(runs, facts, campaign)
    for name, rows in runs.items():
        found += engine_warnings(name, rows, engines[name], cores=facts.get("cores"))
    return found
