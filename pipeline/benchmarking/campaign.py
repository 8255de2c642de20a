"""One campaign: all engines interleaved in blocks on one device, a fresh process each, within a budget of time."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking import staging
from pipeline.benchmarking.blocks import Passes, Sitting, kept, run_blocks
from pipeline.benchmarking.devicebuild import Made, send_engines
from pipeline.benchmarking.document import Outcome, twin_noise, undisturbed, write_document
from pipeline.benchmarking.journal import Header, Journal, identity, open_journal, recall
from pipeline.benchmarking.known import Noise, recall_noise, remember_noise
from pipeline.benchmarking.preflight import calibrate_sentinel, quiet_facts
from pipeline.benchmarking.raw import write_raw
from pipeline.benchmarking.request import TWIN, CampaignOptions, Entrant, Progress, Scenario, check_request
from targets.files import disk_guard, sha256_bytes
from targets.ondevice_pack import pack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pipeline.benchmarking.modes import Mode
    from pipeline.benchmarking.staging import Staged
    from targets.devices.base import Device, DeviceFacts, Session

__all__ = ["TWIN", "CampaignOptions", "Entrant", "Progress", "Scenario", "run_campaign"]

_START_S: Final = 0.6  # a process of the device program apart from warm-up and timed loop, before one was seen
_WARMUP_SHARE: Final = 0.25
_USABLE: Final = 0.9  # of the budget, for the blocks up to the first look


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a campaign stands before its first block, or before those that an interrupted one still lacks."""

    header: Header
    passes: Passes
    facts: DeviceFacts
    known: Noise | None
    identity: str
    begin_s: float


