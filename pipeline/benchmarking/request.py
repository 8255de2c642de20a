"""What a campaign is asked to do: which engines, in which scenario, for how long; checked before anything runs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from pipeline.benchmarking.modes import Mode, ModeName, mode_named
from targets.errors import Fault, faults_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

ScenarioKind = Literal["latency", "paced", "throughput", "sustained", "cold"]

TWIN: Final = "A/A"
"""The name of the first engine when it runs a second time, to learn how much an engine differs from itself."""
SUSTAINED_S: Final = 600.0
_KINDS: Final = ("latency", "paced", "throughput", "sustained", "cold")
_SHORTEST_PERIOD_MS: Final = 0.01  # as the device program takes them
_LONGEST_PERIOD_MS: Final = 60_000.0
_MOST_STREAMS: Final = 256
_LARGEST_BATCH: Final = 65_536
_START_S: Final = 5.0  # load and start of a process of a sustained run, allowed for in its budget
_AFFINITY: Final = re.compile(r"default|big|little|\d+(-\d+)?(,\d+(-\d+)?)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of an engine beside its latency.

    Attributes:
        accuracy: Of its answers.
        size_bytes: Of its file; 0 for all where no decision looks at it.
        memory_counts: Whether a decision looks at the memory it takes.
        may_leave: Whether it may be measured in fewer blocks once it cannot win (`elimination`).
    """

    accuracy: float
    size_bytes: int
    memory_counts: bool
    may_leave: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """One engine in a campaign.

    Attributes:
        name: How results call it; unique.
        folder: Engine folder: engine.json, the engine file, inspect.json.
        samples: An .npz of real preprocessed samples, ``(samples, ...)``, named like the inputs (or ``input.<name>``).
        expected: An .npz of the outputs (``output.<name>``) it must give for them; None checks only that they are
            finite and the same in every process.
        standing: What a decision looks at beside latency; None: it is measured to the end whatever others do.
    """

    name: str
    folder: Path
    samples: Path
    expected: Path | None = None
    standing: Standing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How inferences are asked for.

    Attributes:
        kind: ``latency`` back to back, ``paced`` at a fixed period, ``throughput`` over batch and concurrency,
            ``sustained`` for minutes, ``cold`` load and first inference.
        period_ms: Time between scheduled inferences (paced).
        batch: Samples of an inference (throughput).
        concurrency: Inferences in flight (throughput).
        duration_s: Length of a sustained run, 600 s when None.
    """

    kind: ScenarioKind = "latency"
    period_ms: float | None = None
    batch: int = 1
    concurrency: int = 1
    duration_s: float | None = None

    @property
    def sustained_s(self) -> float:
        """How long a sustained run takes."""
        return SUSTAINED_S if self.duration_s is None else self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignOptions:
    """How a campaign is run.

    Attributes:
        budget_s: Wall clock from holding the device to the end of the last process.
        seed: Of the order of engines within blocks.
        mode: How thorough.
        scenario: What is measured.
        affinity: CPUs to use: ``default``, ``big``, ``little`` or a list such as ``0,2-3``.
        memory_limit_mb: Address space of a process on the device; None for no limit.
    """

    budget_s: float = 60.0
    seed: int = 0
    mode: ModeName = "default"
    scenario: Scenario = Scenario()
    affinity: str = "default"
    memory_limit_mb: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What a campaign is doing: which engine of which block, and how much of the budget is used."""

    block: int
    engine: str
    elapsed_s: float
    budget_s: float


def check_request(entrants: Sequence[Entrant], options: CampaignOptions) -> Mode:
    """The mode asked for, when all else is possible.

    Raises:
        InputError: With every fault: no engine, names that clash, a scenario that lacks something, a budget that
            cannot hold what was asked for.
        UsageError: There is no such mode.
    """
    mode = mode_named(options.mode)
    faults = [*_name_faults(entrants), *_scenario_faults(options.scenario), *_option_faults(options)]
    if not faults:
        faults = list(_budget_faults(len(entrants), options, mode))
    if faults:
        raise faults_error("the campaign", faults)
    return mode


