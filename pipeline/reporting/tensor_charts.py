"""Plots of layers and tensors: where the time goes, widths before and after, values of the worst tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.reporting import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.reporting.schema_layers import Calibrated, LayerTimes
    from pipeline.reporting.schema_pruned import Width

INK: Final = "#808890"
BOUND_COLOURS: Final = {"compute": "#3d8bd4", "memory": "#e0862b", "overhead": "#b267c7", "": "#8b93a1"}
SLOWEST: Final = 10
MOST_BARS: Final = 24
_BAR: Final = "#3d8bd4"
_CLIP: Final = "#cf5b5b"
_LEGEND_CHARACTERS: Final = 50  # in a row
_EMPTY: Final = 0.5  # where a logarithmic axis begins


def draw_times(axes: Axes, times: LayerTimes) -> None:
    """The slowest nodes, the slowest on top, coloured by what bounds them."""
    rows = sorted(times.rows, key=lambda row: -row.us)[:SLOWEST]
    places = range(len(rows))
    for bound, colour in BOUND_COLOURS.items():
        own = [(place, row.us) for place, row in zip(places, rows, strict=True) if row.bound == bound]
        if own:
            lengths = [us for _, us in own]
            axes.barh([place for place, _ in own], lengths, color=colour, height=0.68, label=bound or "not known")
    axes.set_yticks(places, [short(row.module or row.node or row.op, 22) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("microseconds")
    legend_below(axes, 4)


def draw_widths(axes: Axes, widths: Sequence[Width]) -> None:
    """Channels before (pale) and after (solid); group by group, or as two steps where they are many."""
    from matplotlib.ticker import MaxNLocator

    before, after = [w.before for w in widths], [w.after for w in widths]
    if len(widths) > MOST_BARS:
        places = range(len(widths))
        axes.fill_between(places, before, step="mid", color=INK, alpha=0.35, linewidth=0, label="before")
        axes.fill_between(places, after, step="mid", color=_BAR, alpha=0.8, linewidth=0, label="after")
        axes.set_xlabel("group of coupled layers, in order")
        axes.set_ylabel("channels")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        rows = range(len(widths))
        axes.barh(rows, before, color=INK, alpha=0.35, height=0.72, label="before")
        axes.barh(rows, after, color=_BAR, height=0.4, label="after")
        axes.set_yticks(rows, [short(w.group, 22) for w in widths])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("channels")
    legend_below(axes, 2)


def draw_histograms(figure: Figure, tensors: Sequence[Calibrated]) -> None:
    """Values of each tensor, and the range that int8 spans between the two lines; counts on a log scale."""
    panels = figure.subplots(len(tensors), 1, squeeze=False)
    for axes, tensor in zip(panels[:, 0], tensors, strict=True):
        bars = tensor.histogram
        if bars is None:
            continue
        width = (bars.high - bars.low) / len(bars.counts) or 1.0
        edges = [bars.low + index * width for index in range(len(bars.counts) + 1)]
        axes.stairs([max(count, _EMPTY) for count in bars.counts], edges, fill=True, baseline=_EMPTY, color=_BAR)
        for end in (tensor.low, tensor.high):
            axes.axvline(end, color=_CLIP, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_yticks([])
        axes.minorticks_off()
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        noise = "" if tensor.snr_db is None else f", {tensor.snr_db:.0f} dB"
        axes.set_title(f"{short(tensor.module or tensor.tensor, 34)}{noise}", loc="left", fontsize="medium")


def legend_below(axes: Axes, columns: int) -> None:
    """The legend under the plot, where it hides nothing."""
    figure = axes.get_figure(root=True)
    handles, labels = axes.get_legend_handles_labels()
    if figure is not None and handles:
        columns = max(1, min(columns, _LEGEND_CHARACTERS // (max(map(len, labels)) + 5)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2, handlelength=1.2)


def short(name: str, limit: int = 26) -> str:
    """A name that fits; its end tells most."""
    name = name or text.NONE
    return name if len(name) <= limit else f"…{name[-limit + 1 :]}"
