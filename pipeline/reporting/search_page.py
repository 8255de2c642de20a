"""The page of a search: the front, every candidate, and what to do with the best. No script, nothing remote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pipeline.reporting import text
from pipeline.reporting.templates import templates
from pipeline.reporting.tensor_charts import legend_below

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEMPLATE: Final = "search.html.jinja"
_HEIGHT_INCHES: Final = 3.4
_AXES: Final[Mapping[str, tuple[str, float]]] = {
    "latency": ("latency ratio to the uncompressed", 1.0),
    "accuracy": ("accuracy lost, points", 100.0),
    "size": ("size, MB", 1e-6),
    "memory": ("peak memory, MB", 1e-6),
}
_KEYS: Final = {"latency": "latency_ratio", "accuracy": "accuracy_drop", "size": "size_bytes", "memory": "memory_bytes"}


def render_search(found: Mapping[str, Any]) -> str:
    """The text of ``search.html``; the same findings give the same bytes."""
    from markupsafe import Markup

    from pipeline.reporting.charts import svg

    best = next((trial for trial in found["trials"] if trial["number"] == found["best"]), None)
    plot = None
    if found["trials"]:
        plot = Markup(svg("front", lambda axes: _front(axes, found), _HEIGHT_INCHES))  # noqa: S704
    return str(
        templates()
        .get_template(_TEMPLATE)
        .render(
            found=found,
            best=best,
            plot=plot,
            front=[trial for number in found["front"] for trial in found["trials"] if trial["number"] == number],
            sentence=_sentence(found, best),
            t=text,
        )
    )


def _sentence(found: Mapping[str, Any], best: Mapping[str, Any] | None) -> str:
    """The search in one sentence."""
    if best is None:
        return "No candidate could be measured yet."
    engine = best["engine"]
    faster = (
        f"{1 / engine['latency_ratio']:.2f}x the speed of the uncompressed model, " if engine["latency_ratio"] else ""
    )
    lost = (
        f"{100 * engine['accuracy_drop']:+.2f} points of accuracy lost"
        if engine["accuracy_drop"]
        else "no accuracy lost"
    )
    head = f"Trial {best['number'] + 1} leads with {engine['name']}: {faster}{lost}, {text.size(engine['size_bytes'])}."
    if found["met_budget"]:
        return f"{head} A full measurement confirmed that it meets the budget."
    if best["feasible"]:
        return f"{head} Not yet confirmed by a full measurement."
    return f"{head} Nothing meets the budget: {'; '.join(found['binding'])}."


def _front(axes: Axes, found: Mapping[str, Any]) -> None:
    """Every candidate on the first two objectives; the front joined, the best ringed."""
    objectives = (*found["objectives"], *(("accuracy", "size") if len(found["objectives"]) == 1 else ()))
    x, y = list(dict.fromkeys(objectives))[:2]
    points = [(trial, _value(trial, x), _value(trial, y)) for trial in found["trials"]]
    drawn = [(trial, a, b) for trial, a, b in points if a is not None and b is not None]
    for feasible, colour, label in ((False, "#cf5b5b", "misses the budget"), (True, "#3d8bd4", "meets the budget")):
        own = [(a, b) for trial, a, b in drawn if trial["feasible"] is feasible]
        if own:
            axes.plot(*zip(*own, strict=True), "o", color=colour, markersize=5, label=label, alpha=0.85)
    line = sorted((a, b) for trial, a, b in drawn if trial["number"] in found["front"])
    if len(line) > 1:
        axes.plot(*zip(*line, strict=True), color="#8b93a1", linewidth=1.2, zorder=0, label="front")
    for trial, a, b in drawn:
        if trial["number"] == found["best"]:
            axes.plot(a, b, "o", markersize=13, markerfacecolor="none", markeredgecolor="#2fa37a", markeredgewidth=1.6)
    legend_below(axes, 3)
    axes.margins(0.12)
    axes.set_xlabel(_AXES[x][0])
    axes.set_ylabel(_AXES[y][0])


def _value(trial: Mapping[str, Any], objective: str) -> float | None:
    value = trial["engine"][_KEYS[objective]]
    return None if value is None else float(value) * _AXES[objective][1]
