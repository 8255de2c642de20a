"""Candidates that are given up before any training: what cheap figures of finished ones have shown to be hopeless."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.search.candidates import Tried

if TYPE_CHECKING:
    from collections.abc import Mapping

WITNESSES: Final = 3
"""So many finished candidates must speak against one before it is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What is known of a candidate before anything is trained.

    Attributes:
        accuracy: Of the cut model as it is, on the validation split.
        macs: Multiply-accumulates of one sample.
        predicted_ms: Latency that the latency table predicts; None without one.
    """

    accuracy: float
    macs: int
    predicted_ms: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"accuracy": self.accuracy, "macs": self.macs, "predicted_ms": self.predicted_ms}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Glance:
        """What `to_json` gave."""
        return cls(accuracy=data["accuracy"], macs=data["macs"], predicted_ms=data.get("predicted_ms"))


def hopeless(glance: Glance, finished: Sequence[tuple[Glance, Tried]]) -> str:
    """Why a candidate is hopeless; empty where it may still win.

    It is, when `WITNESSES` finished candidates were no worse off before training, in accuracy and in work left, and
    missed the accuracy floor all the same: this one was cut as deep or deeper, and starts lower. Or when as many were
    at most as slow by the same table, and missed the latency ceiling.
    """
    below = [
        tried
        for seen, tried in finished
        if seen.accuracy >= glance.accuracy and seen.macs >= glance.macs and _missed(tried, "accuracy_drop")
    ]
    if len(below) >= WITNESSES:
        numbers = _numbers(below)
        return f"cut {glance.accuracy:.4f} accurate; trials {numbers} were no worse, and missed the accuracy floor"
    if glance.predicted_ms is None:
        return ""
    slow = [
        tried
        for seen, tried in finished
        if seen.predicted_ms is not None
        and seen.predicted_ms <= glance.predicted_ms
        and (_missed(tried, "latency_ms") or _missed(tried, "latency_p95_ms"))
    ]
    if len(slow) >= WITNESSES:
        numbers = _numbers(slow)
        return (
            f"{glance.predicted_ms:.4g} ms predicted; trials {numbers} were no slower, and missed the latency ceiling"
        )
    return ""


def _numbers(tried: Sequence[Tried]) -> str:
    """As users count them, from 1."""
    return ", ".join(str(one.number + 1) for one in tried[:WITNESSES])


def _missed(tried: Tried, limit: str) -> bool:
    return any(excess.limit == limit and excess.value is not None for excess in tried.excesses)
