"""Whatever shape a run has, its facts become a valid ``run.json`` whose sentence says what happened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pipeline.artifacts import Artifact, CandidateBuild, DatasetInfo, LatencyTable, QuantizedModel, TorchModel
from pipeline.events import CandidateDropped
from pipeline.reporting.compose import RunFacts, compose_run
from pipeline.reporting.render import render_report
from pipeline.reporting.schema import run_report
from targets.profile import TargetProfile, load_profile

A = TypeVar("A", bound=Artifact)
NAMES = ("dense-fp32", "fp32", "int8")
ENGINE = {
    "engine": "onnxruntime",
    "runtime_version": "1.2.3",
    "file": "engine.onnx",
    "options": {"providers": ["CPUExecutionProvider"], "threads": 1},
}


class _Run:
    """The artifacts of a run, made up in a folder; tests take parts away."""

    def __init__(self, root: Path, names: tuple[str, ...] = NAMES, shipped: str = "int8") -> None:
        self.root, self.names, self.shipped, self.met = root, names, shipped, True
        self.samples = {"train": 90, "validation": 30, "test": 30}
        self.campaign: dict[str, Any] | None = _campaign(names)
        self.profile: TargetProfile = load_profile("x86-64-avx2")
        self.dropped: tuple[CandidateDropped, ...] = ()
        self.models = {"int8": "quantize"}
        self.special: dict[str, dict[str, Any]] = {}  # more results of single builds
        self.stages: list[Artifact] = [
            self.make(DatasetInfo, "data", {"samples": self.samples, "shared": {}}),
            self.make(TorchModel, "train", {"accuracy": 0.9, "parameters": 100, "macs": 1000, "curve": [{"epoch": 1}]}),
            self.make(
                TorchModel,
                "prune",
                {
                    "accuracy": 0.2,
                    "parameters": 40,
                    "macs": 400,
                    "widths": [{"group": "g", "before": 8, "after": 4}],
                    "frozen": [],
                },
            ),
            self.make(
                TorchModel,
                "distill",
                {"accuracy": 0.88, "parameters": 40, "macs": 400, "curve": [{"epoch": 1, "loss": 1.0}]},
            ),
            self.make(
                QuantizedModel,
                "quantize",
                {"method": "minmax", "accuracy": 0.87, "size_bytes": 30},
                {
                    "layers.json": [
                        {
                            "module": "",
                            "node": "n0",
                            "op": "Conv",
                            "precision": "int8",
                            "weight_snr_db": 40.0,
                            "reason": "",
                        }
                    ],
                    "calibration.json": {"tensors": {"t": {"minmax": [-1.0, 2.0]}, "u": {"minmax": [-9.0, 2.0]}}},
                },
            ),
        ]

    def make(self, kind: type[A], node: str, results: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> A:
        folder = self.root / node.replace(":", "-")
        folder.mkdir()
        for name, content in (files or {}).items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        return kind(node=node, folder=folder, digest="d", results=results, wall_s=1.0)

    def without(self, *nodes: str) -> None:
        self.stages = [stage for stage in self.stages if stage.node not in nodes]

    def compose(self) -> dict[str, Any]:
        inspect = {
            "nodes": {"QLinearConv": 2, "Cast": 1},
            "int8_nodes": {"QLinearConv": 2},
            "int8_mac_ratio": 1.0,
            "scope": "here",
        }
        builds = [
            self.make(
                CandidateBuild,
                f"build:{name}",
                {"precision": name[-4:].strip("-"), "accuracy": 0.9 - 0.01 * i, "size_bytes": 1000 // (i + 1)}
                | self.special.get(name, {}),
                {"engine.json": ENGINE, "inspect.json": inspect},
            )
            for i, name in enumerate(self.names)
        ]
        facts = RunFacts(
            recipe={
                "name": "net",
                "task": "classification",
                "seed": 3,
                "threads": 2,
                "budget": {"accuracy_drop": 0.01, "size_mb": None},
            },
            profile=self.profile,
            metric="accuracy",
            stages=[*self.stages, *builds],
            campaign=self.campaign,
            verdict={
                "shipped": self.shipped,
                "reasons": ["why"],
                "met_budget": self.met,
                "of_each": {n: ["r"] for n in self.names},
            },
            builds=builds,
            test_scores={self.shipped: {"accuracy": 0.8, "metric": "accuracy", "beside": {}}},
            samples=self.samples,
            dropped=self.dropped,
            models=self.models,
        )
        run = compose_run(facts)
        run_report(json.loads(json.dumps(run)))
        assert render_report(run)
        return run


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked here is text; the plots have tests of their own and take a second a page."""
    monkeypatch.setattr("pipeline.reporting.charts.charts", lambda run: {})


