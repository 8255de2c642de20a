"""The plot of single inferences over a campaign, with what the device's sensors said meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.reporting.schema_measured import Process, Timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DOT: Final = "#3d8bd4"
_MEDIAN: Final = "#1f5f9e"
_INK: Final = "#808890"
_HOT: Final = "#cf5b5b"
_SHOWN_RATIO: Final = 0.995  # the slowest few may be far off: they are counted at the upper edge
_HEADROOM: Final = 1.25
_LIMIT: Final = 3.0  # of the slowest process: what matters must not be a line at the bottom


def draw_timeline(axes: Axes, timeline: Timeline) -> None:
    """Each inference a dot, each process a panel with its median; slowed-down ones shaded, sensors on the right."""
    processes = [process for process in timeline.processes if process.ms]
    pooled = sorted(value for process in processes for value in process.ms)
    middle = pooled[len(pooled) // 2]
    slowest = max(sorted(process.ms)[len(process.ms) // 2] for process in processes)
    top = min(_HEADROOM * max(pooled[int(_SHOWN_RATIO * (len(pooled) - 1))], middle), _LIMIT * slowest)
    above = sum(value > top for value in pooled)
    start = 0
    edges = []
    for process in processes:
        end = start + len(process.ms)
        axes.plot(
            range(start, end), [min(value, top) for value in process.ms], ".", color=_DOT, markersize=2, alpha=0.45
        )
        median = sorted(process.ms)[len(process.ms) // 2]
        axes.plot((start, end), (median, median), color=_MEDIAN, linewidth=1.6, solid_capstyle="butt")
        if process.throttled:
            axes.axvspan(start, end, color=_HOT, alpha=0.14, linewidth=0)
        edges.append((start, end))
        start = end
    for _, end in edges[:-1]:
        axes.axvline(end, color=_INK, linewidth=0.6, alpha=0.5)
    step = max(1, -(-len(edges) // 12))
    named = list(range(0, len(edges), step))
    axes.set_xticks([sum(edges[i]) / 2 for i in named], [str(processes[i].block + 1) for i in named])
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    axes.set_xlim(0, start)
    axes.set_ylim(0, 1.04 * top)
    axes.set_xlabel("block" + (f"  (dots at the upper edge: {above} slower ones)" if above else ""))
    axes.set_ylabel("latency of an inference, ms")
    _sensors(axes, processes, edges)


def _sensors(axes: Axes, processes: list[Process], edges: list[tuple[int, int]]) -> None:
    """Temperature, or where there is none the CPU's frequency, on an axis of its own."""
    for label, values in (
        ("temperature, \N{DEGREE SIGN}C", [process.temp_c for process in processes]),
        ("CPU frequency, MHz", [process.freq_mhz for process in processes]),
    ):
        known = [(sum(edge) / 2, value) for edge, value in zip(edges, values, strict=True) if value is not None]
        if known:
            right = axes.twinx()
            right.plot(*zip(*known, strict=True), color=_HOT, linewidth=1.2, marker="o", markersize=3)
            right.set_ylabel(label, color=_HOT)
            right.spines["right"].set_visible(True)
            right.grid(visible=False)
            right.margins(y=0.4)
            return
