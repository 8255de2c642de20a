"""Opens an engine for the first and only time in this process: import, load and first inference, each by itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from . import memory, pagecache
from .runner import Runner, load_runtime, open_runner
from .timing import Witness

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np


class Opened(NamedTuple):
    """An engine after its first inference, and what it took to get there.

    Attributes:
        runner: The engine.
        first: All outputs of the first inference.
        base_rss: Resident bytes before the runtime was imported.
        load_peak: The highest resident bytes until the engine was loaded.
        peaks_split: Whether the kernel let the peak of loading be told from that of running.
        dropped: Whether no page of the engine file was in the page cache before it was loaded.
        import_ns: Import of the runtime.
        load_ns: Opening the engine, compiling it for the feed's shapes where its runtime does.
        first_ns: The first inference.
        seen: What the kernel counted from load to first inference (`timing.Witness`).
    """

    runner: Runner
    first: list[np.ndarray]
    base_rss: int | None
    load_peak: int | None
    peaks_split: bool
    dropped: bool
    import_ns: int
    load_ns: int
    first_ns: int
    seen: Mapping[str, Any]


def open_and_run(
    folder: Path, spec: Mapping[str, Any], feed: Mapping[str, np.ndarray], root: str, *, cold: bool
) -> Opened:
    """Imports the runtime, loads the engine and runs it once; the peaks of loading and of running are kept apart.

    Args:
        folder: The engine folder.
        spec: Its engine.json.
        feed: Inputs of the first inference.
        root: Where /proc is read for the conditions (memory is always this process's own).
        cold: Whether to drop the engine file from the page cache first.

    Raises:
        Failure: The runtime is missing, or refuses the engine.
    """
    clock = time.perf_counter_ns
    resettable = memory.reset_peak()
    base = memory.resident()
    start = clock()
    load_runtime(spec)
    import_ns = clock() - start
    dropped = cold and pagecache.drop(folder / spec["file"])
    witness = Witness(root)
    start = clock()
    runner = open_runner(folder, spec)
    runner.prepare(feed)
    load_ns = clock() - start
    load_peak = memory.peak()
    resettable = memory.reset_peak() and resettable
    start = clock()
    first = runner.run(feed)
    first_ns = clock() - start
    return Opened(
        runner=runner,
        first=first,
        base_rss=base,
        load_peak=load_peak,
        peaks_split=resettable,
        dropped=dropped,
        import_ns=import_ns,
        load_ns=load_ns,
        first_ns=first_ns,
        seen=witness.report(),
    )


def peaks(opened: Opened) -> dict[str, Any]:
    """The ``mem`` object: peaks above the interpreter, and what the process holds now, in bytes."""
    run_peak, shares = memory.peak(), memory.shares()
    return {
        "base_rss": opened.base_rss,
        "load_peak": _above(opened.load_peak, opened.base_rss),
        "run_peak": _above(run_peak, opened.base_rss),
        "steady_pss": shares["pss"],
        "steady_uss": shares["uss"],
        "peaks_split": opened.peaks_split,
    }


def _above(value: int | None, base: int | None) -> int | None:
    return None if value is None or base is None else max(0, value - base)
