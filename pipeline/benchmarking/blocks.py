"""The blocks of a campaign: each a pass of every engine in its own process, repeated where it was disturbed.

What comes next depends only on the passes that are finished, so a campaign that goes on from its journal takes the
same decisions as one that was never interrupted.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.analysis import precise_enough
from pipeline.benchmarking.cooling import Cooled, wait_until_cool
from pipeline.benchmarking.elimination import left_out
from pipeline.benchmarking.journal import Pass
from pipeline.benchmarking.request import TWIN, Progress
from pipeline.benchmarking.rows import checked_row, slowest_pass_ns
from targets.errors import DeviceError, DeviceLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.benchmarking.journal import Header, Journal
    from pipeline.benchmarking.modes import Mode
    from pipeline.benchmarking.request import CampaignOptions
    from pipeline.benchmarking.staging import Staged
    from targets.devices.base import Session

Passes = tuple[Pass, ...]

TARGET_HALF_WIDTH: Final = 0.01
SLOW_SENTINEL: Final = 1.10
WARMUP_CAP_S: Final = 10.0
_REPEATS: Final = 2  # of a block, for each reason
_PAUSE_S: Final = 30.0
_PAUSE_SHARE: Final = 10  # of the budget left, a pause takes at most this part
_PROCESS_S: Final = 120.0  # load, first inference and all else of a process, at most
_LOOP_CAP_S: Final = 30.0
_SHORT_ITERATIONS: Final = 50  # where the budget made the timed loop shorter than the mode's


@dataclass(frozen=True, slots=True, kw_only=True)
class Sitting:
    """What stays the same in a campaign.

    Attributes:
        staged: The engines in the order of the request, the twin last.
        session: The device, ours alone.
        options: What was asked for.
        mode: How thorough.
        looks: Numbers of blocks at which it may end.
        header: What was decided at the start.
        begin_s: When it began, on the monotonic clock; earlier by what an interrupted one had used.
        start_s: What a process is expected to take apart from warm-up and timed loop.
        journal: Where finished passes go; None keeps none.
        on_progress: Called before each process.
    """

    staged: tuple[Staged, ...]
    session: Session
    options: CampaignOptions
    mode: Mode
    looks: tuple[int, ...]
    header: Header
    begin_s: float
    start_s: float
    journal: Journal | None
    on_progress: Callable[[Progress], None]

    def elapsed_s(self) -> float:
        """Time of this campaign, of what was interrupted included."""
        return time.monotonic() - self.begin_s

    def left_s(self) -> float:
        """What is left of the budget, below 0 once it is used."""
        return self.options.budget_s - self.elapsed_s()


def kept(passes: Passes) -> Passes:
    """The complete blocks among them."""
    return tuple(item for item in passes if item.discarded is None)


def order_of(names: Sequence[str], seed: int, block: int) -> tuple[str, ...]:
    """The order in a block: random for each even one, reversed in the next, so that what came first comes last."""
    order = list(names)
    random.Random(f"{seed}:{block // 2}").shuffle(order)  # noqa: S311 - an order, not a secret
    return tuple(order if block % 2 == 0 else reversed(order))


def run_blocks(sitting: Sitting, passes: Passes) -> tuple[Passes, str]:
    """Runs passes after those that are finished until there are enough; all of them, and why it stopped.

    Why: ``interval`` (every engine's 95 % interval is narrow enough), ``blocks`` (the mode's last look) or ``budget``.

    Raises:
        DeviceLost: The device stopped answering; the error says after which block.
        DeviceError: It failed or gave garbage; the same.
    """
    while (stop := _stop(sitting, passes)) is None:
        try:
            done = _next(sitting, passes)
        except DeviceError as error:
            raise _after_block(error, sitting, len(kept(passes))) from error
        passes = (*passes, done)
        if done.discarded != "budget" and sitting.journal is not None:
            sitting.journal.append(done)
    return passes, stop


def warmup_s(sitting: Sitting, passes: Passes) -> float:
    """The warm-up of the next pass: doubled for all engines, up to 10 s, when one was still warming up."""
    if not passes:
        return sitting.header.warmup_s
    last = passes[-1]
    return min(WARMUP_CAP_S, 2 * last.warmup_s) if last.discarded == "warmup" else last.warmup_s


def _stop(sitting: Sitting, passes: Passes) -> str | None:
    if passes and passes[-1].discarded == "budget":
        return "budget"
    if passes and passes[-1].discarded is not None:
        return None
    done = len(passes_kept := kept(passes))
    if done in sitting.looks and _precise(sitting, passes_kept):
        return "interval"
    if done >= sitting.looks[-1]:
        return "blocks"
    if done >= min(sitting.mode.min_blocks, sitting.looks[0]) and passes[-1].length_s > sitting.left_s():
        return "budget"
    return "budget" if done and sitting.left_s() <= 0 else None


def _precise(sitting: Sitting, passes: Passes) -> bool:
    gone = left_out(sitting, passes)
    names = [item.name for item in sitting.staged if item.name != TWIN and item.name not in gone]
    return precise_enough([row for item in passes for row in item.rows], names, TARGET_HALF_WIDTH)


def _next(sitting: Sitting, passes: Passes) -> Pass:
    if passes and passes[-1].discarded == "sentinel":
        time.sleep(_pause_s(sitting))
    cooled = wait_until_cool(
        sitting.session, sitting.header, passes, budget_s=sitting.options.budget_s, left_s=sitting.left_s()
    )
    return _pass(sitting, passes, cooled)


def _after_block(error: DeviceError, sitting: Sitting, done: int) -> DeviceError:
    """The same error, with how far the campaign was, and nothing promised that is not so."""
    planned = next((look for look in sitting.looks if look > done), sitting.looks[-1])
    fix = error.fix
    if isinstance(error, DeviceLost):
        fix = "reconnect it and run the same command again"
        fix += f": {done} finished blocks are kept" if sitting.journal is not None and done else ""
    return type(error)(f"{error.what} after block {done} of {planned}", f"{error.why}; no result was made of it", fix)


def _pause_s(sitting: Sitting) -> float:
    return max(0.0, min(_PAUSE_S, sitting.left_s() / _PAUSE_SHARE))


def _pass(sitting: Sitting, passes: Passes, cooled: Cooled) -> Pass:
    """One pass over all engines; one that the budget ended is marked ``budget``."""
    block = len(kept(passes))
    attempt = sum(item.block == block for item in passes)
    gone = left_out(sitting, passes)
    order = order_of([item.name for item in sitting.staged if item.name not in gone], sitting.options.seed, block)
    by_name = {item.name: item for item in sitting.staged}
    warm, begin = warmup_s(sitting, passes), sitting.elapsed_s()
    rows: list[dict[str, Any]] = []
    for position, name in enumerate(order):
        if block > 0 and sitting.left_s() <= 0:  # the first block is always finished: some answer is better than none
            break
        sitting.on_progress(
            Progress(block=block, engine=name, elapsed_s=sitting.elapsed_s(), budget_s=sitting.options.budget_s)
        )
        when = [word for word, at in (("before", 0), ("after", len(order) - 1)) if position == at]
        left = _processes_left(sitting, block, len(order), position)
        before = [*(passes[-1].rows if passes else ()), *rows]
        room_s = sitting.left_s() / left - _start_s(sitting, before, warm)
        row = _measure(sitting, by_name[name], warm, when, room_s=room_s)
        found = {} if cooled.above_c is None else {"warmer_by_c": round(cooled.above_c, 2)}
        rows.append({"engine": name, "block": block, "attempt": attempt, "order": position, **found, **row})
    now = sitting.elapsed_s()
    done = Pass(
        block=block, attempt=attempt, order=order, rows=tuple(rows), discarded=None, warmup_s=warm,
        length_s=now - begin, elapsed_s=now, waited_s=cooled.waited_s,
    )  # fmt: skip
    return _judged(sitting, passes, done)


def _judged(sitting: Sitting, passes: Passes, done: Pass) -> Pass:
    """The pass with its fate: kept, kept and marked, or discarded."""
    if len(done.rows) < len(done.order):
        return _discarded(done, "budget")
    if is_slow(done, sitting.header.sentinel):
        if _may_repeat(passes, done, "sentinel") and _time_after_pause(sitting, done):
            return _discarded(done, "sentinel")
        return replace(done, rows=tuple({**row, "marked": "sentinel"} for row in done.rows))
    warming = any(row["class"] == "warmup" for row in done.rows)
    if warming and _warmup_counts(sitting, done) and _may_repeat(passes, done, "warmup"):
        return _discarded(done, "warmup")
    return done


def is_slow(done: Pass, reference: Mapping[str, int]) -> bool:
    """Whether a sentinel pass of the block was over 10 % slower than at the start."""
    slowest = slowest_pass_ns(done.rows)
    return slowest is not None and bool(reference) and slowest > SLOW_SENTINEL * reference["wall_ns"]


def _may_repeat(passes: Passes, done: Pass, reason: str) -> bool:
    return sum(item.block == done.block and item.discarded == reason for item in passes) < _REPEATS


def _time_after_pause(sitting: Sitting, done: Pass) -> bool:
    """Whether the budget holds the pause, this block again, and those up to the first look."""
    blocks = max(1, sitting.looks[0] - done.block)
    return _pause_s(sitting) + blocks * done.length_s <= sitting.left_s()


def _warmup_counts(sitting: Sitting, done: Pass) -> bool:
    """Whether a longer warm-up can be had: at the first block only, and not for runs that are about warming up."""
    if done.block > 0 or sitting.options.scenario.kind in {"cold", "sustained"} or done.warmup_s >= WARMUP_CAP_S:
        return False
    longer = min(WARMUP_CAP_S, 2 * done.warmup_s) - done.warmup_s
    blocks = min(sitting.mode.min_blocks, sitting.looks[0])
    return blocks * (done.length_s + longer * len(done.rows)) <= sitting.left_s()


def _discarded(done: Pass, reason: str) -> Pass:
    return replace(done, discarded=reason, rows=tuple({**row, "discarded": reason} for row in done.rows))


def _processes_left(sitting: Sitting, block: int, engines: int, position: int) -> int:
    """Processes that the rest of the budget should hold: up to the fewest blocks that count, at least this block's."""
    blocks = max(1, min(sitting.mode.min_blocks, sitting.looks[0]) - block)
    return blocks * engines - position