def _name_faults(entrants: Sequence[Entrant]) -> Iterator[Fault]:
    if not entrants:
        yield Fault(where="engines", what="there is nothing to measure", fix="give at least one engine")
    names = [entrant.name for entrant in entrants]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Fault(where="engines", what=f"two are named {name!r}", fix="give each engine its own name")
    for name in names:
        if not name or name == TWIN:
            yield Fault(where="engines", what=f"{name!r} cannot be a name here", fix="name the engine otherwise")


def _scenario_faults(scenario: Scenario) -> Iterator[Fault]:
    if scenario.kind not in _KINDS:
        yield Fault(where="scenario.kind", what=f"{scenario.kind!r} is none of them", fix=f"one of {', '.join(_KINDS)}")
    for key, value, kind in (
        ("period_ms", scenario.period_ms, "paced"),
        ("duration_s", scenario.duration_s, "sustained"),
    ):
        if value is not None and scenario.kind != kind:
            yield Fault(where=f"scenario.{key}", what=f"{scenario.kind} has none", fix=f"leave it out, or use {kind}")
        elif value is not None and not (math.isfinite(value) and value > 0):
            yield Fault(where=f"scenario.{key}", what=f"{value} is no length of time", fix="give a number above 0")
    yield from _period_faults(scenario.period_ms)
    if scenario.kind == "paced" and scenario.period_ms is None:
        yield Fault(where="scenario.period_ms", what="paced needs a period", fix="give one, e.g. 33.3 for 30 a second")
    for key, count, most in (
        ("batch", scenario.batch, _LARGEST_BATCH),
        ("concurrency", scenario.concurrency, _MOST_STREAMS),
    ):
        if count < 1:
            yield Fault(where=f"scenario.{key}", what=f"{count} is not at least 1", fix="give 1 or more")
        elif count > most:
            yield Fault(where=f"scenario.{key}", what=f"{count} is out of reach", fix=f"give {most} or less")
        elif count > 1 and scenario.kind != "throughput":
            yield Fault(
                where=f"scenario.{key}", what=f"{scenario.kind} has none", fix="leave it out, or use throughput"
            )


def _period_faults(period_ms: float | None) -> Iterator[Fault]:
    if period_ms is not None and period_ms > 0 and not _SHORTEST_PERIOD_MS <= period_ms <= _LONGEST_PERIOD_MS:
        yield Fault(
            where="scenario.period_ms",
            what=f"{period_ms:g} is out of reach",
            fix=f"give {_SHORTEST_PERIOD_MS:g} to {_LONGEST_PERIOD_MS:g} ms",
        )


def _option_faults(options: CampaignOptions) -> Iterator[Fault]:
    if not (math.isfinite(options.budget_s) and options.budget_s > 0):
        yield Fault(where="budget_s", what=f"{options.budget_s} is no length of time", fix="give a number above 0")
    if not _AFFINITY.fullmatch(options.affinity):
        yield Fault(
            where="affinity",
            what=f"{options.affinity!r} names no CPUs",
            fix="default, big, little, or a list such as 0,2-3",
        )
    if options.memory_limit_mb is not None and options.memory_limit_mb < 1:
        yield Fault(where="memory_limit_mb", what=f"{options.memory_limit_mb} is no size", fix="give 1 or more")


def _budget_faults(engines: int, options: CampaignOptions, mode: Mode) -> Iterator[Fault]:
    """Long measurements are never cut short silently: a budget that cannot hold them is refused."""
    scenario = options.scenario
    if scenario.kind == "sustained":
        need_s = engines * (scenario.sustained_s + _START_S) + _START_S
        if options.budget_s < need_s:
            yield Fault(
                where="budget_s",
                what=f"{options.budget_s:g} s do not hold {engines} sustained runs of {scenario.sustained_s:g} s",
                fix=f"set budget_s to at least {math.ceil(need_s)}, or a shorter duration_s",
            )
    elif mode.name == "rigorous" and scenario.kind != "cold":
        runs = engines + (scenario.kind == "latency")
        need_s = mode.looks[0] * runs * (mode.warmup_s + mode.timed_s)
        if options.budget_s < need_s:
            yield Fault(
                where="budget_s",
                what=f"{options.budget_s:g} s do not hold the {mode.looks[0]} blocks of mode rigorous",
                fix=f"set budget_s to at least {math.ceil(1.2 * need_s)}, or use mode default",
            )
