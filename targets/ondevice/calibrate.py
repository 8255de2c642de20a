"""What this device can do: times of small probe models, and the speed of copying at three sizes."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from .failure import BAD_INPUT, DEVICE, REFUSED, Failure
from .session import import_runtime, read_json, runtime_errors, session_options, sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

BUDGET_S = 12.0  # for all probes and copies together; one call more may be under way then
_PROBE_S = 0.2  # for each probe
_COPY_S = 0.3  # for each size
_CALLS = range(5, 400)
_MAX_PROBES = 128
_MAX_ELEMENTS = 1 << 24
_CPUS = "sys/devices/system/cpu"
_ASSUMED = {"l2": 256 << 10, "llc": 4 << 20}  # bytes, where the kernel does not tell
_LARGEST_COPY = 512 << 20
_MEMORY_SHARE = 8  # each of two buffers takes at most so small a part of the free memory


def calibrate(folder: Path, threads: int, root: str = "/") -> dict[str, Any]:
    """Times of every probe of ``probes.json``, and of copies inside L2, the last cache and memory.

    Args:
        folder: ``probes.json`` (``options`` as in engine.json, ``probes``: name, file, sha256, inputs, optimization)
            and the models it names.
        threads: Threads of the runtime and of the copies.
        root: Where /sys and /proc are read.

    Returns:
        ``probes``: name to ``best_ns``, ``median_ns`` and ``calls`` of one run; ``skipped``: probes that the time did
        not suffice for, or that this runtime refuses, with the reason; ``copies``: level to ``bytes`` copied at once,
        ``best_ns``, ``median_ns``; ``caches`` in bytes and whether they are assumed; ``wall_s``.

    Raises:
        Failure: The folder is not valid (3), a model is another one (4), or no probe runs (6).
    """
    probes, options = _read_plan(folder, threads)
    begin = time.monotonic()
    times: dict[str, dict[str, int]] = {}
    skipped: dict[str, str] = {}
    caches = cache_sizes(root)
    copies = {level: _copy_times(size, threads) for level, size in copy_sizes(caches, free_bytes(root)).items()}
    for probe in probes:
        if time.monotonic() - begin > BUDGET_S:
            skipped[str(probe["name"])] = f"{BUDGET_S:g} s were over"
            continue
        call = _open(folder, probe, options, skipped)
        if call is not None:
            times[str(probe["name"])] = repeat(call, _PROBE_S)
    if not times:
        raise Failure(
            DEVICE, "no probe runs on this device", "; ".join(skipped.values())[:300], "install a recent onnxruntime"
        )
    return {
        "runtime_version": str(import_runtime().__version__),
        "threads": threads,
        "probes": times,
        "skipped": skipped,
        "copies": copies,
        "caches": caches,
        "wall_s": time.monotonic() - begin,
    }


def _read_plan(folder: Path, threads: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    plan = read_json(folder / "probes.json")
    probes, options = plan.get("probes"), plan.get("options")
    wanted = {"name", "file", "sha256", "inputs", "optimization"}
    if not (
        isinstance(options, dict)
        and isinstance(options.get("providers"), list)
        and isinstance(probes, list)
        and 0 < len(probes) <= _MAX_PROBES
        and all(isinstance(probe, dict) and wanted <= set(probe) for probe in probes)
    ):
        raise Failure(BAD_INPUT, "probes.json is not valid", "options or probes are missing", "send the probes again")
    return probes, {**options, "threads": threads}


def repeat(call: Callable[[], object], wanted_s: float) -> dict[str, int]:
    """Best and median time of a call in nanoseconds, over at least 5 calls and so many seconds, at most 400 calls."""
    for _ in range(2):
        call()
    samples: list[int] = []
    begin = time.perf_counter_ns()
    while len(samples) < _CALLS.stop and (
        len(samples) < _CALLS.start or time.perf_counter_ns() - begin < wanted_s * 1e9
    ):
        start = time.perf_counter_ns()
        call()
        samples.append(time.perf_counter_ns() - start)
    return {
        "best_ns": max(1, min(samples)),
        "median_ns": max(1, round(statistics.median(samples))),
        "calls": len(samples),
    }


def _open(
    folder: Path, probe: Mapping[str, Any], options: Mapping[str, Any], skipped: dict[str, str]
) -> Callable[[], object] | None:
    """A call of the probe; None, with the reason in ``skipped``, where this runtime does not run it."""
    path = folder / os.path.basename(str(probe["file"]))  # noqa: PTH119
    if not path.is_file() or sha256_of(path) != probe["sha256"]:
        raise Failure(REFUSED, f"{path.name} is not the probe that was sent", "its sha256 differs", "send it again")
    runtime = import_runtime()
    settings = session_options(runtime, {**options, "optimization": str(probe["optimization"])})
    feed = {str(item["name"]): _values(item) for item in probe["inputs"]}
    try:
        session = runtime.InferenceSession(str(path), settings, providers=list(options["providers"]))
        session.run(None, feed)
    except runtime_errors() as error:
        skipped[str(probe["name"])] = " ".join(str(error).split())[:200]
        return None
    return lambda: session.run(None, feed)


def _values(item: Mapping[str, Any]) -> np.ndarray:
    """Random values of the input's dtype and shape; the same ones every time."""
    shape = [int(size) for size in item["shape"]]
    if not 0 < int(np.prod(shape, dtype=np.int64)) <= _MAX_ELEMENTS:
        raise Failure(BAD_INPUT, "a probe's input is not valid", f"its shape is {shape}", "send the probes again")
    generator = np.random.default_rng(0)
    dtype = np.dtype(str(item["dtype"]))
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 100, shape).astype(dtype)


