"""Warnings from whole blocks: a device that was throttled or used by others, by its counters and by the sentinel.

The sentinel is fixed work done before and after a block. Slow by the wall clock but not in CPU time, it waited: others
used the CPU. Slow in CPU time as well, the CPU itself was slower: throttled, or, where the CPU is virtual, a neighbour
on the same core. What a virtual CPU cannot tell apart is never called throttled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.benchmarking.conditions import CampaignFacts, Run, Runs
from pipeline.benchmarking.warnings import Caution

_SENTINEL_SLOW: Final = 1.10  # W-THROTTLE: sentinel > 10 % slow
_FREQUENCY_KEPT: Final = 0.95  # W-THROTTLE: median frequency < 95 % of start
_VOID_SHARE: Final = 0.5  # throttled in more blocks than this, no number is left to trust

_Block = tuple[int, list[Run]]


def block_warnings(runs: Mapping[str, Runs], facts: Mapping[str, Any], campaign: CampaignFacts) -> list[Caution]:
    """Throttling and contention; see `warnings.campaign_warnings`."""
    rows = [run for runs_of in runs.values() for run in runs_of]
    blocks = [
        (number, [run for run in rows if run["block"] == number]) for number in sorted({r["block"] for r in rows})
    ]
    virtual = bool(facts.get("virtualised") or facts.get("emulated"))
    return [
        *_throttled(blocks, facts, campaign, virtual=virtual),
        *_contended(blocks, facts, campaign, virtual=virtual),
        *_warmer(blocks),
    ]


def _throttled(
    blocks: list[_Block], facts: Mapping[str, Any], campaign: CampaignFacts, *, virtual: bool
) -> Iterator[Caution]:
    evidence = []
    for number, rows in blocks:
        found = {text for run in rows for text in _signs(run)}
        _, cpu = _slowness(rows, campaign)
        if cpu > _SENTINEL_SLOW and not virtual:
            found.add(f"the sentinel took {cpu:.2f} times its CPU time")
        if found:
            evidence.append(f"block {number}: {', '.join(sorted(found))}")
    already = sorted(name for name, value in (facts.get("throttle") or {}).items() if name.endswith("_now") and value)
    if not evidence and not already:
        return
    shown = evidence[:3] or [f"before the first block: {', '.join(already)}"]
    more = f"; {len(evidence)} of {len(blocks)} blocks in all" if len(evidence) > len(shown) else ""
    yield Caution(
        code="W-THROTTLE", severity="void" if len(evidence) > _VOID_SHARE * len(blocks) else "warning", engine=None,
        text="the device was throttled: it ran slower than it can", evidence="; ".join(shown) + more,
        fix="cool it, check its power supply, and measure again; or measure what it sustains with --scenario sustained",
    )  # fmt: skip


def _signs(run: Run) -> Iterator[str]:
    """What the samplers saw in one process."""
    telemetry = run.get("telemetry") or {}
    yield from ((telemetry.get("throttle") or {}).get("events") or ())
    for key, what in (("freq_khz", "CPU"), ("gpu_freq_khz", "GPU")):
        clock = telemetry.get(key) or {}
        if clock.get("first") and clock.get("median") and clock["median"] < _FREQUENCY_KEPT * clock["first"]:
            yield f"the {what} clock fell to {clock['median'] / clock['first']:.0%} of its start"


def _contended(
    blocks: list[_Block], facts: Mapping[str, Any], campaign: CampaignFacts, *, virtual: bool
) -> Iterator[Caution]:
    evidence = []
    for number, rows in blocks:
        wall, cpu = _slowness(rows, campaign)
        if wall > _SENTINEL_SLOW and (virtual or cpu <= _SENTINEL_SLOW):
            evidence.append(
                f"block {number}: the sentinel took {wall:.2f} times its time, {cpu:.2f} times its CPU time"
            )
    before, after = facts.get("cgroup_nr_throttled"), (facts.get("at_end") or {}).get("cgroup_nr_throttled")
    if before is not None and after is not None and after > before:
        evidence.insert(0, f"a CPU quota ({facts.get('cgroup_cpu_max')}) stopped processes {after - before} times")
    if not evidence:
        return
    more = f"; {len(evidence)} findings in all" if len(evidence) > 3 else ""  # noqa: PLR2004 - lines worth reading
    yield Caution(
        code="W-NOISY-CPU", severity="warning", engine=None, text="other work used the CPU while it was measured",
        evidence="; ".join(evidence[:3]) + more,
        fix="stop other work on the device, or lift its CPU quota, and measure again",
    )  # fmt: skip


def _warmer(blocks: list[_Block]) -> Iterator[Caution]:
    above = {number: max(run.get("warmer_by_c") or 0.0 for run in rows) for number, rows in blocks}
    warm = {number: degrees for number, degrees in above.items() if degrees}
    if not warm:
        return
    hottest = max(warm, key=lambda number: warm[number])
    yield Caution(
        code="W-WARM", severity="warning", engine=None, text="blocks began on a warmer device than the first one did",
        evidence=f"{len(warm)} of {len(blocks)} blocks; block {hottest} by {warm[hottest]:.1f} degrees C",
        fix="cool the device, let it warm up before, or measure what it sustains with --scenario sustained",
    )  # fmt: skip


def _slowness(rows: list[Run], campaign: CampaignFacts) -> tuple[float, float]:
    """The slowest pass of a block's sentinel against the reference: by the wall clock, and in CPU time; 1 without."""
    reference = campaign.sentinel_reference
    if not reference:
        return 1.0, 1.0
    passes = [item for run in rows for item in (run.get("sentinel") or {}).values() if item]
    wall, cpu = (
        max((item[key] / max(1, reference[key]) for item in passes if item.get(key)), default=1.0)
        for key in ("wall_ns", "cpu_ns")
    )
    return wall, cpu
