"""The parts of ``run.json`` that hold measured values: intervals, comparisons, samples over time."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

LAYOUT: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)
"""Frozen, strict about names, finite."""


class _Data(BaseModel):
    model_config = LAYOUT


class Interval(_Data):
    """A measured value.

    Attributes:
        value: The estimate.
        ci95: Its 95 % confidence interval, low and high; None when it has none.
        k: Number of blocks (fresh processes) behind it.
    """

    value: float
    ci95: tuple[float, float] | None = None
    k: int | None = None


class Comparison(_Data):
    """A candidate against the reference, from interleaved blocks of one campaign.

    Attributes:
        reference: Name of the other candidate.
        ratio: Reference latency / own latency: 2.0 is twice as fast.
        ci95: Its 95 % confidence interval.
        verdict: ``faster``, ``faster, by little``, ``same``, ``slower``, ``not shown``.
    """

    reference: str = "the reference"
    ratio: float
    ci95: tuple[float, float] | None = None
    verdict: str = ""


class Process(_Data):
    """Single inferences of one measured process, in order.

    Attributes:
        block: The block it ran in.
        ms: Their latencies, thinned.
        temp_c: Hottest the device was meanwhile; None without a sensor.
        freq_mhz: Median CPU frequency meanwhile; None where it is not told.
        throttled: Whether the device slowed itself down meanwhile; None where it does not tell.
    """

    block: int
    ms: tuple[Annotated[float, Field(gt=0)], ...]
    temp_c: float | None = None
    freq_mhz: float | None = None
    throttled: bool | None = None


class Timeline(_Data):
    """One candidate's inferences over the whole campaign.

    Attributes:
        candidate: Its name.
        every: Each shown sample stands for so many.
        processes: In the order they ran.
    """

    candidate: str
    every: Annotated[int, Field(ge=1)] = 1
    processes: tuple[Process, ...] = ()
