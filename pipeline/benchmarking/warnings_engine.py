"""Warnings about the runs of one engine: noise, scatter, drift, counts, fallbacks, wrong outputs."""

from __future__ import annotations

import collections
import math
import statistics
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from pipeline.benchmarking.conditions import Run, Runs
from pipeline.benchmarking.results import latency_ns, steady_samples_ms, with_stable_outputs
from pipeline.benchmarking.statistics import LICENCE, percentile
from pipeline.benchmarking.warnings import Caution, Severity
from targets.words import counted

_PRESSURE_PERCENT: Final = 5.0  # W-NOISY-CPU: PSI some > 5 %
_STEAL_PERCENT: Final = 1.0  # W-NOISY-CPU: steal > 1 %
_SWITCHES_PER_S: Final = 10.0  # W-NOISY-CPU: involuntary switches > 10/s
_CPU_SHARE: Final = 0.9  # W-NOISY-CPU: CPU time / loop wall much below 1
_BETWEEN_SAMPLES: Final = 1.1  # W-NOISY-CPU: loop wall / sum of samples, stalls between samples
_NOTE_IQR: Final = 0.10  # W-DISPERSION: IQR / median > 10 % (torch's lines)
_WARN_IQR: Final = 0.25  # W-DISPERSION: > 25 %
_OVERHEAD_FACTOR: Final = 50  # W-TIMER: median < 50 x overhead
_RAW_SAMPLE_NS: Final = 1_000_000  # W-TIMER: raw sample < 1 ms
_BETWEEN_FACTOR: Final = 3.0  # W-BETWEEN-PROCESS: sd of medians > 3 x within-process standard error
_BETWEEN_NOTABLE: Final = 0.0005  # below 0.05 % no one is misled
_UNSTEADY_SHARE: Final = 0.25  # W-UNSTEADY: up to a quarter of the processes is a note
_VOID_SHARE: Final = 2 / 3  # more than two thirds without a steady state: there is no latency to speak of
_MEDIAN_ERROR: Final = 1.2533  # standard error of a median / that of a mean, normal samples: sqrt(pi / 2)
_MAD_TO_SIGMA: Final = 1.4826
_TICKS_PER_S: Final = 100  # USER_HZ, the unit of /proc/stat on every Linux
_BACK_TO_BACK: Final = frozenset({"latency", "sustained"})


def engine_warnings(name: str, runs: Runs, engine: Mapping[str, Any], *, cores: int | None) -> list[Caution]:
    """Warnings about one engine.

    Args:
        name: The engine.
        runs: Its rows that count.
        engine: What it is: ``options``, ``placement``, ``placed_on_device``, ``subnormal_weights``.
        cores: CPUs of the device; None when not known.
    """
    timed = [run for run in runs if run.get("scenario") != "cold"]
    found = [_outputs(name, runs), _elsewhere(name, engine), _fallback(name, runs, engine)]
    found += [_subnormal(name, engine), _swap(name, runs)]
    if timed:
        threads = int((engine.get("options") or {}).get("threads") or 1)
        noisy = _noisy(name, timed, threads, cores)
        found += [noisy, _dispersion(name, timed), _unsteady(name, timed, disturbed=noisy is not None)]
        found += [_between(name, timed), _timer(name, timed), _few(name, timed)]
    return [item for item in found if item is not None]


def _noisy(name: str, runs: Runs, threads: int, cores: int | None) -> Caution | None:
    pressure = max((run.get("psi_after") or 0.0 for run in runs), default=0.0)
    switches = statistics.median((run.get("invol_ctx") or 0) / _wall_s(run) for run in runs)
    stolen_s = statistics.median((run.get("steal_ticks") or 0) / _TICKS_PER_S / _wall_s(run) for run in runs)
    steal = 100 * stolen_s / cores if cores else 0.0
    evidence = []
    if pressure > _PRESSURE_PERCENT:
        evidence.append(f"CPU pressure up to {pressure:.0f} %")
    if steal > _STEAL_PERCENT:
        evidence.append(f"{steal:.1f} % of the time stolen by the hypervisor")
    if switches > _SWITCHES_PER_S:
        evidence.append(f"{switches:.0f} involuntary switches/s")
    busy = [run for run in runs if (run.get("scenario") or "latency") in _BACK_TO_BACK]
    if busy:
        evidence += _stalls(busy, threads)
    if not evidence:
        return None
    return Caution(
        code="W-NOISY-CPU", severity="warning", engine=name, text="other work used the CPU while it was measured",
        evidence=", ".join(evidence), fix="stop other work on the device and measure again",
    )  # fmt: skip


