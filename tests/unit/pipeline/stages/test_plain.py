"""Stages as JSON: another process gets exactly the stage that this one has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.artifacts import TorchModel
from pipeline.compose import compose
from pipeline.recipe import load_recipe
from pipeline.stages.base import configuration
from pipeline.stages.plain import from_plain, to_plain
from targets.profile import load_profile

EXAMPLES = Path(__file__).parents[4] / "examples"
FILES = {"movielens": ("ratings", "films", "users"), "sst2": ("sentences",), "digits": ()}


@pytest.mark.parametrize("name", [*FILES])
def test_every_stage_of_a_plan_comes_back(name: str, tmp_path: Path) -> None:
    """Promise: through JSON and back each stage of a plan is equal, and has the same key."""
    for file in FILES[name]:
        (tmp_path / file).write_bytes(b"")
    overrides = [f"data.files.{file}={tmp_path / file}" for file in FILES[name]]
    plan = compose(load_recipe(EXAMPLES / name, overrides), load_profile("host"))
    for node in plan.nodes:
        again = from_plain(json.loads(json.dumps(to_plain(node.stage))))
        assert again == node.stage
        assert configuration(again) == configuration(node.stage)


def test_inputs_come_back() -> None:
    """Artifacts hold paths and results."""
    model = TorchModel(node="prune", folder=Path("/tmp/x"), digest="ab", results={"curve": [{"loss": 0.5}]}, wall_s=1.5)
    assert from_plain(json.loads(json.dumps(to_plain((model, None, 3))))) == (model, None, 3)


@pytest.mark.parametrize("name", ["os:system", "pathlib:Path", "pipeline.usercode:call_factory", "pipeline.api:Path"])
def test_only_our_own_configuration_is_made(name: str) -> None:
    """Promise: no other class and no function can be named."""
    with pytest.raises(TypeError, match="no configuration of ours"):
        from_plain({"class": name, "fields": {}})


def test_what_has_no_plain_form_is_told() -> None:
    """No silent repr."""
    with pytest.raises(TypeError, match="set has no plain form"):
        to_plain({1, 2})
