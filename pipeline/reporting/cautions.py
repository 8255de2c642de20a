"""The warnings of a run: what campaign, engines, quantisation and data have to say against its figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from targets.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.reporting.compose import RunFacts


def run_warnings(facts: RunFacts, results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """All of them, those of the campaign first.

    Args:
        facts: The run.
        results: Of its stages, by node.
    """
    found = _campaign_warnings(facts.campaign["warnings"]) if facts.campaign else []
    for pair, count in results["data"]["shared"].items():
        first, second = pair.split("/")
        text = f"the {first} split holds {counted(count, 'sample')} of the {second} split too"
        found.append(_warning("W-LEAK", text, "split the data without duplicates", "equal bytes"))
    if facts.campaign is None:
        text = "latency was not measured: what ships may be slower than dense-fp32 on this target"
        fix = "run again without benchmark.measure = false, on such a machine or with --device NAME"
        found.append(_warning("W-UNMEASURED", text, fix))
    found += _engine_warnings(facts)
    found += results.get("distill", {}).get("warnings", ())
    found += _quantisation_warnings(results.get("quantize", {}))
    if "test" not in facts.samples:
        text = "there is no test split: the validation figures chose what ships, so they flatter it"
        found.append(_warning("W-NO-TEST", text, "give the data a split 'test' too (docs/data.md)"))
    return found


def _quantisation_warnings(quantized: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the calibration doctor found, and what CPUs without VNNI would make of the int8 file."""
    found = [
        _warning(item["code"], item["text"], item["fix"], ", ".join(f"{k} {v}" for k, v in item["evidence"].items()))
        for item in quantized.get("findings", ())
        if item["severity"] == "warning"
    ]
    forecast = quantized.get("forecast")
    if forecast and forecast.get("saturating"):
        layers = counted(len(forecast["saturating"]), "layer")
        text = f"on x86 CPUs without VNNI {layers} of the int8 file would saturate"
        fix = "build for a target with scheme ort-x86-avx2 there"
        found.append(
            _warning("W-SATURATES", text, fix, f"output SNR {forecast['snr_db']:.1f} dB against this CPU class")
        )
    return found


def _campaign_warnings(items: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One warning for each code, with the evidence of every engine that it concerns; the first fix serves all."""
    by_code: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        by_code.setdefault(item["code"], []).append(item)
    return [
        _warning(
            code,
            "; ".join(dict.fromkeys(item["text"] for item in same)),
            same[0]["fix"],
            "; ".join(f"{item['engine']}: {item['evidence']}" if item["engine"] else item["evidence"] for item in same),
        )
        for code, same in by_code.items()
    ]


def _warning(code: str, text: str, fix: str, evidence: str = "") -> dict[str, str]:
    return {"code": code, "text": text, "evidence": evidence, "fix": fix}


def _engine_warnings(facts: RunFacts) -> list[dict[str, str]]:
    """What engines are not that was asked of them, and who answered for those that do not run here."""
    said: dict[str, list[str]] = {}
    stand_ins: dict[str, list[str]] = {}
    told = facts.campaign["engines"] if facts.campaign else {}
    for build in facts.builds:
        name = build.node.partition(":")[2]
        there = told.get(name, {}).get("built_on_device")
        where = "as built on the device" if there else "as built"
        for line in there["warnings"] if there else build.results.get("warnings", ()):
            said.setdefault(f"{where}: {line}", []).append(name)
        if by := build.results.get("answers_by"):
            stand_ins.setdefault(by, []).append(name)
    unseen = "build and measure it on such a device: --device NAME"
    seen = "see inspect.json of the bundle; ship another precision or engine where this one does not do it"
    found = [
        _warning("W-ENGINE", f"{', '.join(names)} {line}", unseen if "nobody has seen" in line else seen)
        for line, names in said.items()
    ]
    for by, names in stand_ins.items():
        text = f"{', '.join(names)}: {facts.metric} here and golden answers are by {by}"
        found.append(_warning("W-STAND-IN", text, "measure on a registered device: --device NAME"))
    return found