def _stalls(runs: Runs, threads: int) -> list[str]:
    """Time lost in samples or, under a CPU quota, between them: wall time, CPU time and sum of samples side by side."""
    share = statistics.median(run["cpu_ns"] / run["loop_wall_ns"] for run in runs)
    between = statistics.median(run["loop_wall_ns"] / max(1, run["samples_sum_ns"]) for run in runs)
    found = [f"{share:.0%} of the time on a CPU"] if share < _CPU_SHARE and threads == 1 else []
    return found + ([f"{between - 1:.0%} of the time between samples"] if between > _BETWEEN_SAMPLES else [])


def _dispersion(name: str, runs: Runs) -> Caution | None:
    ratio = statistics.median(run["iqr_ns"] / max(1, run["median_ns"]) for run in runs)
    if ratio <= _NOTE_IQR:
        return None
    return Caution(
        code="W-DISPERSION", severity="warning" if ratio > _WARN_IQR else "note", engine=name,
        text="single inferences scatter widely", evidence=f"inter-quartile range {ratio:.0%} of the median",
        fix="look for frequency changes and other work on the device",
    )  # fmt: skip


def _unsteady(name: str, runs: Runs, *, disturbed: bool) -> Caution | None:
    """Levels that keep changing void a latency, unless others on the CPU explain them.

    Then it is the scatter between processes that tells what the latency is worth, and the interval holds that.
    """
    kinds = collections.Counter(run["class"] for run in runs if run.get("class"))
    known, unsteady = kinds.total(), kinds.total() - kinds["flat"]
    if not unsteady:
        return None
    severity: Severity = "warning" if unsteady > _UNSTEADY_SHARE * known else "note"
    text = "some processes were not steady: their latency changes level while it is timed"
    if kinds["no_steady_state"] > _VOID_SHARE * known and not disturbed:
        severity, text = "void", "no steady state: the latency keeps changing level while it is timed"
    del kinds["flat"]
    return Caution(
        code="W-UNSTEADY", severity=severity, engine=name, text=text,
        evidence=f"of {known} processes: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()),
        fix="stop other work, cool the device; give a larger budget_s for a longer warm-up",
    )  # fmt: skip


def _between(name: str, runs: Runs) -> Caution | None:
    if len(runs) < 3:  # noqa: PLR2004 - a spread of two says nothing
        return None
    medians = [latency_ns(run) for run in runs]
    between = statistics.stdev(medians)
    within = statistics.median(_MEDIAN_ERROR * _MAD_TO_SIGMA * run["mad_ns"] / math.sqrt(run["n"]) for run in runs)
    if between <= _BETWEEN_FACTOR * within or between <= _BETWEEN_NOTABLE * statistics.median(medians):
        return None
    return Caution(
        code="W-BETWEEN-PROCESS", severity="note", engine=name,
        text="processes differ more than their iterations explain (layout, contention); the interval covers it",
        evidence=f"sd of process medians {between / 1e3:.1f} us, expected {within / 1e3:.1f} us",
        fix="measure more blocks",
    )  # fmt: skip


def _timer(name: str, runs: Runs) -> Caution | None:
    inner = max(run["inner_loops"] for run in runs)
    sample_ns = statistics.median(run["median_ns"] * run["inner_loops"] for run in runs)
    too_short = any(
        run.get("overhead_ns") and run["median_ns"] * run["inner_loops"] < _OVERHEAD_FACTOR * run["overhead_ns"]
        for run in runs
    )
    if inner == 1 and not too_short:
        return None
    weak = too_short or (inner > 1 and sample_ns < _RAW_SAMPLE_NS / 2)  # the inner loop aims at 1 ms
    evidence = f"{inner} calls in a sample of {sample_ns / 1e3:.0f} us" if inner > 1 else f"{sample_ns:.0f} ns a call"
    return Caution(
        code="W-TIMER", severity="warning" if weak else "note", engine=name,
        text="one inference is too short for the clock", evidence=evidence,
        fix="read percentiles as those of batches of calls",
    )  # fmt: skip