def run_campaign(
    entrants: Sequence[Entrant],
    device: Device,
    options: CampaignOptions,
    *,
    state: Path | None = None,
    raw_path: Path | None = None,
    required: Collection[str] | None = None,
    made: Made | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Measures all engines on one device and compares them.

    Engines that are built on the device are built first; the budget begins after that.

    It ends at one of the mode's looks when every engine's 95 % interval is within 1 %, or when the budget is used:
    after the first block no process of it starts later. An interrupted campaign goes on from its finished blocks, and
    with what it had left of the budget, when it is run again within 24 hours with the same ``state``. Several may run
    at a time, also in threads.

    Args:
        entrants: The engines; each is compared with those before it.
        device: Where to measure; it is ours alone meanwhile.
        options: What to measure, how thoroughly, for how long.
        state: A private folder for the journal of an interrupted campaign and what is known of devices; None keeps
            nothing.
        raw_path: Where to write all samples (``.json.gz``, delta-coded); None keeps only their summaries.
        required: Names of the engines without which nothing is to be measured; others that cannot be built on the
            device are left out, and stand with the reason under ``unmeasured``. None: all are required.
        made: Engines that the device has built in the session that it is held in: they are not built again.
        on_progress: Called before each process.

    Returns:
        The content of ``benchmark.json``; ``reproduce`` is for the caller to fill in.

    Raises:
        InputError: There is no engine, the samples do not fit, or the budget cannot hold what was asked for.
        RefusedError: An engine file is not the one that was built.
        EnvironmentFailure: A disk is full.
        DeviceError: The device must not be measured now, failed, or gave garbage.
        DeviceLost: It stopped answering; finished blocks are kept in ``state``.
    """
    mode = check_request(entrants, options)
    with ExitStack() as stack:
        with disk_guard("preparing the benchmark"):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgepress-")))
        staged = staging.prepare(entrants, scratch)
        session = stack.enter_context(device.session())
        staged, unmeasured = send_engines(staged, session, required, made)
        described = {item.name: staging.describe(item) for item in staged}
        now, begin = dt.datetime.now(dt.UTC), time.monotonic()
        start = _start(staged, session, device, options, mode, state, now=now, begin_s=begin)
        staging.send_samples(staged, session)
        journal = None
        if state is not None:
            journal = stack.enter_context(open_journal(state, start.identity, start.header, start.passes))
        sitting = _sitting(staged, session, options, mode, start, journal, on_progress)
        passes, stop = run_blocks(sitting, start.passes)
        outcome = Outcome(
            passes=passes, stop=stop, facts=start.facts, facts_at_end=session.facts(), known=start.known,
            identity=start.identity, resumed_blocks=len(kept(start.passes)), described=described, version=_version(),
        )  # fmt: skip
        document = write_document(sitting, device, outcome)
        if raw_path is not None:
            write_raw([row for item in passes for row in item.rows], raw_path)
        noise = twin_noise(sitting, passes)
        if state is not None and noise is not None and undisturbed(sitting, passes):
            remember_noise(state, start.facts.fingerprint, noise)
        if journal is not None:
            journal.remove()
    return {**document, "unmeasured": unmeasured} if unmeasured else document


def _start(
    staged: Sequence[Staged],
    session: Session,
    device: Device,
    options: CampaignOptions,
    mode: Mode,
    state: Path | None,
    *,
    now: dt.datetime,
    begin_s: float,
) -> _Start:
    """Preflight, then either what an interrupted campaign had decided, or a new start."""
    facts, quiet, waited_s = quiet_facts(session, options.budget_s)
    name = _identity(staged, device, facts, options)
    known = None if state is None else recall_noise(state, facts.fingerprint, now)
    found = None if state is None else recall(state, name, now)
    if found is not None:
        header, passes = found
        header = replace(header, quiet=header.quiet and quiet)
        return _Start(
            header=header, passes=passes, facts=facts, known=known, identity=name,
            begin_s=begin_s - passes[-1].elapsed_s,
        )  # fmt: skip
    sentinel = calibrate_sentinel(session)
    left_s = options.budget_s - (time.monotonic() - begin_s)
    twin = options.scenario.kind == "latency" and _runs_twin(mode, known, left_s, len(staged), facts.wall_s)
    cold = options.scenario.kind == "cold"
    warm_s, timed_s = (0.0, 0.0) if cold else _lengths(mode, left_s, len(staged) + twin, facts.wall_s)
    header = Header(
        utc_start=now.isoformat(timespec="seconds"), quiet=quiet, twin=twin, warmup_s=warm_s, timed_s=timed_s,
        sentinel=sentinel, temp_c=facts.raw.get("temp_c"), waited_s=waited_s,
    )  # fmt: skip
    return _Start(header=header, passes=(), facts=facts, known=known, identity=name, begin_s=begin_s)


def _identity(staged: Sequence[Staged], device: Device, facts: DeviceFacts, options: CampaignOptions) -> str:
    return identity(
        {
            "engines": [item.identity() for item in staged],
            "device": [device.name, facts.fingerprint],
            "options": asdict(options),
            "program": sha256_bytes(pack()),
            "version": _version(),
        }
    )


def _runs_twin(mode: Mode, known: Noise | None, left_s: float, engines: int, start_s: float) -> bool:
    """Whether the noise is learnt: as the mode says, and not at the price of the first look."""
    if mode.learns_noise == "always":
        return True
    shortest_s = mode.warmup_floor_s + mode.timed_floor_s
    fits = _loop_s(mode, left_s, engines + 1, start_s) >= shortest_s
    return mode.learns_noise == "when unknown" and known is None and fits


def _loop_s(mode: Mode, left_s: float, processes: int, start_s: float) -> float:
    """Time for warm-up and timed loop of a process, so that the first look fits into the time left."""
    return _USABLE * left_s / (processes * mode.looks[0]) - _process_start_s(start_s)


def _process_start_s(facts_s: float) -> float:
    """What a process takes apart from warm-up and timed loop, judged by how long the device took for its facts."""
    return max(_START_S, facts_s + 0.2)


def _lengths(mode: Mode, left_s: float, processes: int, start_s: float) -> tuple[float, float]:
    """Warm-up and timed length of a process so that the first look fits into the time left, within fixed limits."""
    process_s = _loop_s(mode, left_s, processes, start_s)
    return (
        round(min(max(process_s * _WARMUP_SHARE, mode.warmup_floor_s), mode.warmup_s), 3),
        round(min(max(process_s * (1 - _WARMUP_SHARE), mode.timed_floor_s), mode.timed_s), 3),
    )


def _sitting(
    staged: tuple[Staged, ...],
    session: Session,
    options: CampaignOptions,
    mode: Mode,
    start: _Start,
    journal: Journal | None,
    on_progress: Callable[[Progress], None],
) -> Sitting:
    twins = (replace(staged[0], name=TWIN),) if start.header.twin else ()
    return Sitting(
        staged=(*staged, *twins),
        session=session,
        options=options,
        mode=mode,
        looks=(1,) if options.scenario.kind == "sustained" else mode.looks,
        header=start.header,
        begin_s=start.begin_s,
        start_s=_process_start_s(start.facts.wall_s),
        journal=journal,
        on_progress=on_progress,
    )


def _version() -> str:
    return importlib.metadata.version("edgepress")