def _campaign(names: tuple[str, ...]) -> dict[str, Any]:
    percentile = {"value": 2.0, "upper99": 2.5, "n": 900, "reason": None, "show": "bound", "process_range": [1.9, 2.2]}
    result = {
        "latency_ms": {"value": 1.0, "ci95": [0.9, 1.1], "k": 2, "method": "m"},
        "tail_ms": {"p90": percentile, "p99": {"value": None, "reason": "need 662, have 300"}},
        "load_ms": percentile,
        "first_ms": percentile,
        "memory": {"run_peak": {"max_bytes": 5}},
    }
    return {
        "results": dict.fromkeys(names, result),
        "runs": [{"engine": name, "block": block, "median_ns": 1e6} for name in names for block in range(3)],
        "engines": {name: {"options": {"threads": 1}, "bytes": 9} for name in names},
        "noise": {"known": True, "floor_pct": 0.8},
        "campaign": {"blocks": 2, "utc_start": "2026-01-01", "stop": "budget", "wall_s": 9.0},
        "comparison": [
            {"a": a, "b": b, "ratio": 0.5, "ci95": [0.4, 0.625], "verdict": "faster", "blocks": 2}
            for i, b in enumerate(names)
            for a in names[i + 1 :]
        ],
        "device": {"cpu_model": "A CPU", "virtualised": True, "usable_cores": 2},
        "quality": {"grade": "B", "reasons": ["one", "two"]},
        "scenario": {"batch": 1},
        "warnings": [],
    }


def _by_name(run: Mapping[str, Any]) -> dict[str, Any]:
    return {candidate["name"]: candidate for candidate in run["candidates"]}


def test_full_run(tmp_path: Path) -> None:
    """Every part is there: each candidate with its own model's figures, its speed and its blocks."""
    run = _Run(tmp_path).compose()
    found = _by_name(run)
    assert [found[name]["parameters"] for name in NAMES] == [100, 40, 40]
    assert [found[name]["shipped"] for name in NAMES] == [False, False, True]
    assert found["int8"]["vs_reference"] == {
        "reference": "dense-fp32",
        "ratio": 2.0,
        "ci95": [1.6, 2.5],
        "verdict": "faster",
    }
    assert found["dense-fp32"]["vs_reference"] is None
    assert found["int8"]["block_medians_ms"] == [1.0, 1.0], "the unfinished third block is left out"
    assert run["verdict"]["sentence"] == (
        "int8 ships on x86-64-avx2. int8 is 2.0\u00d7 faster than dense-fp32 (95 % CI 1.6\u20132.5, 2 blocks, "
        "A/A noise \u00b10.8 %) on A CPU, 1 thread. Accuracy 0.8800 on validation (-2.00 points against dense-fp32), "
        "33% of its size; measurement grade B."
    )
    assert (run["verdict"]["exit_code"], run["budget"]) == (0, {"accuracy_drop": 0.01})
    assert [row["tensor"] for row in run["calibration"]] == ["u", "t"], "widest first"
    assert run["inspect"]["nodes"] == {"QLinearConv": {"int8": 2}, "Cast": {"other": 1}}
    assert set(run["curves"]) == {"train", "distill"}


def test_a_figure_without_interval_is_a_detail(tmp_path: Path) -> None:
    """Promise: whatever a stage calls its own figures, the report is written; latency is that of engines."""
    made = _Run(tmp_path)
    made.stages.append(made.make(LatencyTable, "latency_table", {"latency_ms": 0.1, "peak_memory_bytes": 7, "nets": 6}))
    row = next(row for row in made.compose()["stages"] if row["stage"] == "latency_table")
    assert (row["metrics"], row["detail"]) == ({}, {"latency_ms": 0.1, "peak_memory_bytes": 7, "nets": 6})


def test_warnings_of_a_teacher_are_told(tmp_path: Path) -> None:
    """Promise: what distillation found of its teachers stands among the run's warnings, with evidence and remedy."""
    made = _Run(tmp_path)
    weak = {"code": "W-WEAK-TEACHER", "text": "weak", "evidence": "accuracy 0.1 against 0.9", "fix": "train it"}
    distilled = next(stage for stage in made.stages if stage.node == "distill")
    made.stages[made.stages.index(distilled)] = replace(distilled, results={**distilled.results, "warnings": [weak]})
    assert weak in made.compose()["warnings"]