def _start_s(sitting: Sitting, rows: Sequence[Mapping[str, Any]], warm_s: float) -> float:
    """What a process takes apart from warm-up and timed loop: as the last one, or as expected if more."""
    if not rows:
        return sitting.start_s
    last_s = float(rows[-1]["wall_s"]) - float(rows[-1]["loop_wall_ns"]) / 1e9 - warm_s
    return max(sitting.start_s, last_s)


def _measure(sitting: Sitting, staged: Staged, warm_s: float, when: Sequence[str], *, room_s: float) -> dict[str, Any]:
    scenario = sitting.options.scenario
    command = ["measure", staged.folder, "--samples", staged.samples_name, "--engine-sha256", staged.build.sha256]
    if staged.expected_name is not None:
        command += ["--expected", staged.expected_name]
    if when and sitting.header.sentinel:
        command += ["--sentinel", ",".join(when), "--sentinel-repeats", str(sitting.header.sentinel["repeats"])]
    if sitting.options.affinity != "default":
        command += ["--affinity", sitting.options.affinity]
    if sitting.options.memory_limit_mb is not None:
        command += ["--memory-limit-mb", str(sitting.options.memory_limit_mb)]
    longest_s = scenario.sustained_s if scenario.kind == "sustained" else _LOOP_CAP_S + WARMUP_CAP_S
    answer = sitting.session.run([*command, *_lengths(sitting, warm_s, room_s)], timeout_s=longest_s + _PROCESS_S)
    return {"wall_s": round(answer.wall_s, 4), **checked_row(answer.result, staged.build.sha256)}


