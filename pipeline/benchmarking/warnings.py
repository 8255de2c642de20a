"""Coded warnings: what about the conditions makes the numbers weaker, with the evidence and how to mend it."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PRESSURE_PERCENT: Final = 5.0
_SWITCHES_PER_S: Final = 10.0
_CPU_SHARE: Final = 0.9
_NOTE_IQR: Final = 0.10
_WARN_IQR: Final = 0.25
_DRIFT: Final = 0.05
_FEW_BLOCKS: Final = 7
_FEW_SAMPLES: Final = 16
_BETWEEN_FACTOR: Final = 3.0
_MEDIAN_ERROR: Final = 1.2533  # standard error of a median / that of a mean, normal samples: sqrt(pi / 2)
_MAD_TO_SIGMA: Final = 1.4826


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
    severity: Literal["note", "warning", "void"]
    engine: str | None
    text: str
    evidence: str
    fix: str

    def to_json(self) -> dict[str, object]:
        """The warning as plain data."""
        return asdict(self)


def device_warnings(facts: Mapping[str, Any], *, blocks: int, n_distinct: int) -> list[Caution]:
    """Warnings about the device and the campaign as a whole.

    Args:
        facts: What the device program says of the device.
        blocks: Complete blocks.
        n_distinct: Distinct samples in rotation.
    """
    found = []
    if facts.get("virtualised"):
        found.append(_all(
            "W-VIRTUAL", "note", "the CPU is virtual: absolute latency is that of a share of a host",
            "hypervisor flag set", "measure on the board itself before relying on absolute numbers",
        ))  # fmt: skip
    if facts.get("governor") not in {None, "performance"}:
        found.append(_all(
            "W-GOVERNOR", "note", "the CPU frequency is not fixed", f"governor {facts['governor']}",
            "sudo cpupower frequency-set -g performance",
        ))  # fmt: skip
    if blocks < _FEW_BLOCKS:
        found.append(_all(
            "W-FEW", "warning", "few blocks: screening only", f"{blocks} blocks, {_FEW_BLOCKS} are the rule",
            "raise budget_s in the recipe's [benchmark]",
        ))  # fmt: skip
    if n_distinct < _FEW_SAMPLES:
        found.append(_all(
            "W-SAME-INPUT", "note", "few distinct samples: caches may flatter the latency",
            f"{n_distinct} samples, {_FEW_SAMPLES} are the rule", "give more samples",
        ))  # fmt: skip
    return found


def engine_warnings(name: str, runs: Sequence[Mapping[str, Any]], *, threads: int, subnormal: int) -> list[Caution]:
    """Warnings about one engine's runs.

    Args:
        name: The engine.
        runs: Its rows of ``runs``, complete blocks only.
        threads: Threads the engine uses.
        subnormal: Subnormal constants in it.
    """
    found = [
        _noisy(name, runs, threads), _dispersion(name, runs), _unsteady(name, runs), _between(name, runs),
        _outputs(name, runs),
    ]  # fmt: skip
    if any(run["inner_loops"] > 1 for run in runs):
        evidence = f"{max(run['inner_loops'] for run in runs)} calls in a sample"
        found.append(Caution(
            code="W-TIMER", severity="note", engine=name, text="one inference is too short for the clock",
            evidence=evidence, fix="read percentiles as those of batches of calls",
        ))  # fmt: skip
    if subnormal:
        found.append(Caution(
            code="W-SUBNORMAL", severity="note", engine=name, text="constants hold subnormal numbers",
            evidence=f"{subnormal} values", fix="keep denormal_as_zero = true in the profile's [engine]",
        ))  # fmt: skip
    return [item for item in found if item is not None]


def _noisy(name: str, runs: Sequence[Mapping[str, Any]], threads: int) -> Caution | None:
    pressure = max((run["psi_after"] or 0.0 for run in runs), default=0.0)
    switches = statistics.median((run["invol_ctx"] or 0) / (run["loop_wall_ns"] / 1e9) for run in runs)
    share = statistics.median(run["cpu_ns"] / run["loop_wall_ns"] for run in runs) / threads
    starved = share < _CPU_SHARE and threads == 1
    if pressure <= _PRESSURE_PERCENT and switches <= _SWITCHES_PER_S and not starved:
        return None
    return Caution(
        code="W-NOISY-CPU", severity="warning", engine=name, text="other work used the CPU while it was measured",
        evidence=f"CPU pressure up to {pressure:.0f} %, {switches:.0f} involuntary switches/s, "
        f"{share:.0%} of the time on a CPU",
        fix="stop other work on the device and measure again",
    )  # fmt: skip


def _dispersion(name: str, runs: Sequence[Mapping[str, Any]]) -> Caution | None:
    ratio = statistics.median(run["iqr_ns"] / max(1, run["median_ns"]) for run in runs)
    if ratio <= _NOTE_IQR:
        return None
    return Caution(
        code="W-DISPERSION", severity="warning" if ratio > _WARN_IQR else "note", engine=name,
        text="single inferences scatter widely", evidence=f"inter-quartile range {ratio:.0%} of the median",
        fix="look for frequency changes and other work on the device",
    )  # fmt: skip


def _unsteady(name: str, runs: Sequence[Mapping[str, Any]]) -> Caution | None:
    drift = statistics.median(run["drift_ratio"] for run in runs)
    if abs(math.log(max(drift, 1e-9))) <= math.log1p(_DRIFT):
        return None
    return Caution(
        code="W-UNSTEADY", severity="warning", engine=name, text="the latency drifts inside a process",
        evidence=f"last third / first third = {drift:.2f}",
        fix="raise budget_s in the recipe's [benchmark] for a longer warm-up; check cooling",
    )  # fmt: skip


def _between(name: str, runs: Sequence[Mapping[str, Any]]) -> Caution | None:
    if len(runs) < 3:  # noqa: PLR2004 - a spread of two says nothing
        return None
    between = statistics.stdev(run["median_ns"] for run in runs)
    within = statistics.median(_MEDIAN_ERROR * _MAD_TO_SIGMA * run["mad_ns"] / math.sqrt(run["n"]) for run in runs)
    if between <= _BETWEEN_FACTOR * within:
        return None
    return Caution(
        code="W-BETWEEN-PROCESS", severity="note", engine=name,
        text="processes differ more than their iterations explain (layout, contention); the interval covers it",
        evidence=f"sd of process medians {between / 1e3:.1f} us, expected {within / 1e3:.1f} us",
        fix="measure more blocks",
    )  # fmt: skip


def _outputs(name: str, runs: Sequence[Mapping[str, Any]]) -> Caution | None:
    wrong = sum(run["outputs_ok"] is False for run in runs)
    if not wrong:
        return None
    return Caution(
        code="W-OUTPUT", severity="void", engine=name, text="outputs of timed inferences are not what they should be",
        evidence=f"{wrong} of {len(runs)} processes", fix="run `verify` on the bundle on this device",
    )  # fmt: skip


def _all(code: str, severity: Literal["note", "warning", "void"], text: str, evidence: str, fix: str) -> Caution:
    return Caution(code=code, severity=severity, engine=None, text=text, evidence=evidence, fix=fix)