def test_run_without_pruning(tmp_path: Path) -> None:
    """Without prune and distill there are two candidates, no widths, and the reference is fp32."""
    made = _Run(tmp_path, names=("fp32", "int8"))
    made.without("prune", "distill")
    run = made.compose()
    assert run["widths"] == []
    assert set(run["curves"]) == {"train"}
    assert _by_name(run)["int8"]["vs_reference"]["reference"] == "fp32"
    assert _by_name(run)["int8"]["parameters"] == 100


def test_run_from_an_onnx_file(tmp_path: Path) -> None:
    """Parameters come from the import; what an ONNX file does not tell stays open."""
    made = _Run(tmp_path, names=("fp32", "int8"))
    made.without("train", "prune", "distill")
    made.stages.insert(1, made.make(TorchModel, "import", {"accuracy": 0.9, "parameters": 77, "size_bytes": 5}))
    candidate = _by_name(made.compose())["int8"]
    assert (candidate["parameters"], candidate["macs"]) == (77, None)


def test_run_without_measurement(tmp_path: Path) -> None:
    """Nothing about speed is claimed anywhere, and a warning says so."""
    made = _Run(tmp_path)
    made.campaign = None
    run = made.compose()
    assert "latency was not measured" in run["verdict"]["sentence"]
    assert not any("latency_ms" in candidate or "vs_reference" in candidate for candidate in run["candidates"])
    assert "not measured" in run["conditions"]["latency"]
    assert "W-UNMEASURED" in {warning["code"] for warning in run["warnings"]}


def test_budget_that_nothing_meets(tmp_path: Path) -> None:
    """The exit code is 7 and the sentence does not say that anything is good."""
    made = _Run(tmp_path)
    made.met = False
    verdict = made.compose()["verdict"]
    assert (verdict["exit_code"], verdict["met_budget"]) == (7, False)
    assert verdict["sentence"].startswith("Nothing meets the budget; int8 is closest")


def test_uncompressed_model_that_ships(tmp_path: Path) -> None:
    """When the reference wins, the sentence says that nothing was better, and compares it with nothing."""
    made = _Run(tmp_path, shipped="dense-fp32")
    sentence = made.compose()["verdict"]["sentence"]
    assert "no compressed candidate was shown to be better" in sentence
    assert "against" not in sentence


def test_candidate_that_was_not_compared(tmp_path: Path) -> None:
    """An engine left out of the comparisons (its outputs were wrong) has figures, no speed, and breaks nothing."""
    made = _Run(tmp_path, shipped="fp32")
    assert made.campaign is not None
    made.campaign["comparison"] = [item for item in made.campaign["comparison"] if "int8" not in (item["a"], item["b"])]
    run = made.compose()
    assert _by_name(run)["int8"]["vs_reference"] is None
    assert _by_name(run)["fp32"]["vs_reference"]["ratio"] == 2.0


def test_shipped_without_comparison_claims_no_speed(tmp_path: Path) -> None:
    """A measured candidate that was compared with nothing is not called faster, nor unmeasured."""
    made = _Run(tmp_path)
    assert made.campaign is not None
    made.campaign["comparison"] = []
    assert "No verdict on int8 against dense-fp32" in made.compose()["verdict"]["sentence"]


def test_warnings_are_grouped_by_code(tmp_path: Path) -> None:
    """One warning a code; its evidence lists the engines, in order."""
    made = _Run(tmp_path)
    assert made.campaign is not None
    common = {"text": "noise", "fix": "be quiet", "severity": "note"}
    made.campaign["warnings"] = [
        {"code": "W-VIRTUAL", "engine": None, "evidence": "flag", **common},
        {"code": "W-NOISY", "engine": "int8", "evidence": "9 %", **common},
        {"code": "W-NOISY", "engine": "fp32", "evidence": "7 %", **common},
    ]
    assert made.compose()["warnings"] == [
        {"code": "W-VIRTUAL", "text": "noise", "evidence": "flag", "fix": "be quiet"},
        {"code": "W-NOISY", "text": "noise", "evidence": "int8: 9 %; fp32: 7 %", "fix": "be quiet"},
    ]


def test_what_calibration_found_is_told(tmp_path: Path) -> None:
    """The doctor's warnings (not its notes) and the saturation of other CPUs stand in the report."""
    made = _Run(tmp_path)
    quantized = next(stage for stage in made.stages if stage.node == "quantize")
    finding = {"severity": "warning", "tensor": None, "text": "few", "evidence": {"samples": 9}, "fix": "give more"}
    found = [{**finding, "code": "C-FEW"}, {**finding, "code": "C-DEAD", "severity": "note"}]
    forecast = {"saturating": ["conv1", "conv2"], "snr_db": 12.34}
    object.__setattr__(quantized, "results", {**quantized.results, "findings": found, "forecast": forecast})
    told = {warning["code"]: warning for warning in made.compose()["warnings"]}
    assert told["C-FEW"] == {"code": "C-FEW", "text": "few", "evidence": "samples 9", "fix": "give more"}
    assert "2 layers" in told["W-SATURATES"]["text"]
    assert "12.3 dB" in told["W-SATURATES"]["evidence"]
    assert "C-DEAD" not in told


