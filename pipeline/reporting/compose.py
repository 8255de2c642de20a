"""From the artifacts of a run to the content of ``run.json``."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any, Final

from pipeline.artifacts import Artifact, CandidateBuild, LayerTimes, QuantizedModel
from pipeline.events import CandidateDropped
from pipeline.reporting.cautions import run_warnings
from pipeline.reporting.changes import change_lines
from pipeline.reporting.layers import calibration_rows, layer_rows, timed_rows
from pipeline.reporting.measured import campaign_conditions, measured_part, not_included, timeline
from pipeline.reporting.rivals import rival_sentence
from pipeline.reporting.story import nothing_better
from pipeline.reporting.verdicts import verdict_sentence
from pipeline.tasks.names import is_share
from targets.profile import TargetProfile, profile_names

HALVED: Final = "brought what is float beside int8 to fp16"
TITLES: Final = {
    "data": "checked the data",
    "train": "trained the dense model",
    "load": "loaded the dense model",
    "import": "checked the ONNX model",
    "surgery": "changed the architecture by hand",
    "depth": "dropped residual blocks",
    "latency_table": "measured latency at other widths",
    "allocate": "chose widths for the latency, measured them",
    "prune": "removed channels",
    "sparsify": "set small weights to zero",
    "student": "made the student",
    "distill": "learned from its teachers",
    "export:dense": "exported the dense model, compared with torch",
    "export": "exported to ONNX, compared with torch",
    "calibrate": "measured the ranges of activations",
    "halve": HALVED,
    "quantize": "quantised to int8",
    "benchmark": "measured all candidates, interleaved",
    "gate": "decided what ships",
    "bundle": "bundled and verified",
    "layers": "timed each layer of what ships",
}
RUNTIMES: Final = ("openvino", "tensorrt", "tensorrt-rtx")
_LEARNING: Final = ("train", "finetune", "prune", "distill")
_METRICS: Final = ("accuracy", "parameters", "macs", "size_bytes")
_MEASURED: Final = ("latency_ms", "peak_memory_bytes")
_VERSIONS: Final = ("edgepress", "torch", "lightning-fabric", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a run left behind.

    Attributes:
        recipe: Its ``name``, ``task``, ``seed``, ``threads`` and ``budget``, as plain data.
        profile: The target.
        metric: Name of the task's metric.
        stages: Artifacts in the order they were made.
        campaign: ``benchmark.json``; None when nothing was measured.
        raw: All its samples, as `pipeline.benchmarking.raw.read_raw` gives them.
        verdict: Results of the gate.
        builds: The candidates, the uncompressed one first.
        test_scores: All metrics by candidate (`Task.scores`), where the test split was read.
        samples: Samples by split.
        dropped: Candidates that could not be had.
        models: For each candidate the node whose model it is built from.
        layers: The profile of what ships, where one was taken.
    """

    recipe: Mapping[str, Any]
    profile: TargetProfile
    metric: str
    stages: Sequence[Artifact]
    campaign: Mapping[str, Any] | None
    verdict: Mapping[str, Any]
    builds: Sequence[CandidateBuild]
    test_scores: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, int]
    raw: Sequence[Mapping[str, Any]] = ()
    dropped: Sequence[CandidateDropped] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    layers: LayerTimes | None = None


def compose_run(facts: RunFacts) -> dict[str, Any]:
    """The content of ``run.json``; its layout is `pipeline.reporting.schema`."""
    candidates = [_candidate(build, facts) for build in facts.builds]
    quantized = _quantized(facts)
    layers = layer_rows(quantized) if quantized else []
    shipped_build = next(build for build in facts.builds if _name(build) == facts.verdict["shipped"])
    results = {stage.node: stage.results for stage in facts.stages}
    return {
        "schema": 1,
        "name": facts.recipe["name"],
        "target": {"name": facts.profile.name, "description": facts.profile.description},
        "task": {"name": facts.recipe["task"], "metric": facts.metric, "higher_is_better": True},
        "verdict": {
            "shipped": facts.verdict["shipped"],
            "sentence": _sentence(facts, candidates),
            "reasons": list(facts.verdict["reasons"]),
            "met_budget": facts.verdict["met_budget"],
            "exit_code": 0 if facts.verdict["met_budget"] else 7,
        },
        "budget": {name: value for name, value in facts.recipe["budget"].items() if value is not None},
        "stages": [_stage(stage, candidates) for stage in facts.stages],
        "candidates": candidates,
        "dropped": [asdict(item) for item in facts.dropped],
        "curves": {name: results[name]["curve"] for name in _LEARNING if "curve" in results.get(name, {})},
        "widths": results["prune"]["widths"] if "prune" in results else [],
        "whole": results["prune"]["frozen"] if "prune" in results else [],
        "allocation": _allocation(results),
        "changes": change_lines(results),
        "inspect": _inspection(shipped_build.read_json("inspect.json")),
        "layers_of": _made_of(quantized, facts) if quantized else "",
        "layers": layers,
        "times": _times(facts, quantized, layers),
        "calibration": calibration_rows(quantized) if quantized else [],
        "timeline": timeline(facts.verdict["shipped"], facts.campaign, facts.raw) if facts.campaign else None,
        "conditions": _conditions(facts, shipped_build.read_json("engine.json")),
        "not_included": not_included(facts.campaign) if facts.campaign else [],
        "warnings": run_warnings(facts, results),
        "reproduce": [_again(facts)],
        "versions": {"python": platform.python_version(), **_versions(facts)},
        "validation": {"split": "validation", "samples": facts.samples.get("validation")},
        "test": {"split": "test", "samples": facts.samples.get("test")},
    }


