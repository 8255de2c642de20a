"""Time of each node of an engine, from the runtime's own profiler, beside the same loop without the profiler."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from .arrays import read_inputs
from .failure import BAD_INPUT, DEVICE, Failure
from .session import Options, Session, import_runtime, one_sample_feeds, open_session, read_spec, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    Feed = Mapping[str, np.ndarray]

MAX_EVENTS = 60_000  # about 35 MB of profile
MAX_PROFILE_BYTES = 128 << 20
_ROTATION = 64  # distinct samples, at most
_WARM_UP = 10
_WARM_UP_S = 0.5
_CAP_S = 20.0  # for each of the two loops
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_SUFFIX = "_kernel_time"


class _Run(NamedTuple):
    """Wall times of the calls of one loop, in nanoseconds."""

    walls_ns: list[int]
    warm_up_calls: int


def profile_layers(folder: Path, samples: str, iterations: int) -> dict[str, Any]:
    """What each node of the engine takes, one sample at a time.

    Two sessions, one after the other: the first one is timed as a whole, the second one with the runtime's profiler on.
    The profiler counts whole microseconds; medians are those of grouped data (Zar, Biostatistical Analysis, section
    3.2), so that they resolve less than that.

    Args:
        folder: The engine folder.
        samples: An .npz of real, preprocessed samples; up to 64 are used in rotation.
        iterations: Inferences to time in each session; fewer where the profile or the time would get too large.

    Returns:
        ``nodes`` in the order of execution (``index``, ``name``, ``op``, ``provider``, ``calls``, ``median_ns``,
        ``share_ratio`` of the sum, ``inputs`` and ``outputs`` as ``[dtype, shape]``; weights that the runtime has
        packed for itself are missing there), ``nodes_sum_ns``, ``wall_median_ns`` without and
        ``profiled_wall_median_ns`` with the profiler, and what was run.

    Raises:
        Failure: The input does not fit (3), the engine is another one (4), or the runtime fails (5, 6).
    """
    if iterations < 1:
        raise Failure(BAD_INPUT, "nothing to profile", f"iterations is {iterations}", "give at least 1")
    spec = read_spec(folder)
    if spec.get("engine", "onnxruntime") not in {"onnxruntime", "openvino"}:
        what = "the layers of this engine are not timed one by one"
        raise Failure(BAD_INPUT, what, "this engine is one of {}".format(spec["engine"]), "measure it as a whole")
    feeds = one_sample_feeds({k: v[:_ROTATION] for k, v in read_inputs(samples).items()}, spec)
    if spec.get("engine") == "openvino":
        from .openvino_layers import profile_openvino

        return profile_openvino(folder, spec, feeds, iterations)
    runtime = import_runtime()
    try:
        plain = _loop(_open(folder, spec, ""), feeds, iterations)
        with tempfile.TemporaryDirectory(prefix="edgepress-") as private:
            count = len(_profiled(folder, spec, feeds, 1, os.path.join(private, "count"), warm=False)[1])  # noqa: PTH118
            affordable = max(1, MAX_EVENTS // max(1, count) - _WARM_UP)
            prefix = os.path.join(private, "profile")  # noqa: PTH118
            loud, events = _profiled(folder, spec, feeds, min(len(plain.walls_ns), affordable), prefix, warm=True)
    except runtime_errors() as error:
        raise Failure(
            DEVICE,
            "the engine failed while it was profiled",
            " ".join(str(error).split())[:500],
            "run `verify` on the bundle on this device",
        ) from error
    nodes = summarise_nodes(events, loud.warm_up_calls)
    return {
        "engine_sha256": spec["sha256"],
        "runtime_version": str(runtime.__version__),
        "optimization": spec["options"]["optimization"],
        "threads": spec["options"]["threads"],
        "iterations": len(loud.walls_ns),
        "n_distinct": len(feeds),
        "nodes": nodes,
        "nodes_sum_ns": sum(node["median_ns"] for node in nodes),
        "wall_median_ns": round(statistics.median(plain.walls_ns)),
        "wall_min_ns": min(plain.walls_ns),
        "profiled_wall_median_ns": round(statistics.median(loud.walls_ns)),
    }


def _open(folder: Path, spec: Mapping[str, Any], prefix: str) -> Session:
    """A session as engine.json fixes it; with a prefix, its profiler is on."""

    def configure(settings: Options) -> None:
        if prefix:
            settings.enable_profiling = True
            settings.profile_file_prefix = prefix

    return open_session(folder, spec, configure=configure)


def _profiled(
    folder: Path, spec: Mapping[str, Any], feeds: Sequence[Feed], iterations: int, prefix: str, *, warm: bool
) -> tuple[_Run, list[dict[str, Any]]]:
    session = _open(folder, spec, prefix)
    run = _loop(session, feeds, iterations, warm_up_calls=_WARM_UP if warm else 0)
    return run, read_profile(session.end_profiling())


def _loop(session: Session, feeds: Sequence[Feed], iterations: int, warm_up_calls: int | None = None) -> _Run:
    """Warm-up of so many calls (of half a second where not said), then the timed calls, at most 20 s."""
    clock = time.perf_counter_ns
    begin, warmed = clock(), 0
    while warmed < (_WARM_UP if warm_up_calls is None else warm_up_calls) or (
        warm_up_calls is None and clock() - begin < _WARM_UP_S * 1e9
    ):
        session.run(None, feeds[warmed % len(feeds)])
        warmed += 1
    walls: list[int] = []
    begin = clock()
    while len(walls) < iterations and (not walls or clock() - begin < _CAP_S * 1e9):
        feed = feeds[len(walls) % len(feeds)]
        start = clock()
        session.run(None, feed)
        walls.append(clock() - start)
    return _Run(walls, warmed)


def read_profile(path: str) -> list[dict[str, Any]]:
    """The node events of a profile that the runtime wrote, in its order; nodes inside If and Loop bodies are left out.

    Raises:
        Failure: It is too large, no profile, or names no node.
    """
    fix = "profile fewer iterations, or check that this onnxruntime is built with its profiler"
    try:
        size = os.path.getsize(path)  # noqa: PTH202
        if size > MAX_PROFILE_BYTES:
            raise Failure(DEVICE, "the runtime's profile is too large", f"{size} bytes", fix)
        with open(path, encoding="utf-8") as stream:  # noqa: PTH123
            document = json.load(stream)
        events = [_event(item) for item in document if _is_node(item)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Failure(DEVICE, "the runtime's profile cannot be read", repr(error)[:300], fix) from error
    if not events:
        raise Failure(DEVICE, "the runtime's profile names no node", f"it has {len(document)} events", fix)
    bodies = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["op"] in _CONTROL]
    return [event for event in events if not bodies or event["op"] in _CONTROL or not _inside(event, bodies)]


def _is_node(item: Mapping[str, Any]) -> bool:
    return item.get("cat") == "Node" and str(item.get("name", "")).endswith(_SUFFIX)


def _event(item: Mapping[str, Any]) -> dict[str, Any]:
    given = item["args"]
    return {
        "ts": int(item["ts"]),
        "dur": int(item["dur"]),
        "index": int(given["node_index"]),
        "name": str(item["name"])[: -len(_SUFFIX)],
        "op": str(given["op_name"]),
        "provider": str(given["provider"]),
        "inputs": list(_types(given.get("input_type_shape", []))),
        "outputs": list(_types(given.get("output_type_shape", []))),
    }


def _types(listed: Sequence[Mapping[str, Sequence[int]]]) -> Iterator[list[Any]]:
    for entry in listed:
        for dtype, shape in entry.items():
            yield [str(dtype), [int(size) for size in shape]]


def _inside(event: Mapping[str, Any], bodies: Sequence[tuple[int, int]]) -> bool:
    return any(start <= event["ts"] and event["ts"] + event["dur"] <= end for start, end in bodies)


def summarise_nodes(events: Sequence[Mapping[str, Any]], skip: int) -> list[dict[str, Any]]:
    """One row a node; the first ``skip`` calls of each are warm-up (kept where there are no others)."""
    calls: dict[tuple[int, str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        calls.setdefault((event["index"], event["name"], event["op"]), []).append(event)
    rows = []
    for (index, name, op), seen in calls.items():
        timed = seen[skip:] or seen
        rows.append(
            {
                "index": index,
                "name": name,
                "op": op,
                "provider": timed[-1]["provider"],
                "calls": len(timed),
                "median_ns": _median_ns([event["dur"] for event in timed]),
                "inputs": timed[-1]["inputs"],
                "outputs": timed[-1]["outputs"],
            }
        )
    total = sum(row["median_ns"] for row in rows)
    for row in rows:
        row["share_ratio"] = row["median_ns"] / total if total else 0.0
    return rows


def _median_ns(whole_us: Sequence[int]) -> int:
    """Nanoseconds: the median of times that were cut to whole microseconds; a time ``v`` stands for ``[v, v + 1)``."""
    return max(1, round(1000 * statistics.median_grouped([value + 0.5 for value in whole_us], interval=1)))