def test_leaks_and_a_missing_test_split_are_told(tmp_path: Path) -> None:
    """What flatters the figures stands in the warnings."""
    made = _Run(tmp_path)
    made.samples.pop("test")
    made.without("data")
    made.stages.insert(0, made.make(DatasetInfo, "data2", {"samples": made.samples, "shared": {"train/validation": 4}}))
    object.__setattr__(made.stages[0], "node", "data")
    run = made.compose()
    assert {"W-LEAK", "W-NO-TEST"} <= {warning["code"] for warning in run["warnings"]}
    assert run["test"]["samples"] is None


def test_conditions_hold_engine_options_and_versions(tmp_path: Path) -> None:
    """What a reader needs to judge or repeat the numbers: runtime, options, seeds, machine, versions."""
    run = _Run(tmp_path).compose()
    assert run["conditions"]["engine"] == "onnxruntime 1.2.3"
    assert run["conditions"]["engine options"] == ENGINE["options"]
    assert (run["conditions"]["seed"], run["conditions"]["CPU"]) == (3, "A CPU")
    assert {"python", "torch", "onnx", "onnxruntime", "edgepress"} <= set(run["versions"])


@pytest.mark.parametrize(("name", "target"), [("x86-64-avx2", "x86-64-avx2"), ("my-board", "profile.toml")])
def test_reproduce_names_a_target_that_the_command_takes(name: str, target: str, tmp_path: Path) -> None:
    """A bundled profile by name, a user's own by its file."""
    made = _Run(tmp_path)
    made.profile = made.profile.model_copy(update={"name": name})
    (command,) = made.compose()["reproduce"]
    assert command.startswith("edgepress run <folder of the recipe> --target ")
    assert target in command
    assert ("<path of" in command) == (name == "my-board")


def test_accuracy_on_the_device_is_what_the_sentence_tells(tmp_path: Path) -> None:
    """Where the device was asked, its answers count, and it is said; the report keeps both."""
    made = _Run(tmp_path)
    assert made.campaign is not None
    made.campaign["device"]["id"] = "pi4"
    made.campaign["accuracy_on_device"] = {
        name: {"value": 0.9 - 0.1 * i, "device": "pi4"} for i, name in enumerate(NAMES)
    }
    run = made.compose()
    assert (
        "Accuracy 0.7000 on validation, on device pi4 (-20.00 points against dense-fp32)" in run["verdict"]["sentence"]
    )
    found = _by_name(run)["int8"]
    assert (found["accuracy_device"], found["accuracy"]) == (pytest.approx(0.7), pytest.approx(0.88))
    assert run["reproduce"][0].endswith(" --device pi4")


def test_dropped_candidates_stand_in_run_and_report(tmp_path: Path) -> None:
    """With reason and remedy; what has nothing to offer is a detail, no warning."""
    made = _Run(tmp_path)
    made.dropped = (
        CandidateDropped(name="openvino-int8", what="no engine", why="not installed", fix="install openvino"),
        CandidateDropped(name="int8-dynamic", what="nothing to gain here", why="it is a CNN", fix="", quiet=True),
    )
    run = made.compose()
    assert run["dropped"][0] == {
        "name": "openvino-int8", "what": "no engine", "why": "not installed", "fix": "install openvino", "quiet": False
    }  # fmt: skip
    page = render_report(run)
    loud, details = page.split('<h2 id="stages">')
    assert ">Not built</h2>" in loud
    assert "install openvino" in loud
    assert "it is a CNN" not in loud
    assert "it is a CNN" in details


def test_what_was_not_measured_stands_beside_what_was(tmp_path: Path) -> None:
    """No figures of it, but why not; and speeds are told against one that was measured."""
    made = _Run(tmp_path)
    assert made.campaign is not None
    made.campaign = _campaign(NAMES[1:])
    made.campaign["unmeasured"] = {"dense-fp32": {"what": "it does not run", "why": "no GPU here", "fix": "--device"}}
    run = made.compose()
    found = _by_name(run)
    assert found["dense-fp32"]["unmeasured"] == "it does not run: no GPU here; --device"
    assert "latency_ms" not in found["dense-fp32"]
    assert found["int8"]["vs_reference"]["reference"] == "fp32"
    assert "faster than fp32" in run["verdict"]["sentence"]
    assert "no GPU here" in render_report(run)


