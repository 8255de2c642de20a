"""Which engine won, and by how much against the best candidate of another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.reporting.verdicts import verdict_sentence, void_reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def rival_sentence(
    campaign: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], shipped: str, lowest_accuracy: float
) -> str:
    """What the campaign shows of the candidate that ships against the fastest of the other engines.

    Args:
        campaign: ``benchmark.json``.
        candidates: Rows of ``run.json``.
        shipped: Name of the one that ships.
        lowest_accuracy: The floor: one below it is no rival, however fast.

    Returns:
        A sentence; empty where one engine alone was measured, or no other one has a candidate that could have shipped.
    """
    rows = {str(row["name"]): row for row in candidates}
    own = engine_label(rows[shipped])
    others = [
        name
        for name, row in rows.items()
        if name in campaign["results"]
        and engine_label(row) != own
        and _accuracy(row) >= lowest_accuracy
        and not void_reason(campaign, name)
    ]
    if not others:
        return ""
    best = min(others, key=lambda name: float(campaign["results"][name]["latency_ms"]["value"]))
    return f"Best of the other engines is {best}: {verdict_sentence(campaign, shipped, best)}"


def engine_label(row: Mapping[str, Any]) -> str:
    """What a candidate's name says of its engine: empty for the first choice, and for the uncompressed reference."""
    name = str(row["name"]).removeprefix("dense-")
    return name.removesuffix(str(row["precision"])).removesuffix("-")


def _accuracy(row: Mapping[str, Any]) -> float:
    on_device = row.get("accuracy_device")
    return float(row["accuracy"] if on_device is None else on_device)