def _allocation(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """How widths were found for a latency, where one was asked for."""
    if "allocate" not in results:
        return None
    found, table = results["allocate"], results["latency_table"]
    told = ("target_ms", "predicted_ms", "measured_ms", "dense_ms", "importance_ratio")
    return {
        **{name: found[name] for name in ("precision", "device", "why_off")},
        "rounds": [{name: item[name] for name in told} for item in found["rounds"]],
        "table_nets": table["nets"],
        "table_error_ratio": table["unseen_error_mean_ratio"],
    }


def _again(facts: RunFacts) -> str:
    device = facts.campaign["device"].get("id", "local") if facts.campaign else "local"
    named = "" if device == "local" else f" --device {device}"
    return f"edgepress run <folder of the recipe> --target {_target(facts.profile)}{named}"


def _target(profile: TargetProfile) -> str:
    """What ``--target`` takes: a bundled name, or the path of the user's own file, which the store does not know."""
    return profile.name if profile.name in profile_names() else f"<path of {profile.name}'s profile.toml>"


def _versions(facts: RunFacts) -> dict[str, str]:
    found = {name: metadata.version(name) for name in _VERSIONS}
    for build in facts.builds:
        engine = build.read_json("engine.json")
        if engine["engine"] in RUNTIMES and engine["runtime_version"]:
            found[engine["engine"]] = engine["runtime_version"]
    return found


def _quantized(facts: RunFacts) -> QuantizedModel | None:
    """The int8 model behind what ships; any other where that is no int8 model."""
    found = [stage for stage in facts.stages if isinstance(stage, QuantizedModel)]
    behind = str(facts.models.get(facts.verdict["shipped"])).replace("halve", "quantize", 1)
    return next((stage for stage in found if stage.node == behind), next(iter(found), None))


def _made_of(quantized: QuantizedModel, facts: RunFacts) -> str:
    """The candidate that a quantised model became: what ships, if it did."""
    names = [name for name, node in facts.models.items() if node.replace("halve", "quantize", 1) == quantized.node]
    shipped = str(facts.verdict["shipped"])
    return shipped if shipped in names else next(iter(names), "")


def _times(
    facts: RunFacts, quantized: QuantizedModel | None, layers: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Where a profile was taken, or why not."""
    if facts.layers is None:
        why = "nothing was measured" if facts.campaign is None else "they were not asked for in so short a campaign"
        return {"candidate": facts.verdict["shipped"], "why": why}
    own = quantized is not None and _made_of(quantized, facts) == facts.verdict["shipped"]
    return timed_rows(facts.layers, layers if own else ())


def _reference(facts: RunFacts) -> str:
    """What speeds are told against: the uncompressed candidate, or the first that could be measured."""
    names = [_name(build) for build in facts.builds]
    measured = facts.campaign["results"] if facts.campaign else names
    return next(name for name in names if name in measured)


def _name(build: CandidateBuild) -> str:
    return build.node.partition(":")[2]


def _stage(stage: Artifact, candidates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One stage; what was found out later about an engine stands with the stage that built it."""
    results = stage.results
    engine = next((row for row in candidates if stage.node == f"build:{row['name']}"), {})
    told = {name: results.get(name, engine.get(name)) for name in _METRICS}
    measured = {name: engine.get(name) for name in _MEASURED}  # with intervals; a stage's own figures have none
    metrics = {name: value for name, value in {**told, **measured}.items() if value is not None}
    known = {*metrics, "curve", "widths", "frozen", "rounds", "metric", "beside"}
    return {
        "stage": stage.node,
        "title": _title(stage.node),
        "wall_s": stage.wall_s,
        "metrics": metrics,
        "detail": {name: value for name, value in results.items() if name not in known},
    }


def _title(node: str) -> str:
    kind, _, variant = node.partition(":")
    more = {
        "quantize": f"quantised to int8 in the dialect {variant}",
        "convert": f"converted to {variant}",
        "halve": HALVED,
        "teacher": f"loaded the teacher {variant}",
        "teach": f"asked the teacher {variant} about the training data",
    }
    return TITLES.get(node) or more.get(kind, f"built the {variant} engine")


def _candidate(build: CandidateBuild, facts: RunFacts) -> dict[str, Any]:
    name = _name(build)
    model, tested = _model_behind(name, facts), facts.test_scores.get(name, {})
    row: dict[str, Any] = {
        "name": name,
        "precision": build.results["precision"],
        "engine": build.results.get("engine", ""),
        "answers_by": build.results.get("answers_by", ""),
        "accuracy": build.results["accuracy"],
        "accuracy_test": tested.get("accuracy"),
        "beside": dict(build.results.get("beside", {})),
        "beside_test": dict(tested.get("beside", {})),
        "size_bytes": build.results["size_bytes"],
        "parameters": model.get("parameters"),
        "macs": model.get("macs"),
        "shipped": name == facts.verdict["shipped"],
        "reasons": list(facts.verdict["of_each"][name]),
    }
    if facts.campaign is None:
        return row
    if name not in facts.campaign["results"]:
        missing = facts.campaign["unmeasured"][name]
        return row | {"unmeasured": f"{missing['what']}: {missing['why']}; {missing['fix']}"}
    return row | measured_part(name, facts.campaign, facts.raw, _reference(facts))


def _model_behind(candidate: str, facts: RunFacts) -> Mapping[str, Any]:
    """Results of the stage that last changed the candidate's architecture; the dense one is the first that has any."""
    sized = [stage.results for stage in facts.stages if "parameters" in stage.results]
    return {} if not sized else sized[0] if candidate == "dense-fp32" else sized[-1]


def _sentence(facts: RunFacts, candidates: Sequence[Mapping[str, Any]]) -> str:
    reference = candidates[0]
    shipped = next(candidate for candidate in candidates if candidate["shipped"])
    against = _reference(facts)
    start = (
        f"{shipped['name']} ships on {facts.profile.name}"
        if facts.verdict["met_budget"]
        else f"Nothing meets the budget; {shipped['name']} is closest"
    )
    change = _change(facts, shipped, reference)
    if shipped is reference:
        others = [" ".join(candidate["reasons"]) for candidate in candidates[1:]]
        why = f": {nothing_better(others, facts.metric)}; " if others else "; "
        return f"{start}{why}{change}{_grade(shipped)}."
    size = f"{shipped['size_bytes'] / reference['size_bytes']:.0%} of its size"
    if facts.campaign is None or shipped.get("unmeasured"):
        return f"{start}: latency was not measured; {change}, {size}."
    if shipped["name"] == against:
        return f"{start}: nothing that could be measured was shown to be better; {change}, {size}{_grade(shipped)}."
    speed = verdict_sentence(facts.campaign, shipped["name"], against)
    return f"{start}. {speed} {change[0].upper()}{change[1:]}, {size}{_grade(shipped)}.{_rival(facts, candidates)}"


def _rival(facts: RunFacts, candidates: Sequence[Mapping[str, Any]]) -> str:
    """How far the best of the other engines was behind, where there is one."""
    assert facts.campaign is not None
    key = "accuracy" if candidates[0].get("accuracy_device") is None else "accuracy_device"
    lowest = float(candidates[0][key]) - float(facts.recipe["budget"]["accuracy_drop"])
    found = rival_sentence(facts.campaign, candidates, str(facts.verdict["shipped"]), lowest)
    return f" {found}" if found else ""


def _change(facts: RunFacts, shipped: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    """What compression cost, from the answers that the gate judged by."""
    on_device = shipped.get("accuracy_device") is not None and reference.get("accuracy_device") is not None
    key = "accuracy_device" if on_device else "accuracy"
    change = shipped[key] - reference[key]
    told = f"{change * 100:+.2f} points" if is_share(facts.metric) else f"{change:+.4f}"
    where = "validation" + (f", by {shipped['answers_by']}" if shipped["answers_by"] and not on_device else "")
    if on_device and facts.campaign:
        where += f", on device {facts.campaign['device'].get('id')}"
    against = "" if shipped is reference else f" ({told} against {reference['name']})"
    return f"{facts.metric} {shipped[key]:.4f} on {where}{against}"


def _grade(shipped: Mapping[str, Any]) -> str:
    return f"; measurement grade {shipped['quality']}" if shipped.get("quality") else ""


def _inspection(inspection: Mapping[str, Any]) -> dict[str, Any]:
    eight = inspection["int8_nodes"]
    nodes = {
        kind: {
            precision: count
            for precision, count in (("int8", eight.get(kind, 0)), ("other", total - eight.get(kind, 0)))
            if count
        }
        for kind, total in inspection["nodes"].items()
    }
    notes = [
        f"{inspection['int8_mac_ratio']:.1%} of multiply-accumulates run in int8",
        f"inspected {inspection['scope']}",
    ]
    return {"nodes": nodes, "notes": notes}


def _conditions(facts: RunFacts, engine: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {
        "engine": f"{engine['engine']} {engine['runtime_version']}",
        "engine options": engine["options"],
        "seed": facts.recipe["seed"],
        "training threads": facts.recipe["threads"],
    }
    if facts.campaign is None:
        return {"latency": "not measured (benchmark.measure = false)", **fixed}
    return {**campaign_conditions(facts.campaign), **fixed}
