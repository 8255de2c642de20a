"""Warnings about the device and the campaign as a whole; thresholds stand with the code they belong to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.benchmarking.conditions import CampaignFacts, Runs
from pipeline.benchmarking.warnings import Caution, Severity
from targets.words import counted

_NOTABLE_CV: Final = 0.025  # W-GOVERNOR, W-TURBO inform only, unless CV > 2.5 % (trtexec's line)
_IQR_TO_SIGMA: Final = 1.349
_FEW_BLOCKS: Final = 7  # W-FEW: blocks of mode default
_FEW_SAMPLES: Final = 16  # W-SAME-INPUT: distinct samples in rotation
_CLOCK_STEP_S: Final = 0.5  # W-CLOCK: more than a time daemon slews in a campaign
_GPU_WORDS: Final = ("cuda", "tensorrt", "rtx")


def device_warnings(
    runs: Mapping[str, Runs],
    engines: Mapping[str, Mapping[str, Any]],
    facts: Mapping[str, Any],
    campaign: CampaignFacts,
) -> list[Caution]:
    """Warnings that concern all engines alike; see `warnings.campaign_warnings`."""
    return [
        *_machine(facts),
        *_clocks(runs, facts),
        *_power(facts),
        *_gpu(engines, facts),
        *_sitting(runs, facts, campaign),
        *_inputs(runs, engines, campaign),
    ]


def _machine(facts: Mapping[str, Any]) -> Iterator[Caution]:
    if facts.get("emulated"):
        yield _all(
            "W-QEMU", "void", "the CPU is emulated: a functional check only, its latency means nothing",
            "the device runs in an emulator", "measure on the board itself",
        )  # fmt: skip
    elif facts.get("virtualised") or facts.get("wsl"):
        yield _all(
            "W-VIRTUAL", "note", "the CPU is virtual: absolute latency is that of a share of a host",
            "Windows Subsystem for Linux" if facts.get("wsl") else "a hypervisor is below",
            "measure on the board itself before relying on absolute numbers",
        )  # fmt: skip
    if facts.get("sys_root") not in {None, "/"}:
        yield _all(
            "W-SIMULATED", "warning", "what the device says of itself was read from a copy of /proc and /sys",
            f"sys_root {facts['sys_root']}", "measure without --sys-root",
        )  # fmt: skip


def _clocks(runs: Mapping[str, Runs], facts: Mapping[str, Any]) -> Iterator[Caution]:
    cv = max(_scatter(rows) for rows in runs.values())
    severity: Severity = "warning" if cv > _NOTABLE_CV else "note"
    governor = facts.get("governor")
    if governor not in {None, "performance"}:
        yield _all(
            "W-GOVERNOR", severity, "the CPU frequency is not fixed",
            f"governor {governor}, single inferences scatter by {cv:.1%}",
            "sudo cpupower frequency-set -g performance",
        )  # fmt: skip
    if facts.get("no_turbo") is False:
        yield _all(
            "W-TURBO", severity, "turbo frequencies are on: the clock depends on temperature and on other cores",
            f"turbo is on, single inferences scatter by {cv:.1%}",
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo "
            "(or 0 into /sys/devices/system/cpu/cpufreq/boost)",
        )  # fmt: skip


def _power(facts: Mapping[str, Any]) -> Iterator[Caution]:
    if facts.get("charging"):
        yield _all(
            "W-CHARGING", "note", "the battery is being charged: it heats the device, and its gauge shows no use",
            f"battery at {facts.get('battery_pct', '?')} %", "charge it fully before measuring",
        )  # fmt: skip


def _gpu(engines: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> Iterator[Caution]:
    """Only where an engine uses a GPU; none of ours runs while facts are read."""
    used = [str(item).lower() for engine in engines.values() for item in (*_providers(engine), engine.get("runtime"))]
    if not any(word in name for name in used for word in _GPU_WORDS):
        return
    readings = [*(facts.get("gpu") or ()), *((facts.get("at_end") or {}).get("gpu") or ())]
    others = max((gpu.get("compute_processes") or 0 for gpu in readings), default=0)
    if others:
        yield _all(
            "W-GPU-SHARED", "warning", "other programs use the GPU",
            f"computing on it: {counted(others, 'other process', 'other processes')}",
            "stop them (nvidia-smi lists them) and measure again",
        )  # fmt: skip


def _sitting(runs: Mapping[str, Runs], facts: Mapping[str, Any], campaign: CampaignFacts) -> Iterator[Caution]:
    blocks = min(len(rows) for name, rows in runs.items() if name not in campaign.left_out)
    if blocks < _FEW_BLOCKS and campaign.scenario_kind != "sustained":
        quick = campaign.mode == "quick"
        yield _all(
            "W-FEW", "warning", "few blocks: screening only", f"{counted(blocks, 'block')}, {_FEW_BLOCKS} are the rule",
            "measure in mode default" if quick else "raise budget_s",
        )  # fmt: skip
    for name, why in campaign.left_out.items():
        yield Caution(
            code="W-LEFT-OUT", severity="note", engine=name,
            text="measured in fewer blocks than others, for it could not win", evidence=why,
            fix="raise budget_s to measure it as long as the others",
        )  # fmt: skip
    if campaign.resumed_blocks:
        yield _all(
            "W-RESUMED", "note", "an interrupted campaign was continued: its blocks are of two sittings",
            f"{campaign.resumed_blocks} of {blocks} blocks are from before", "measure again if conditions have changed",
        )  # fmt: skip
    step_s = clock_step_s(facts)
    if step_s is not None and abs(step_s) > _CLOCK_STEP_S:
        yield _all(
            "W-CLOCK", "note", "the device's wall clock was set meanwhile; latencies use another clock and are right",
            f"by {step_s:+.1f} s", "nothing to do, but do not join these times with logs of the device",
        )  # fmt: skip


def _inputs(
    runs: Mapping[str, Runs], engines: Mapping[str, Mapping[str, Any]], campaign: CampaignFacts
) -> Iterator[Caution]:
    n_distinct = min(run["n_distinct"] for rows in runs.values() for run in rows)
    if n_distinct < _FEW_SAMPLES:
        yield _all(
            "W-SAME-INPUT", "note", "few distinct samples: caches may flatter the latency",
            f"{counted(n_distinct, 'sample')}, {_FEW_SAMPLES} are the rule", "give more samples",
        )  # fmt: skip
    if campaign.inputs_source == "random":
        yield _all(
            "W-RANDOM-INPUT", "warning", "the inputs are random: data-dependent work takes another time",
            "inputs.source is random", "give real preprocessed samples with --samples",
        )  # fmt: skip
    digests = {name: str(engine["inputs_sha256"])[:8] for name, engine in engines.items() if "inputs_sha256" in engine}
    if len(set(digests.values())) > 1:
        yield _all(
            "W-OTHER-INPUT", "warning", "the engines were timed on different samples: a difference may be theirs",
            ", ".join(f"{name}: {digest}" for name, digest in digests.items()),
            "give all of them the same samples with --samples",
        )  # fmt: skip


def clock_step_s(facts: Mapping[str, Any]) -> float | None:
    """How far the wall clock was set between the two readings of facts; None where there are not two."""
    clocks = [facts.get("clock"), (facts.get("at_end") or {}).get("clock")]
    offsets = [clock["realtime_s"] - clock["monotonic_s"] for clock in clocks if clock]
    return float(offsets[1] - offsets[0]) if len(offsets) == len(clocks) else None


def _scatter(runs: Runs) -> float:
    """Coefficient of variation within processes, from the inter-quartile range: single outliers do not count."""
    return float(statistics.median(run["iqr_ns"] / _IQR_TO_SIGMA / max(1, run["median_ns"]) for run in runs))


def _providers(engine: Mapping[str, Any]) -> list[str]:
    return list((engine.get("options") or {}).get("providers") or ())


def _all(code: str, severity: Severity, text: str, evidence: str, fix: str) -> Caution:
    return Caution(code=code, severity=severity, engine=None, text=text, evidence=evidence, fix=fix)
