"""The plots of the report: matplotlib to inline SVG, the same bytes for the same run, readable on light and on dark.

Text stays text and takes the page's colour (the style sheet sees to it); backgrounds are transparent.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pipeline.reporting.schema import Candidate, Epoch, RunReport
from pipeline.reporting.story import front
from pipeline.reporting.tensor_charts import (
    MOST_BARS,
    SLOWEST,
    draw_histograms,
    draw_times,
    draw_widths,
    legend_below,
    short,
)
from pipeline.reporting.text import wilson
from pipeline.reporting.timeline import draw_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Plot: TypeAlias = "tuple[Callable[[Axes], None], float]"
"""What draws it, and its height in inches."""

_INK: Final = "#808890"
_COLOURS: Final = ("#8b93a1", "#3d8bd4", "#e0862b", "#2fa37a", "#b267c7", "#cf5b5b")
_WIDTH_INCHES: Final = 5.0
_STYLE: Final[Mapping[Any, Any]] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif", "font.size": 12.6,
    "legend.fontsize": 12.6, "xtick.labelsize": 12.6, "ytick.labelsize": 12.6, "axes.edgecolor": _INK,
    "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.color": _INK, "grid.alpha": 0.22, "grid.linewidth": 0.6,
    "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 72, "axes.formatter.useoffset": False,
    "axes.unicode_minus": False, "lines.linewidth": 1.8,
}  # fmt: skip
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}
_ROOM: Final = 1.25
_COLUMNS_FROM: Final = 4  # as many histograms stand side by side
_LIMIT: Final = "#cf5b5b"


def charts(run: RunReport) -> dict[str, str]:
    """All plots the run has data for: name to SVG element."""
    drawn = _of_candidates(run) | _of_training(run) | _of_layers(run)
    plots = {name: svg(name, draw, height) for name, (draw, height) in drawn.items()}
    worst = [tensor for tensor in run.calibration if tensor.histogram is not None]
    if worst:
        half = len(worst) if len(worst) < _COLUMNS_FROM else (len(worst) + 1) // 2
        for name, part in (("histograms", worst[:half]), ("histograms-more", worst[half:])):
            if part:
                plots[name] = figure_svg(name, partial(draw_histograms, tensors=part), 1.25 * len(part))
    return plots


def _of_candidates(run: RunReport) -> dict[str, _Plot]:
    drawn: dict[str, _Plot] = {}
    if any(c.accuracy is not None and c.latency_ms is not None for c in run.candidates):
        drawn["tradeoff"] = (lambda axes: _tradeoff(axes, run), 3.9)
    if any(c.latency_ms is not None for c in run.candidates):
        drawn["latencies"] = (lambda axes: _latencies(axes, run), 1.1 + 0.36 * len(run.candidates))
    if _blocked(run):
        drawn["blocks"] = (lambda axes: _blocks(axes, run), 1.4 + 0.42 * len(_blocked(run)))
    if _blocked(run) or any(c.quantiles_ms for c in run.candidates):
        drawn["ecdf"] = (lambda axes: _ecdf(axes, run), 3.9)
    times = run.timeline
    if times is not None and any(process.ms for process in times.processes):
        drawn["timeline"] = (lambda axes: draw_timeline(axes, times), 3.6)
    return drawn


def _of_training(run: RunReport) -> dict[str, _Plot]:
    order = {stage.stage: index for index, stage in enumerate(run.stages)}
    named = sorted(run.curves, key=lambda name: (order.get(name, len(order)), name))
    curves = {name: run.curves[name] for name in named if run.curves[name]}
    drawn: dict[str, _Plot] = {}
    if any(e.loss is not None for epochs in curves.values() for e in epochs):
        drawn["loss"] = (lambda axes: _curves(axes, curves, lambda e: e.loss, "training loss"), 3.2)
    if any(e.accuracy is not None for epochs in curves.values() for e in epochs):
        label = f"validation {short(run.task.metric)}"
        drawn["learning"] = (lambda axes: _curves(axes, curves, lambda e: e.accuracy, label), 3.2)
    return drawn


def _of_layers(run: RunReport) -> dict[str, _Plot]:
    drawn: dict[str, _Plot] = {}
    if run.widths:
        rows = len(run.widths)
        drawn["widths"] = (lambda axes: draw_widths(axes, run.widths), 3.2 if rows > MOST_BARS else 1.1 + 0.3 * rows)
    profile = run.times
    if profile is not None and profile.rows:
        drawn["times"] = (lambda axes: draw_times(axes, profile), 1.2 + 0.3 * min(SLOWEST, len(profile.rows)))
    return drawn


def svg(name: str, draw: Callable[[Axes], None], height_inches: float) -> str:
    """One plot as an SVG element that takes the page's colours and width; the same drawing gives the same bytes."""
    return figure_svg(name, lambda figure: draw(figure.add_subplot()), height_inches)


def figure_svg(name: str, draw: Callable[[Figure], None], height_inches: float) -> str:
    """The same of several plots in one figure."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        # The browser draws the text with its own fonts: a glyph that matplotlib's font lacks is not missing there.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    return _inline(name, buffer.getvalue())


def _inline(name: str, svg: str) -> str:
    """The ``<svg>`` element alone, with identifiers that are its own in the page, sized by the page."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<style.*?</style>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'href="#', f'href="#{name}-', element)
    element = re.sub(r"url\(#", f"url(#{name}-", element)
    head, body = element.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{name}">{body}'


def _coloured(run: RunReport) -> list[tuple[Candidate, str]]:
    """Every candidate with its colour, the same in all plots."""
    return [(candidate, _colour(index)) for index, candidate in enumerate(run.candidates)]


