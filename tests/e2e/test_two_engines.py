"""Two engines and formats in one run: what cannot be had is told and stops nothing, what is asked for must be had."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from targets import machine

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

Run = Callable[..., subprocess.CompletedProcess[str]]
pytest.importorskip("openvino")
PROFILE = """
name = "two-engines"
description = "this machine, with two engines and one that nobody can build"
[hardware]
arch = "{arch}"
[engine]
name = "onnxruntime"
[quantization]
scheme = "ort-x86-avx2"
precisions = ["fp32", "int8-dynamic"]
[[alternatives]]
[alternatives.engine]
name = "openvino"
[alternatives.quantization]
scheme = "ort-x86-avx2"
precisions = ["int8"]
[[alternatives]]
label = "broken"
[alternatives.engine]
name = "onnxruntime"
providers = ["CUDAExecutionProvider"]
[alternatives.quantization]
scheme = "trt"
precisions = ["fp32"]
"""
ALL = ("--set", 'build.candidates=["fp32", "openvino-int8", "broken-fp32"]')
NO_TIMES = ("--set", "benchmark.measure=false")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profile's file."""
    file = tmp_path_factory.mktemp("profile") / "two.toml"
    file.write_text(PROFILE.format(arch=machine.arch()), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def two(target: Path, edgepress: Run, result: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401
    """One measured run of everything that the profile offers."""
    project = tmp_path_factory.mktemp("project") / "stripes"
    shutil.copytree(result.recipe, project)
    recipe = (project / "recipe.toml").read_text(encoding="utf-8")
    begin, end = recipe.index("[build]"), recipe.index("[budget]")
    plain = '[quantize]\nmethod = "minmax"\nalgorithms = []\nsensitivity = "off"\n'  # how is not the matter here
    (project / "recipe.toml").write_text(recipe[:begin] + plain + recipe[end:], encoding="utf-8")
    out = tmp_path_factory.mktemp("two")
    done = edgepress("run", project, "--target", target, "--out", out)
    assert done.returncode == 0, done.stderr
    folder = out / "stripes" / "two-engines"
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return {"folder": folder, "run": run, "done": done, "project": project}


def test_engines_are_compared_with_each_other(two: dict[str, Any]) -> None:
    """Both are measured in one campaign, floats first, and the gate says why each did or did not ship."""
    candidates = {item["name"]: item for item in two["run"]["candidates"]}
    assert list(candidates) == ["dense-fp32", "fp32", "openvino-int8"]
    assert candidates["openvino-int8"]["engine"] == "openvino"
    assert all(item["latency_ms"]["value"] > 0 and item["reasons"] for item in candidates.values())
    assert candidates["openvino-int8"]["vs_reference"]["reference"] == "dense-fp32"
    assert "openvino" in two["run"]["versions"]


def test_what_cannot_be_built_is_told_everywhere(two: dict[str, Any]) -> None:
    """With its reason and remedy: while it runs, in the summary, in run.json and in the report; nothing stopped."""
    dropped = {item["name"]: item for item in two["run"]["dropped"]}
    assert dropped["broken-fp32"]["quiet"] is False
    assert "provider of last resort" in dropped["broken-fp32"]["what"] + dropped["broken-fp32"]["why"]
    assert dropped["broken-fp32"]["fix"]
    assert "broken-fp32" in two["done"].stderr
    assert "dropped" in two["done"].stderr
    assert "broken-fp32 not built" in two["done"].stdout.replace("\n", " ")
    assert "broken-fp32" in (two["folder"] / "report.html").read_text(encoding="utf-8").partition(">Not built</h2>")[2]


def test_a_format_with_nothing_to_offer_is_a_detail(two: dict[str, Any]) -> None:
    """A net of convolutions gains nothing from dynamic int8: known, kept, and no warning."""
    dropped = {item["name"]: item for item in two["run"]["dropped"]}
    assert dropped["int8-dynamic"]["quiet"] is True
    assert "int8-dynamic not built" not in two["done"].stdout


def test_a_failure_is_tried_again_and_all_else_reused(
    two: dict[str, Any], target: Path, inline: Run, tmp_path: Path
) -> None:
    """The plan knows what may fail; a second run retries just that."""
    done = inline("plan", two["project"], "--target", target, "--json")
    states = {stage["stage"]: stage["state"] for stage in json.loads(done.stdout)[0]["stages"]}
    assert states["build:broken-fp32"] == "optional"
    assert states["build:int8-dynamic"] == "not needed"
    assert states["build:openvino-int8"] == states["convert:int8-dynamic"] == "stored"
    done = inline("run", two["project"], "--target", target, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "0 stages run" in done.stdout
    assert "broken-fp32" in done.stderr


def test_what_the_recipe_names_must_be_built(two: dict[str, Any], target: Path, inline: Run, tmp_path: Path) -> None:
    """The same failure ends the run when that candidate was asked for, and nothing is written."""
    done = inline("run", two["project"], "--target", target, "--out", tmp_path / "out", *ALL, *NO_TIMES)
    assert done.returncode in {3, 5}, done.stderr
    assert "provider of last resort" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_openvino_bundle_verifies(two: dict[str, Any], target: Path, inline: Run, tmp_path: Path) -> None:
    """It names its runtime with the version that it was tested with, and answers in a fresh process."""
    from importlib import metadata

    only = ("--set", 'build.candidates=["openvino-int8"]')
    done = inline("run", two["project"], "--target", target, "--out", tmp_path, *only, *NO_TIMES, "--json")
    assert done.returncode == 0, done.stderr
    (document,) = json.loads(done.stdout)
    assert document["run"]["verdict"]["shipped"] == "openvino-int8"
    bundle = tmp_path / "stripes" / "two-engines" / "bundle"
    pinned = f"openvino=={metadata.version('openvino').partition('-')[0]}"
    assert pinned in (bundle / "requirements.txt").read_text().splitlines()
    assert json.loads((bundle / "manifest.json").read_text())["profile"]["engine"]["name"] == "openvino"
    assert inline("verify", bundle).returncode == 0