def _few(name: str, runs: Runs) -> Caution | None:
    """p99 without a licence; p99.9 is for mode rigorous and is not missed otherwise."""
    samples = np.concatenate([steady_samples_ms(run) for run in runs])
    reason = percentile("p99", samples, statistics.fmean(run.get("rho1") or 0.0 for run in runs)).reason
    if reason is None:
        return None
    return Caution(
        code="W-P99", severity="note", engine=name, text=f"too few inferences for p99 (it takes {LICENCE['p99'][1]})",
        evidence=reason, fix="measure more blocks: raise budget_s",
    )  # fmt: skip


def _fallback(name: str, runs: Runs, engine: Mapping[str, Any]) -> Caution | None:
    """Providers asked for that did not start, and nodes placed on another than the first one asked for."""
    asked = list((engine.get("options") or {}).get("providers") or ())
    if not asked:
        return None
    started = [set(run["providers"]) for run in runs if run.get("providers")]
    missing = [provider for provider in asked if any(provider not in providers for providers in started)]
    elsewhere = {ep: n for ep, n in (engine.get("placement") or {}).items() if ep != asked[0] and n}
    if not missing and not elsewhere:
        return None
    evidence = [f"{provider} did not start" for provider in missing]
    evidence += [f"{counted(n, 'node')} on {ep}, {asked[0]} was asked for" for ep, n in sorted(elsewhere.items())]
    return Caution(
        code="W-FALLBACK", severity="warning", engine=name, text="part of the model runs elsewhere than asked",
        evidence=", ".join(evidence), fix="install what the provider needs, or ask for the one that really runs",
    )  # fmt: skip


def _elsewhere(name: str, engine: Mapping[str, Any]) -> Caution | None:
    """What the device itself saw of convolutions and products that are not where they were to be."""
    lines = (engine.get("placed_on_device") or {}).get("warnings") or ()
    if not lines:
        return None
    return Caution(
        code="W-ENGINE", severity="warning", engine=name, text="the engine is partly not what was asked for",
        evidence="; ".join(lines), fix="quantise for that provider, or ask for the one that really computes",
    )  # fmt: skip


def _subnormal(name: str, engine: Mapping[str, Any]) -> Caution | None:
    count = int(engine.get("subnormal_weights") or 0)
    if not count:
        return None
    flushed = (engine.get("options") or {}).get("denormal_as_zero") is True
    return Caution(
        code="W-SUBNORMAL", severity="note" if flushed else "warning", engine=name,
        text="constants hold subnormal numbers" + ("" if flushed else ", which slow it down"),
        evidence=f"{counted(count, 'value')}, treated as zero: {'yes' if flushed else 'no'}",
        fix="keep denormal_as_zero = true in the profile's [engine]",
    )  # fmt: skip


def _swap(name: str, runs: Runs) -> Caution | None:
    most = max((run.get("swap_bytes") or 0 for run in runs), default=0)
    if not most:
        return None
    return Caution(
        code="W-MEM-SWAP", severity="warning", engine=name,
        text="the process was partly in swap: latency and memory are too good or too bad",
        evidence=f"up to {most / 1e6:.1f} MB swapped out", fix="free memory on the device and measure again",
    )  # fmt: skip


def _outputs(name: str, runs: Runs) -> Caution | None:
    wrong = sum(run.get("outputs_ok") is False for run in with_stable_outputs(runs))
    if not wrong:
        return None
    return Caution(
        code="W-OUTPUT", severity="void", engine=name, text="outputs of timed inferences are not what they should be",
        evidence=f"{wrong} of {len(runs)} processes", fix="run `verify` on the bundle on this device",
    )  # fmt: skip


def _wall_s(run: Run) -> float:
    return max(1.0, float(run["loop_wall_ns"])) / 1e9