def _blocked(run: RunReport) -> list[tuple[Candidate, str]]:
    """Those that were measured in several processes."""
    return [(candidate, colour) for candidate, colour in _coloured(run) if len(candidate.block_medians_ms) > 1]


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _tradeoff(axes: Axes, run: RunReport) -> None:
    """Accuracy against latency, with both 95 % intervals; the front joined, the shipped one ringed, limits dashed."""
    points = [(c, colour) for c, colour in _coloured(run) if c.latency_ms is not None and c.accuracy is not None]
    for candidate, colour in points:
        latency = candidate.latency_ms
        assert latency is not None
        assert candidate.accuracy is not None
        x, y = latency.value, candidate.accuracy
        if latency.ci95:
            axes.plot(latency.ci95, (y, y), color=colour, linewidth=1.4, solid_capstyle="butt")
        bounds = wilson(y, run.task.metric, run.validation.samples)
        if bounds:
            axes.plot((x, x), bounds, color=colour, linewidth=1.0, alpha=0.6)
        axes.plot(x, y, "o", color=colour, markersize=7, label=short(candidate.name, 22))
        if candidate.shipped:
            axes.plot(x, y, "o", markersize=15, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.8)
    best = [(c.latency_ms.value, c.accuracy) for c in front(run.candidates) if c.latency_ms]
    if len(best) > 1:
        axes.plot(*zip(*best, strict=True), color=_INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=0)
    _limits(axes, run)
    slowest = max(c.latency_ms.value for c, _ in points if c.latency_ms)
    axes.set_xlim(0, slowest * _ROOM)  # an interval without end must not push all points into a corner
    axes.margins(y=0.15)
    axes.set_xlabel("latency, ms  (left is better)")
    axes.set_ylabel(f"validation {short(run.task.metric)}")
    legend_below(axes, 3)


def _limits(axes: Axes, run: RunReport) -> None:
    """The budget, where it limits what is drawn."""
    first, drop, ceiling = run.candidates[0].accuracy, run.budget.get("accuracy_drop"), run.budget.get("latency_ms")
    if first is not None and isinstance(drop, int | float):
        axes.axhline(first - drop, color=_LIMIT, linewidth=1.0, linestyle="--", label="accuracy floor")
    if isinstance(ceiling, int | float):
        axes.axvline(ceiling, color=_LIMIT, linewidth=1.0, linestyle=":", label="latency ceiling")


def _latencies(axes: Axes, run: RunReport) -> None:
    """A bar for each candidate, with its interval; what ships is solid."""
    shown = [(c, colour) for c, colour in _coloured(run) if c.latency_ms is not None]
    longest = max(c.latency_ms.value for c, _ in shown if c.latency_ms)
    for place, (candidate, colour) in enumerate(shown):
        latency = candidate.latency_ms
        assert latency is not None
        axes.barh(place, latency.value, color=colour, height=0.62, alpha=1.0 if candidate.shipped else 0.55)
        if latency.ci95:
            axes.plot(latency.ci95, (place, place), color=_INK, linewidth=1.6, solid_capstyle="butt")
    names = [f"{short(c.name, 20)}{' *' if c.shipped else ''}" for c, _ in shown]
    axes.set_yticks(range(len(shown)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, longest * _ROOM)
    axes.set_xlabel("latency, ms  (* ships)")


def _blocks(axes: Axes, run: RunReport) -> None:
    """Every fresh process as a dot; what ran in the same block is joined."""
    shown = _blocked(run)
    for block in range(max(len(c.block_medians_ms) for c, _ in shown)):
        joined = [(c.block_medians_ms[block], i) for i, (c, _) in enumerate(shown) if block < len(c.block_medians_ms)]
        axes.plot(*zip(*joined, strict=True), color=_INK, linewidth=0.8, alpha=0.5)
    for index, (candidate, colour) in enumerate(shown):
        medians = candidate.block_medians_ms
        axes.plot(medians, [index] * len(medians), "o", color=colour, markersize=6, alpha=0.85)
    axes.set_yticks(range(len(shown)), [short(c.name, 20) for c, _ in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("median latency of a process, ms")


def _ecdf(axes: Axes, run: RunReport) -> None:
    """Single inferences where their quantiles are known, else the medians of the processes."""
    single = [(candidate, colour) for candidate, colour in _coloured(run) if len(candidate.quantiles_ms) > 1]
    for candidate, colour in single or _blocked(run):
        values = list(candidate.quantiles_ms if single else candidate.block_medians_ms)
        axes.ecdf(values, color=colour, label=short(candidate.name))
    axes.set_xscale("log")
    _plain_log_axis(axes)
    axes.set_xlabel(f"{'latency of an inference' if single else 'median latency of a process'}, ms (log scale)")
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel(f"share of {'inferences' if single else 'processes'}")
    legend_below(axes, 3)


def _plain_log_axis(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.get_xlim()
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 8 * low else (1.0, 2.0, 5.0) if high < 200 * low else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _curves(
    axes: Axes, curves: Mapping[str, Sequence[Epoch]], value: Callable[[Epoch], float | None], label: str
) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, (name, epochs) in enumerate(curves.items(), start=1):
        known = [(e.epoch, v) for e in epochs if (v := value(e)) is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=_colour(index), label=short(name), marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    last = max(e.epoch for epochs in curves.values() for e in epochs)
    axes.set_xlim(0.5, last + 0.5)  # a single epoch is a point, not a scale of thousandths
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    legend_below(axes, 3)
