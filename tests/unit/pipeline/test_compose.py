"""Recipe and profile to a plan, without running the user's code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.compose import compose
from pipeline.recipe import Recipe, load_recipe
from targets import machine
from targets.errors import DeviceError, InputError
from targets.profile import load_profile

if TYPE_CHECKING:
    from pathlib import Path

FACTORIES = 'raise RuntimeError("called")\ndef net():\n    pass\ndef data():\n    pass\n'
HEAD = 'task = "classification"\n[model]\nfactory = "user.py:net"\n{weights}\n[data]\nfactory = "user.py:data"\n'


def recipe(tmp_path: Path, sections: str = "", *, weights: str = "", overrides: tuple[str, ...] = ()) -> Recipe:
    (tmp_path / "user.py").write_text(FACTORIES, encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(HEAD.format(weights=weights) + sections, encoding="utf-8")
    return load_recipe(tmp_path, overrides)


def names(found: Recipe) -> list[str]:
    return [node.name for node in compose(found, load_profile("host")).nodes]


def test_a_full_recipe_has_every_stage_in_order(tmp_path: Path) -> None:
    """Three candidates: dense, pruned, int8; the plan's own type check passed."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n[prune]\nratio = 0.5\n[distill]\nepochs = 1\n")
    assert names(found) == [
        "data", "train", "prune", "distill", "export:dense", "export", "quantize",
        "build:dense-fp32", "build:fp32", "build:int8", "benchmark", "gate", "bundle", "report",
    ]  # fmt: skip


def test_a_plain_recipe_quantises_what_it_loads(tmp_path: Path) -> None:
    """Without [prune] there are two candidates and one export."""
    (tmp_path / "w.safetensors").write_bytes(b"any")
    found = recipe(tmp_path, weights='weights = "w.safetensors"')
    assert names(found) == [
        "data", "load", "export", "quantize", "build:fp32", "build:int8", "benchmark", "gate", "bundle", "report",
    ]  # fmt: skip


def test_without_measuring_there_is_no_benchmark(tmp_path: Path) -> None:
    """The gate and the report stay."""
    found = recipe(tmp_path, "[train]\nepochs = 1\n", overrides=("benchmark.measure=false",))
    assert "benchmark" not in names(found)
    assert names(found)[-3:] == ["gate", "bundle", "report"]


def test_an_onnx_file_starts_at_import(tmp_path: Path) -> None:
    """Neither torch stages nor exports."""
    (tmp_path / "net.onnx").write_bytes(b"any")
    (tmp_path / "data.npz").write_bytes(b"any")
    text = 'task = "fidelity"\n[model]\nonnx = "net.onnx"\n[data]\nnpz = "data.npz"\n'
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    assert names(load_recipe(tmp_path))[:3] == ["data", "import", "quantize"]


def test_all_missing_files_are_told_at_once(tmp_path: Path) -> None:
    """One error, one fault each, with the recipe's keys."""
    text = (
        'task = "classification"\n[model]\nfactory = "a.py:net"\nweights = "b.pt"\n'
        '[data]\nfactory = "c.py:data"\nfiles = { x = "d.npz" }\n'
    )
    (tmp_path / "recipe.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        compose(load_recipe(tmp_path), load_profile("host"))
    assert {fault.where for fault in caught.value.faults} == {
        "model.factory",
        "model.weights",
        "data.factory",
        "data.files.x",
    }


def test_a_target_that_is_not_here_is_not_measured_here(tmp_path: Path) -> None:
    """The error names a flag, and with it the plan is made."""
    profile = load_profile("x86-64-vnni" if machine.arch() == "aarch64" else "raspberry-pi-5")
    with pytest.raises(DeviceError) as caught:
        compose(recipe(tmp_path, "[train]\nepochs = 1\n"), profile)
    flag = caught.value.fix.partition("--set ")[2]
    assert compose(recipe(tmp_path, "[train]\nepochs = 1\n", overrides=(flag,)), profile).nodes


def test_the_recipe_s_folder_is_no_part_of_a_plan_s_configuration(tmp_path: Path) -> None:
    """The same files elsewhere are the same work."""
    from pipeline.stages.base import configuration

    found = []
    for name in ("here", "there"):
        (tmp_path / name / "same").mkdir(parents=True)
        plan = compose(recipe(tmp_path / name / "same", "[train]\nepochs = 1\n"), load_profile("host"))
        found.append([configuration(node.stage) for node in plan.nodes])
    assert found[0] == found[1]
    assert str(tmp_path) not in str(found)
