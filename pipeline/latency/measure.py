"""Times nets on a device: each layer by the runtime's profiler, several passes interleaved, scaled to the whole net."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.layers import checked
from pipeline.benchmarking.modules import module_of
from pipeline.latency.model import NetTimes
from pipeline.latency.nets import modules_of
from targets.engines.base import ENGINE_JSON, EngineBuild

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.pruning.widths import Widths
    from targets.devices.base import Session

PASSES: Final = 2
_TIMEOUT_S: Final = 240.0
_LOOP_S: Final = 0.25
_FEWEST, _MOST = 20, 400


def measure_nets(
    session: Session,
    engines: Sequence[Path],
    nets: Sequence[Widths],
    samples: Path,
    *,
    affinity: str,
    seed: int,
    on_done: Callable[[int, int], None],
) -> tuple[list[NetTimes], dict[str, str]]:
    """The times of all nets, the least disturbed of several passes in random order; and each module's kind.

    Args:
        session: The device, held.
        engines: Engine folders.
        nets: Their widths, the whole net first.
        samples: An .npz of real samples.
        affinity: The CPUs to use.
        seed: Of the order.
        on_done: Told how many of how many runs are done.

    Raises:
        DeviceError: The device failed, or its answer is not usable.
    """
    builds = [EngineBuild.read(folder) for folder in engines]
    session.put(samples, "samples.npz")
    for index, build in enumerate(builds):
        for name in (ENGINE_JSON, build.file, *build.files):
            session.put(build.folder / name, f"engines/{index}/{name}")
    order = [index for _ in range(PASSES) for index in range(len(builds))]
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, no secret
    runs: dict[int, list[dict[str, Any]]] = {index: [] for index in range(len(builds))}
    iterations = _FEWEST
    for done, index in enumerate([0, *order]):  # the first run only says how long the loops may be
        command = ["layers", f"engines/{index}", "--samples", "samples.npz", "--iterations", str(iterations)]
        answer = session.run([*command, "--affinity", affinity], timeout_s=_TIMEOUT_S)
        profile = checked(answer.result, builds[index].sha256)
        if done == 0:
            iterations = int(min(_MOST, max(_FEWEST, _LOOP_S * 1e9 / profile["wall_median_ns"])))
            continue
        runs[index].append(profile)
        on_done(done, len(order))
    times = [_net_times(widths, runs[index], modules_of(engines[index])) for index, widths in enumerate(nets)]
    return times, _kinds(runs[0][0], modules_of(engines[0]))


def _net_times(widths: Widths, profiles: Sequence[Mapping[str, Any]], modules: Mapping[str, str]) -> NetTimes:
    """The quietest of the passes, node by node.

    A profiled node takes longer by what the profiler takes: the same for each, so that together they are the whole
    net's time without it.
    """
    total_ns = min(float(profile["wall_median_ns"]) for profile in profiles)
    nodes: dict[str, float] = {}
    for profile in profiles:
        for row in profile["nodes"]:
            nodes[row["name"]] = min(nodes.get(row["name"], float("inf")), float(row["median_ns"]))
    overhead_ns = _overhead(list(nodes.values()), total_ns)
    layers: dict[str, float] = {}
    for name, time_ns in nodes.items():
        module = _module(name, modules)
        if module is not None:
            layers[module] = layers.get(module, 0.0) + max(0.0, time_ns - overhead_ns) / 1e6
    return NetTimes(widths=dict(widths), layers_ms=layers, total_ms=total_ns / 1e6)


def _overhead(nodes_ns: Sequence[float], total_ns: float) -> float:
    """What to take off each node so that what is left adds up to the whole; none is left with less than nothing."""
    low, high = 0.0, max(nodes_ns)
    if sum(nodes_ns) <= total_ns:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(max(0.0, time_ns - middle) for time_ns in nodes_ns) > total_ns:
            low = middle
        else:
            high = middle
    return high


def _module(name: str, modules: Mapping[str, str]) -> str | None:
    return module_of(name, modules) or module_of(name.rpartition("/")[0], modules)


def _kinds(profile: Mapping[str, Any], modules: Mapping[str, str]) -> dict[str, str]:
    """By module, what its longest node is: operator, shapes of its inputs and output in the whole net."""
    longest: dict[str, Mapping[str, Any]] = {}
    for row in profile["nodes"]:
        module = _module(row["name"], modules)
        if module is not None and row["median_ns"] > longest.get(module, {"median_ns": 0.0})["median_ns"]:
            longest[module] = row
    return {
        module: f"{row['op']} {[shape for _, shape in row['inputs']]} {[shape for _, shape in row['outputs']]}"
        for module, row in longest.items()
    }