def test_a_shipped_one_that_was_not_measured_claims_no_speed(tmp_path: Path) -> None:
    """It was the only one to meet the budget."""
    made = _Run(tmp_path)
    made.campaign = _campaign(NAMES[:2])
    made.campaign["unmeasured"] = {"int8": {"what": "it does not run", "why": "no GPU here", "fix": "--device"}}
    assert "latency was not measured" in made.compose()["verdict"]["sentence"]


def test_what_is_not_as_asked_is_a_warning(tmp_path: Path) -> None:
    """Of the build here; where the device built it, of that one; and who answered in its place is said everywhere."""
    made = _Run(tmp_path)
    assert made.campaign is not None
    made.special = {
        "fp32": {"warnings": ["1 of 3 run in fp16"], "engine": "tensorrt"},
        "int8": {"warnings": ["nobody has seen it"], "answers_by": "ONNX Runtime, the same graph (no GPU)"},
    }
    made.campaign["engines"]["int8"]["built_on_device"] = {"warnings": ["2 of 3 run in fp32"]}
    run = made.compose()
    texts = [warning["text"] for warning in run["warnings"] if warning["code"] == "W-ENGINE"]
    assert texts == ["fp32 as built: 1 of 3 run in fp16", "int8 as built on the device: 2 of 3 run in fp32"]
    (stand_in,) = [warning["text"] for warning in run["warnings"] if warning["code"] == "W-STAND-IN"]
    assert "int8: accuracy here and golden answers are by ONNX Runtime, the same graph" in stand_in
    assert "on validation, by ONNX Runtime, the same graph" in run["verdict"]["sentence"]
    page = render_report(run)
    assert "answers by" in page
    assert "2 of 3 run in fp32" in page


def test_one_warning_names_all_candidates_that_it_concerns(tmp_path: Path) -> None:
    """What is the same of several engines is said once, and its remedy is one that can be followed."""
    made = _Run(tmp_path)
    same = {"warnings": ["nobody has seen what was built"], "answers_by": "ONNX Runtime, the same graph (no GPU)"}
    made.special = {"fp32": same, "int8": same}
    found = [warning for warning in made.compose()["warnings"] if warning["code"] in {"W-ENGINE", "W-STAND-IN"}]
    assert [warning["text"] for warning in found] == [
        "fp32, int8 as built: nobody has seen what was built",
        "fp32, int8: accuracy here and golden answers are by ONNX Runtime, the same graph (no GPU)",
    ]
    assert all("--device NAME" in warning["fix"] for warning in found)


def test_layers_are_those_of_what_ships(tmp_path: Path) -> None:
    """With two dialects, the one behind the shipped engine."""
    made = _Run(tmp_path)
    layer = {"module": "", "node": "of_other", "op": "Conv", "precision": "int8", "weight_snr_db": 1.0, "reason": ""}
    files = {"layers.json": [layer], "calibration.json": {"tensors": {}}}
    other = made.make(QuantizedModel, "quantize:openvino", {"method": "minmax"}, files)
    made.stages.append(other)
    made.models = {"int8": "quantize:openvino"}
    run = made.compose()
    assert [row["name"] for row in run["layers"]] == ["of_other"]
    assert "quantised to int8 in the dialect openvino" in [stage["title"] for stage in run["stages"]]


def test_the_headline_names_the_best_of_the_other_engines(tmp_path: Path) -> None:
    """Promise: which engine won, and by how much against the fastest of another engine that could have shipped."""
    names = ("dense-fp32", "fp32", "int8", "openvino-int8", "trt-fp16")
    made = _Run(tmp_path, names)
    made.special = {
        "int8": {"precision": "int8", "accuracy": 0.9},
        "openvino-int8": {"precision": "int8", "accuracy": 0.9},
        "trt-fp16": {"precision": "fp16", "accuracy": 0.5},  # faster, and below the floor
    }
    assert made.campaign is not None
    fast = {"latency_ms": {"value": 0.1, "ci95": [0.09, 0.11], "k": 2, "method": "m"}}
    made.campaign["results"]["trt-fp16"] = {**made.campaign["results"]["trt-fp16"], **fast}
    sentence = made.compose()["verdict"]["sentence"]
    assert "Best of the other engines is openvino-int8: int8 is" in sentence
    assert "trt-fp16" not in sentence


def test_one_engine_alone_has_no_rival(tmp_path: Path) -> None:
    """Promise: where every candidate is of one engine, the headline says nothing of others."""
    assert "other engines" not in _Run(tmp_path).compose()["verdict"]["sentence"]