def _lengths(sitting: Sitting, warm_s: float, room_s: float) -> list[str]:
    """The part of a command line that says what is measured, and for how long.

    That is within this process's part of the budget, but the timed loop is never shorter than the mode's floor.
    """
    scenario, timed_s = sitting.options.scenario, sitting.header.timed_s
    if scenario.kind == "cold":
        return ["--scenario", "cold"]
    words = ["--scenario", scenario.kind, "--warmup-s", str(warm_s)]
    if scenario.kind == "sustained":
        return [*words, "--duration-s", str(scenario.sustained_s)]
    full = timed_s >= sitting.mode.timed_s
    iterations = sitting.mode.min_iterations if full else min(_SHORT_ITERATIONS, sitting.mode.min_iterations)
    cap_s = 4 * timed_s
    if scenario.period_ms is not None:
        words += ["--period-ms", str(scenario.period_ms)]
        cap_s = max(cap_s, 1.2 * iterations * scenario.period_ms / 1e3)  # at that pace, so many take so long
    if scenario.kind == "throughput":
        words += ["--batch", str(scenario.batch), "--concurrency", str(scenario.concurrency)]
    warming_s = 2 * warm_s if scenario.kind == "paced" else warm_s  # paced: at full speed, then at the pace
    room_s = max(room_s - warming_s, sitting.mode.timed_floor_s)
    cap_s = round(min(_LOOP_CAP_S, cap_s, room_s), 3)
    return [*words, "--min-s", str(min(timed_s, cap_s)), "--cap-s", str(cap_s), "--min-iterations", str(iterations)]
