"""From finished blocks to benchmark.json: what was measured, on what, how, and what may be said of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.analysis import CampaignFacts, analyse
from pipeline.benchmarking.blocks import TARGET_HALF_WIDTH, Passes, Sitting, kept, warmup_s
from pipeline.benchmarking.elimination import left_out
from pipeline.benchmarking.known import Noise
from pipeline.benchmarking.request import TWIN
from pipeline.benchmarking.statistics import log_interval
from targets.files import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.benchmarking.staging import Staged
    from targets.devices.base import Device, DeviceFacts

SCHEMA_VERSION: Final = 1
_NOISE_APPLIES: Final = ("latency", "paced", "throughput")  # scenarios to which the noise floor applies


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A campaign at its end.

    Attributes:
        passes: All passes, discarded ones included.
        stop: Why it ended.
        facts: What the device said at the start.
        facts_at_end: What it said after the last block.
        known: What was known of its noise before.
        identity: The campaign's identity.
        resumed_blocks: Blocks that an interrupted campaign had left.
        described: What each engine is.
        version: Of this program.
    """

    passes: Passes
    stop: str
    facts: DeviceFacts
    facts_at_end: DeviceFacts
    known: Noise | None
    identity: str
    resumed_blocks: int
    described: Mapping[str, Mapping[str, Any]]
    version: str


def twin_noise(sitting: Sitting, passes: Passes) -> Noise | None:
    """How much the first engine differed from itself, paired by block; None where it ran twice in too few blocks."""
    blocks = [{row["engine"]: row["median_ns"] for row in item.rows} for item in kept(passes)]
    if not sitting.header.twin or len(blocks) < sitting.mode.min_blocks:
        return None
    first = sitting.staged[0].name
    interval = log_interval([max(1, block[TWIN]) / max(1, block[first]) for block in blocks])
    if interval.low is None or interval.high is None:
        return None
    return Noise(
        low=interval.low, high=interval.high, ratio=interval.value, blocks=interval.k, utc=sitting.header.utc_start
    )


def undisturbed(sitting: Sitting, passes: Passes) -> bool:
    """Whether the device was quiet at the start and in every block that counts, and cool enough."""
    rows = [row for item in kept(passes) for row in item.rows]
    return sitting.header.quiet and not any("marked" in row or "warmer_by_c" in row for row in rows)


def write_document(sitting: Sitting, device: Device, outcome: Outcome) -> dict[str, Any]:
    """The content of benchmark.json; times in ns as ints, sizes in bytes, no raw samples."""
    passes, engines = outcome.passes, _entrants(sitting)
    rows = [row for item in kept(passes) for row in item.rows]
    noise = _noise(sitting, outcome)
    facts = {
        **outcome.facts.raw,
        "id": device.name,
        "transport": device.kind,
        "at_end": dict(outcome.facts_at_end.raw),
    }
    analysed = analyse(
        {item.name: [row for row in rows if row["engine"] == item.name] for item in engines},
        outcome.described,
        facts,
        campaign=_campaign_facts(sitting, outcome, noise),
    )
    return {
        "schema_version": SCHEMA_VERSION,
        "tool": {"name": "edgepress", "version": outcome.version, "git": None},
        "campaign": _campaign(sitting, outcome),
        "device": facts,
        "engines": {name: dict(text) for name, text in outcome.described.items()},
        "scenario": _scenario(sitting, engines),
        "inputs": _inputs(engines),
        "runs": [{key: row[key] for key in row if key != "raw"} for item in passes for row in item.rows],
        **analysed,
        "reproduce": None,
    }


def _entrants(sitting: Sitting) -> list[Staged]:
    return [item for item in sitting.staged if item.name != TWIN]


def _noise(sitting: Sitting, outcome: Outcome) -> Noise | None:
    """What this campaign learnt, else what was known; neither says anything of loads and minutes-long runs."""
    if sitting.options.scenario.kind not in _NOISE_APPLIES:
        return None
    return twin_noise(sitting, outcome.passes) or outcome.known


def _campaign_facts(sitting: Sitting, outcome: Outcome, noise: Noise | None) -> CampaignFacts:
    reference = sitting.header.sentinel
    return CampaignFacts(
        mode=sitting.mode.name,
        quiet=sitting.header.quiet,
        noise_ratio=0.0 if noise is None else noise.floor_ratio,
        noise_known=noise is not None,
        sentinel_reference={key: reference[key] for key in ("wall_ns", "cpu_ns")} if reference else None,
        scenario_kind=sitting.options.scenario.kind,
        resumed_blocks=outcome.resumed_blocks,
        stop=outcome.stop,
        target_half_width=TARGET_HALF_WIDTH,
        min_blocks=min(sitting.mode.min_blocks, sitting.looks[0]),
        verdicts=sitting.mode.verdicts,
        aa=None if noise is None else noise.to_json(),
        left_out={
            name: f"{item.by} is {item.ratio:.2f} times as fast and worse in nothing; {item.after} blocks"
            for name, item in left_out(sitting, outcome.passes).items()
        },
    )


def _campaign(sitting: Sitting, outcome: Outcome) -> dict[str, Any]:
    header, passes = sitting.header, outcome.passes
    done = kept(passes)
    return {
        "id": sha256_bytes(f"{outcome.identity} {header.utc_start}".encode())[:16],
        "utc_start": header.utc_start,
        "monotonic_s": round(sitting.begin_s, 3),  # when it began, as utc_start
        "wall_s": round(sitting.elapsed_s(), 3),
        "budget_s": sitting.options.budget_s,
        "seed": sitting.options.seed,
        "mode": sitting.mode.name,
        "looks": list(sitting.looks),
        "blocks": len(done),
        "order": [list(item.order) for item in done],
        "stop": outcome.stop,
        "quiet_at_start": header.quiet,
        "waited_s": round(header.waited_s + sum(item.waited_s for item in passes), 3),
        "target_half_width_ratio": TARGET_HALF_WIDTH,
        "warmup_s": warmup_s(sitting, passes),
        "timed_s": header.timed_s,
        "sentinel": dict(header.sentinel) or None,
        "repeated": {why: sum(item.discarded == why for item in passes) for why in ("sentinel", "warmup")},
        "noise_learnt": header.twin,
        "resumed_blocks": outcome.resumed_blocks,
        "left_out": {name: item.to_json() for name, item in left_out(sitting, passes).items()},
    }


def _scenario(sitting: Sitting, engines: Sequence[Staged]) -> dict[str, Any]:
    scenario, options = sitting.options.scenario, sitting.options
    threads = {item.build.options.get("threads") for item in engines}
    return {
        **asdict(scenario),
        "period_ns": None if scenario.period_ms is None else round(scenario.period_ms * 1e6),
        "duration_s": scenario.sustained_s if scenario.kind == "sustained" else None,
        "threads": next(iter(threads)) if len(threads) == 1 else None,
        "affinity": options.affinity,
        "memory_limit_mb": options.memory_limit_mb,
    }


def _inputs(engines: Sequence[Staged]) -> dict[str, Any]:
    digests = {item.samples_sha256 for item in engines}
    return {
        "source": "real",
        "n_distinct": min(item.n_distinct for item in engines),
        "sha256": next(iter(digests)) if len(digests) == 1 else None,
    }
