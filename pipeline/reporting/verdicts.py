"""What a campaign allows to say, in sentences: who is faster, by how much, how surely; and what is void."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.gate import blocks_text
from pipeline.reporting import text

Campaign = Mapping[str, Any]


def grade_of(campaign: Campaign, name: str) -> tuple[str, list[str]]:
    """The quality grade of one engine's measurement, and why."""
    quality = campaign["quality"]
    own = quality.get("engines", {}).get(name, quality)
    return str(own["grade"]), [str(reason) for reason in own["reasons"]]


def void_reason(campaign: Campaign, name: str) -> str:
    """Why the measurement of an engine is void (grade F); empty when it is not."""
    grade, reasons = grade_of(campaign, name)
    if grade != "F":
        return ""
    gravest = [
        f"{item['code']}: {item['text']}"
        for item in campaign["warnings"]
        if item["severity"] == "void" and item["engine"] in {None, name}
    ]
    return "; ".join(gravest or reasons) or "grade F"


def noise_text(campaign: Campaign) -> str:
    """``A/A noise ±0.8 %``: how much an engine differs from itself on that device."""
    floor = campaign["noise"].get("floor_pct")
    return "A/A noise not known" if floor is None else f"A/A noise ±{floor:.1f} %"


def device_text(campaign: Campaign) -> str:
    """The device for people: its name where it has one, its CPU, and whether it is emulated."""
    facts = campaign["device"]
    name = facts.get("id", "local")
    model = str(facts.get("soc") or facts.get("cpu_model") or "unknown CPU")
    emulated = ", emulated" if facts.get("emulated") else ""
    return f"{model}{emulated}" if name == "local" else f"{name} ({model}{emulated})"


def threads_text(campaign: Campaign, *names: str) -> str:
    """``1 thread``, ``1 and 4 threads``; empty where no engine has such a number."""
    options = [campaign["engines"][name]["options"] for name in names]
    counts = sorted({int(found["threads"]) for found in options if "threads" in found})
    return f"{' and '.join(map(str, counts))} thread{'' if counts == [1] else 's'}" if counts else ""


def verdict_sentence(campaign: Campaign, challenger: str, incumbent: str) -> str:
    """One sentence with interval, blocks and noise floor: what the campaign shows of one engine against another."""
    threads = threads_text(campaign, challenger, incumbent)
    where = f"on {device_text(campaign)}" + (f", {threads}" if threads else "")
    none = f"No verdict on {challenger} against {incumbent} {where}"
    for name in (challenger, incumbent):
        if void := void_reason(campaign, name):
            return f"{none}: the measurement of {name} is void ({void})."
    found = _comparison(campaign, challenger, incumbent)
    if found is None:
        return f"{none}: they were not compared."
    more = "" if found["verdict"] != "not shown" else _withheld(found) or blocks_text(found)
    return f"{_claim(campaign, found)} {where}{more}."


def _comparison(campaign: Campaign, challenger: str, incumbent: str) -> Mapping[str, Any] | None:
    from pipeline.benchmarking.analysis import find_comparison
    from targets.errors import InputError

    try:
        return find_comparison(campaign, challenger, incumbent, _headline(campaign))
    except InputError:
        return None


def _headline(campaign: Campaign) -> str:
    """What engines are judged by: wall time per inference where throughput was measured, else latency."""
    return "ms_per_inference" if campaign["scenario"].get("kind") == "throughput" else "latency_ms"


def _claim(campaign: Campaign, found: Mapping[str, Any]) -> str:
    a, b, verdict = found["a"], found["b"], str(found["verdict"])
    slower = verdict.startswith("slower")
    times, low, high = _times(found, invert=not slower)
    interval = f"95 % CI {low}{text.NONE}{high}, " if low else ""
    by = "by throughput, " if found.get("metric") == "ms_per_inference" else ""
    basis = f"({by}{interval}{_blocks(found['blocks'])}, {noise_text(campaign)})"
    if campaign["campaign"].get("mode") == "quick":
        return f"Screening only, no verdict: {a} has {_ratio(found)} the speed of {b} {basis}"
    if verdict in {"faster", "slower"}:
        return f"{a} is {times}{text.TIMES} {verdict} than {b} {basis}"
    if verdict.startswith(("faster", "slower")):
        return f"{a} is {verdict.split(maxsplit=1)[0].rstrip(',')} than {b} by little, {times}{text.TIMES} {basis}"
    if verdict.startswith("same"):
        return f"{a} is as fast as {b} within ±{_percent(found['delta'])} {basis}"
    return f"{a} was not shown to be faster or slower than {b}: {_ratio(found)} its speed {basis}"


def _withheld(found: Mapping[str, Any]) -> str:
    reason = found.get("reason")
    return f"; no verdict: {reason}" if reason and reason != "screening only" else ""


def _ratio(found: Mapping[str, Any]) -> str:
    return f"{_times(found, invert=True)[0]}{text.TIMES}"


def _times(found: Mapping[str, Any], *, invert: bool) -> tuple[str, str, str]:
    """The ratio of latencies (turned round on demand) and its interval, in the digits that the interval supports."""
    value, interval = float(found["ratio"]), found["ci95"]
    if invert:
        value, interval = 1 / value, None if interval is None else (1 / interval[1], 1 / interval[0])
    if interval is None:
        return text.number(value), "", ""
    shown, low, high = text.supported(value, interval)
    return shown, low, high


def _blocks(count: int) -> str:
    return f"{count} block{'' if count == 1 else 's'}"


def _percent(delta: float) -> str:
    return f"{100 * (delta - 1 if delta > 1 else delta):.1f} %"
