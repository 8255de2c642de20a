"""The plots of the report: matplotlib to inline SVG, the same bytes for the same run, readable on light and on dark.

Text stays text and takes the page's colour (the style sheet sees to it); backgrounds are transparent.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from pipeline.reporting.schema import Candidate, Epoch, RunReport
from pipeline.reporting.text import wilson
from pipeline.reporting.timeline import draw_timeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK: Final = "#808890"
_COLOURS: Final = ("#8b93a1", "#3d8bd4", "#e0862b", "#2fa37a", "#b267c7", "#cf5b5b")
_WIDTH_INCHES: Final = 5.0
_STYLE: Final[Mapping[Any, Any]] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.family": "sans-serif",
    "font.size": 9, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "text.color": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": _INK,
    "grid.alpha": 0.22, "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 72,
    "axes.formatter.useoffset": False, "axes.unicode_minus": False, "lines.linewidth": 1.8,
}  # fmt: skip
_NO_METADATA: Final = {"Date": None, "Creator": None, "Format": None, "Type": None}
_MAX_WIDTH_BARS: Final = 40


def charts(run: RunReport) -> dict[str, str]:
    """All plots the run has data for: name to SVG element."""
    drawn: dict[str, tuple[Callable[[Axes], None], float]] = {}
    if any(c.accuracy is not None and c.latency_ms is not None for c in run.candidates):
        drawn["tradeoff"] = (lambda axes: _tradeoff(axes, run), 3.1)
    if _blocked(run):
        drawn["blocks"] = (lambda axes: _blocks(axes, run), 3.1)
    if _blocked(run) or any(c.quantiles_ms for c in run.candidates):
        drawn["ecdf"] = (lambda axes: _ecdf(axes, run), 3.1)
    times = run.timeline
    if times is not None and any(process.ms for process in times.processes):
        drawn["timeline"] = (lambda axes: draw_timeline(axes, times), 3.1)
    curves = {name: epochs for name, epochs in run.curves.items() if epochs}
    if any(e.loss is not None for epochs in curves.values() for e in epochs):
        drawn["loss"] = (lambda axes: _curves(axes, curves, lambda e: e.loss, "training loss"), 2.6)
    if any(e.accuracy is not None for epochs in curves.values() for e in epochs):
        drawn["learning"] = (
            lambda axes: _curves(axes, curves, lambda e: e.accuracy, f"validation {_short(run.task.metric)}"),
            2.6,
        )
    if 0 < len(run.widths) <= _MAX_WIDTH_BARS:
        drawn["widths"] = (lambda axes: _widths(axes, run), 0.8 + 0.26 * len(run.widths))
    return {name: svg(name, draw, height) for name, (draw, height) in drawn.items()}


def svg(name: str, draw: Callable[[Axes], None], height_inches: float) -> str:
    """One plot as an SVG element that takes the page's colours and width; the same drawing gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        # The browser draws the text with its own fonts: a glyph that matplotlib's font lacks is not missing there.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        mpl.rcdefaults()  # whatever the user's matplotlibrc says
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": name})
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained")
        draw(figure.add_subplot())
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
    """Accuracy against latency, with both 95 % intervals; the shipped one ringed."""
    for candidate, colour in _coloured(run):
        latency = candidate.latency_ms
        if latency is None or candidate.accuracy is None:
            continue
        x, y = latency.value, candidate.accuracy
        if latency.ci95:
            axes.plot(latency.ci95, (y, y), color=colour, solid_capstyle="butt")
        bounds = wilson(y, run.task.metric, run.validation.samples)
        if bounds:
            axes.plot((x, x), bounds, color=colour, linewidth=1.0, alpha=0.7)
        label = f"{_short(candidate.name)} (shipped)" if candidate.shipped else _short(candidate.name)
        axes.plot(x, y, "o", color=colour, markersize=7, label=label)
        if candidate.shipped:
            axes.plot(x, y, "o", markersize=14, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=1.5)
    axes.legend()
    axes.margins(x=0.3, y=0.3)
    axes.set_xlabel("latency, ms  (left is better)")
    axes.set_ylabel(f"validation {_short(run.task.metric)}")


def _blocks(axes: Axes, run: RunReport) -> None:
    """Every fresh process as a dot; what ran in the same block is joined."""
    shown = _blocked(run)
    for block in range(max(len(c.block_medians_ms) for c, _ in shown)):
        joined = [(i, c.block_medians_ms[block]) for i, (c, _) in enumerate(shown) if block < len(c.block_medians_ms)]
        axes.plot(*zip(*joined, strict=True), color=_INK, linewidth=0.8, alpha=0.6)
    for index, (candidate, colour) in enumerate(shown):
        medians = candidate.block_medians_ms
        axes.plot([index] * len(medians), medians, "o", color=colour, markersize=5)
    axes.set_xticks(range(len(shown)), [_short(c.name, 60 // len(shown)) for c, _ in shown])
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("median latency of a process, ms")


def _ecdf(axes: Axes, run: RunReport) -> None:
    """Single inferences where their quantiles are known, else the medians of the processes."""
    single = [(candidate, colour) for candidate, colour in _coloured(run) if len(candidate.quantiles_ms) > 1]
    for candidate, colour in single or _blocked(run):
        values = list(candidate.quantiles_ms if single else candidate.block_medians_ms)
        axes.ecdf(values, color=colour, label=_short(candidate.name))
    axes.set_xscale("log")
    _plain_log_axis(axes)
    axes.set_xlabel(f"{'latency of an inference' if single else 'median latency of a process'}, ms (log scale)")
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel(f"share of {'inferences' if single else 'processes'}")
    axes.legend(loc="lower right" if single else "best")


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
            axes.plot(*zip(*known, strict=True), color=_colour(index), label=_short(name), marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.legend(loc="best")


def _widths(axes: Axes, run: RunReport) -> None:
    """Channels before (pale) and after (solid), the first group on top."""
    rows = range(len(run.widths))
    axes.barh(rows, [w.before for w in run.widths], color=_INK, alpha=0.35, height=0.72, label="before")
    axes.barh(rows, [w.after for w in run.widths], color=_COLOURS[1], height=0.4, label="after")
    axes.set_yticks(rows, [_short(w.group) for w in run.widths])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("channels")
    figure = axes.get_figure(root=True)
    if figure is not None:
        figure.legend(loc="outside upper center", ncols=2)


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"