def cache_sizes(root: str) -> dict[str, Any]:
    """``l2`` and ``llc`` (the last level) of the first CPU used, in bytes; ``assumed`` when unknown."""
    found: dict[int, int] = {}
    cpu = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    folder = os.path.join(root, _CPUS, f"cpu{cpu}", "cache")  # noqa: PTH118
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:  # noqa: PTH112, PTH208
        level, size, kind = (_read(os.path.join(folder, name, leaf)) for leaf in ("level", "size", "type"))  # noqa: PTH118
        unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(size[-1:], 0)
        if kind in {"Data", "Unified"} and level.isdigit() and size[:-1].isdigit() and unit:
            found[int(level)] = int(size[:-1]) * unit
    if not found or max(found) < 2:  # noqa: PLR2004 - level 2
        return {**_ASSUMED, "assumed": True}
    llc = found[max(found)]
    return {"l2": found.get(2, llc), "llc": llc, "assumed": False}


def free_bytes(root: str) -> int:
    """Memory that can be used without swapping; 256 MiB where the kernel does not tell."""
    for line in _read(os.path.join(root, "proc/meminfo")).split("\n"):  # noqa: PTH118
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 256 << 20


def copy_sizes(caches: Mapping[str, Any], free: int) -> dict[str, int]:
    """Bytes of source and destination together: half of L2, half of the last cache, eight times the last cache."""
    largest = min(_LARGEST_COPY, 2 * free // _MEMORY_SHARE)
    wanted = {"l2": caches["l2"] // 2, "llc": caches["llc"] // 2, "memory": 8 * caches["llc"]}
    return {level: max(4096, min(size, largest)) for level, size in wanted.items()}


def _copy_times(both_bytes: int, threads: int) -> dict[str, int]:
    """Copies half of ``both_bytes`` into the other half, in equal parts on every thread; `numpy.copyto` frees the GIL.

    What is moved is counted as one read and one write of every byte; a processor that reads a line before it writes it
    moves more.
    """
    part = max(512, both_bytes // (16 * threads))  # elements of 8 bytes, for each of source and destination
    pairs = [(np.ones(part), np.zeros(part)) for _ in range(threads)]
    inner = max(1, (4 << 20) // both_bytes)  # so many copies a sample: one alone is too short for the clock

    def copy(pair: Sequence[np.ndarray]) -> None:
        for _ in range(inner):
            np.copyto(pair[1], pair[0])

    if threads == 1:
        times = repeat(lambda: copy(pairs[0]), _COPY_S)
    else:
        with ThreadPoolExecutor(max_workers=threads) as pool:
            times = repeat(lambda: list(pool.map(copy, pairs)), _COPY_S)
    moved = 16 * part * threads
    return {
        "bytes": moved,
        "best_ns": max(1, times["best_ns"] // inner),
        "median_ns": max(1, times["median_ns"] // inner),
    }


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:  # noqa: PTH123
        return stream.read().strip()
    return ""
