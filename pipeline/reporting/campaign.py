"""A campaign (``benchmark.json``) for the terminal: a table, the verdicts, the warnings, how to do it again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.reporting import text
from pipeline.reporting.measured import tail_note
from pipeline.reporting.schema_measured import Interval
from pipeline.reporting.summary import notice
from pipeline.reporting.verdicts import device_text, grade_of, noise_text, threads_text, verdict_sentence

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Campaign = Mapping[str, Any]
_GRADE_STYLE: Final = {"A": "bold green", "B": "green", "C": "yellow", "F": "bold red"}
_SEVERITY_STYLE: Final = {"void": "bold red", "warning": "yellow", "note": "dim"}


def campaign_view(document: Campaign) -> RenderableType:
    """A rich renderable; plain text when the console is no terminal. Names are shown literally, never as markup."""
    from rich.console import Group
    from rich.text import Text

    campaign = text.presentable(document, home=str(Path.home()))
    lines: list[RenderableType] = [Text(_heading(campaign), style="bold"), _table(campaign)]
    for b, a in itertools.combinations(campaign["results"], 2):
        lines.append(Text(verdict_sentence(campaign, a, b), style="bold"))
    lines.extend(Text(line) for line in reasons_for_grades(campaign))
    lines.extend(_warning_lines(campaign["warnings"]))
    if campaign.get("reproduce"):
        lines.append(Text(f"Again: {campaign['reproduce']}", style="dim"))
    return Group(*lines)


def engine_rows(campaign: Campaign) -> list[tuple[str, list[str]]]:
    """Label and one cell for each engine; rows that nobody filled are left out."""
    results = list(campaign["results"].items())
    rows: list[tuple[str, Callable[[str, Campaign], str]]] = [
        (f"{_latency_label(campaign['scenario'])} [95 % CI]", lambda _name, r: _interval(r.get("latency_ms"))),
        ("p90", lambda _name, r: _tail(r, "p90")),
        ("p99", lambda _name, r: _tail(r, "p99")),
        ("first inference", lambda _name, r: _interval(r.get("first_ms"))),
        ("load", lambda _name, r: _interval(r.get("load_ms"))),
        ("throughput", lambda _name, r: _throughput(r)),
        ("run peak", lambda _name, r: _memory(r, "run_peak")),
        ("load peak", lambda _name, r: _memory(r, "load_peak")),
        ("USS", lambda _name, r: _memory(r, "steady_uss")),
        ("of attainable", lambda _name, r: _roofline(r.get("roofline"))),
        ("energy, net", lambda _name, r: _energy(r.get("energy"))),
        ("accuracy", lambda name, _r: _accuracy(campaign, name)),
        ("size", lambda name, _r: text.size(campaign["engines"][name]["bytes"])),
        ("quality", lambda name, _r: grade_of(campaign, name)[0]),
    ]
    rows[6:6] = _scenario_rows(campaign)
    filled = [(label, [cell(name, result) for name, result in results]) for label, cell in rows]
    return [(label, cells) for label, cells in filled if any(cell != text.NONE for cell in cells)]


def reasons_for_grades(campaign: Campaign) -> list[str]:
    """Why each engine has the grade it has, apart from warnings, which tell it themselves; nothing for grade A."""
    lines = []
    for name in campaign["results"]:
        grade, reasons = grade_of(campaign, name)
        own = [reason for reason in reasons if not reason.startswith("W-")]
        if grade != "A" and own:
            lines.append(f"{name}, quality {grade}: {'; '.join(own)}.")
    return lines


def _latency_label(scenario: Mapping[str, Any]) -> str:
    """What the headline is: a batch's latency is not an inference's, and a cold start is no latency of either."""
    kind, batch = scenario.get("kind"), scenario.get("batch") or 1
    if kind == "throughput" and batch > 1:
        return f"latency of a batch of {batch}"
    return {"cold": "load and first inference", "paced": "latency since due"}.get(str(kind), "latency")


def _heading(campaign: Campaign) -> str:
    told = campaign["campaign"]
    scenario = campaign["scenario"]["kind"]
    blocks = f"{told['blocks']} block{'' if told['blocks'] == 1 else 's'}"
    parts = [
        f"{device_text(campaign)}, {threads_text(campaign, *campaign['results'])}",
        "" if scenario == "latency" else scenario,
        f"{blocks} in {text.seconds(told['wall_s'])} of {told['budget_s']:g} s, ended by {told['stop']}",
        noise_text(campaign),
        f"mode {told['mode']}" if told.get("mode", "default") != "default" else "",
    ]
    return "; ".join(part for part in parts if part)


def _table(campaign: Campaign) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in campaign["results"]:
        table.add_column(Text(name), justify="right")
    for label, cells in engine_rows(campaign):
        style = _GRADE_STYLE.get if label == "quality" else (lambda _cell, _default: "")
        table.add_row(label, *(Text(cell, style=style(cell, "")) for cell in cells))
    return table


def _interval(measured: Mapping[str, Any] | None) -> str:
    if measured is None:
        return text.NONE
    ci = measured.get("ci95")
    return text.interval(Interval(value=measured["value"], ci95=None if ci is None else (ci[0], ci[1])), "ms")


def _tail(result: Mapping[str, Any], name: str) -> str:
    """A percentile and, below it, what it rests on; or why there is none: ``need 662, have 300``."""
    found = (result.get("tail_ms") or {}).get(name)
    if found is None:
        return text.NONE
    shown, rest = text.percentile(found["value"], tail_note(found))
    return f"{shown}\n{rest}" if rest else shown


def _throughput(result: Mapping[str, Any]) -> str:
    found = result.get("throughput")
    if found is None:
        return text.NONE
    if not found.get("ci95"):
        return f"{text.number(found['ips'])}/s"
    value, low, high = text.supported(found["ips"], found["ci95"])
    return f"{value}/s [{low}, {high}]"


def _memory(result: Mapping[str, Any], name: str) -> str:
    found = (result.get("memory") or {}).get(name)
    return text.NONE if found is None else text.size(found["max_bytes"])


def _roofline(found: Mapping[str, Any] | None) -> str:
    """``43 % (compute-bound)``: the share of the attainable speed, and what most of the time goes to."""
    if found is None:
        return text.NONE
    shares = found["bound_by"]
    weak = ", peaks uncertain" if found.get("quality") == "noisy" else ""
    return f"{found['pct']:.0f} % ({max(shares, key=shares.get)}-bound{weak})"


def _energy(found: Mapping[str, Any] | None) -> str:
    """``1.24 mJ (grade C)``; a model of the energy is no measurement and is never shown as joules."""
    if found is None:
        return text.NONE
    if found.get("net_mj") is None or found["grade"] == "E":
        return "no energy sensor"
    return f"{text.number(found['net_mj']['median'])} mJ (grade {found['grade']})"


def _accuracy(campaign: Campaign, name: str) -> str:
    found = campaign.get("accuracy_on_device", {}).get(name)
    return text.NONE if found is None else text.score_interval(found["value"], found["metric"], found["samples"])


def _scenario_rows(campaign: Campaign) -> list[tuple[str, Callable[[str, Campaign], str]]]:
    """What a scenario adds to the results of each engine, under its own names."""
    keys = dict.fromkeys(
        key for result in campaign["results"].values() for key in result.get("scenario") or {} if key not in _NOT_SHOWN
    )
    return [(_label(key, campaign["scenario"]), _scenario_cell(key)) for key in keys]


def _scenario_cell(key: str) -> Callable[[str, Campaign], str]:
    return lambda _name, result: _figure(key, (result.get("scenario") or {}).get(key))


_TWO_MINUTES_S: Final = 120.0
_NOT_SHOWN: Final = {"kind", "latency_from_schedule", "cold_ms"}


def _label(key: str, scenario: Mapping[str, Any]) -> str:
    """A key in words; a run below two minutes has no first minute, its halves are compared."""
    duration_s = scenario.get("duration_s")
    if duration_s is not None and duration_s < _TWO_MINUTES_S:
        key = key.replace("minute", "half")
    for unit in ("_ms", "_ns", "_s", "_n"):
        key = key.removesuffix(unit)
    return key.replace("_", " ")


def _figure(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        return _interval(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if key.endswith(("_ns", "_ms")):
            return text.milliseconds(value / 1e6 if key.endswith("_ns") else value)
        return text.seconds(value) if key.endswith("_s") else f"{value:.4g}"
    return text.NONE if value is None else str(value)


def _warning_lines(warnings: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """One notice a code: what it means, what was seen of which engine, how to mend it; the gravest first."""
    by_code: dict[str, list[Mapping[str, Any]]] = {}
    order = list(_SEVERITY_STYLE)
    for item in sorted(warnings, key=lambda item: order.index(item["severity"])):
        by_code.setdefault(str(item["code"]), []).append(item)
    lines: list[RenderableType] = []
    for code, same in by_code.items():
        seen = "; ".join(f"{i['engine']}: {i['evidence']}" if i["engine"] else str(i["evidence"]) for i in same)
        style = _SEVERITY_STYLE[same[0]["severity"]]
        lines.extend(notice(code, f" {same[0]['text']} ({seen}).", same[0]["fix"], style=style))
    return lines
