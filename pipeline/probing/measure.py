"""Times the engines of a probe on the machine: one interleaved campaign a net, every engine against the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.probing.prepare import Prepared
from pipeline.probing.trials import Trial

if TYPE_CHECKING:
    from pipeline.benchmarking.request import Progress
    from targets.devices.base import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One engine on one net.

    Attributes:
        latency_ms: Median latency.
        ratio: To the latency of the first engine, paired by block; below 1 is faster.
        low: Lower end of the 95 % interval of that ratio; None where there were too few blocks.
        high: Upper end.
    """

    latency_ms: float
    ratio: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetTimes:
    """A campaign on one net: the time of each trial by name, why others have none, and its grade (A to F)."""

    net: str
    times: Mapping[str, Timing]
    dropped: Mapping[str, str]
    grade: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One trial over all nets.

    Attributes:
        trial: What was tried.
        ratio: Geometric mean of its ratios.
        times: By net.
    """

    trial: Trial
    ratio: float
    times: Mapping[str, Timing]


def time_net(
    prepared: Prepared, device: Device, *, budget_s: float, state: Path | None, on_progress: Callable[[Progress], None]
) -> NetTimes:
    """Measures the engines of one net.

    Raises:
        DeviceError: The device failed, or cannot build or run the first engine.
    """
    from pipeline.benchmarking.campaign import run_campaign
    from pipeline.benchmarking.request import CampaignOptions, Entrant

    entrants = [
        Entrant(name=name, folder=folder, samples=prepared.samples) for name, folder in prepared.engines.items()
    ]
    document = run_campaign(
        entrants,
        device,
        CampaignOptions(budget_s=budget_s),
        state=state,
        required={entrants[0].name},
        on_progress=on_progress,
    )
    unmeasured = {name: f"{item['what']}: {item['why']}" for name, item in document.get("unmeasured", {}).items()}
    return NetTimes(
        net=prepared.net.name,
        times=times_of(document, entrants[0].name),
        dropped={**prepared.dropped, **unmeasured},
        grade=str(document["quality"]["grade"]),
    )


def times_of(document: Mapping[str, Any], first: str) -> dict[str, Timing]:
    """Latency of each engine of a campaign and its ratio to the first; without engines whose outputs were wrong."""
    from pipeline.benchmarking.analysis import find_comparison
    from targets.errors import InputError

    found = {}
    for name, result in document["results"].items():
        latency_ms = float(result["latency_ms"]["value"])
        if name == first:
            found[name] = Timing(latency_ms=latency_ms, ratio=1.0)
            continue
        try:
            compared = find_comparison(dict(document), name, first)
        except InputError:
            continue
        low, high = compared["ci95"] or (None, None)
        found[name] = Timing(latency_ms=latency_ms, ratio=float(compared["ratio"]), low=low, high=high)
    return found


def scores_of(trials: Sequence[Trial], nets: Sequence[NetTimes]) -> tuple[Score, ...]:
    """The trials that have a time on every net, in their order."""
    found = []
    for trial in trials:
        times = {net.net: net.times[trial.name] for net in nets if trial.name in net.times}
        if len(times) == len(nets):
            ratio = math.exp(math.fsum(math.log(timing.ratio) for timing in times.values()) / len(times))
            found.append(Score(trial=trial, ratio=ratio, times=times))
    return tuple(found)
