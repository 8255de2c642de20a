"""Results are published whole or not at all."""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.api import Result, check_writable, compress, load_profiles, run_until
from pipeline.recipe import load_recipe
from pipeline.store import Store
from targets.errors import BudgetError, EnvironmentFailure, InputError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

RECIPE = (
    'task = "classification"\n[model]\nfactory = "user.py:net"\n[train]\nepochs = 1\n[data]\nfactory = "user.py:data"\n'
)


def result(tmp_path: Path, *, met: bool) -> Result:
    verdict: dict[str, Any] = {"shipped": "int8", "met_budget": met, "reasons": ["size 9 MiB is over the ceiling"]}
    return Result(target="host", folder=tmp_path, run={"verdict": verdict}, stages_run=1, stages_reused=2)


def test_a_missed_budget_raises_only_when_asked(tmp_path: Path) -> None:
    """The results are there in both cases; the error says what was missed and where the bundle is."""
    result(tmp_path, met=True).raise_if_rejected()
    rejected = result(tmp_path, met=False)
    assert rejected.shipped == "int8"
    with pytest.raises(BudgetError) as caught:
        rejected.raise_if_rejected()
    assert "over the ceiling" in caught.value.why
    assert str(tmp_path) in caught.value.fix


def test_a_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    """Looking makes no folder."""
    check_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", ["a", "a/b", "a/b/c"])
def test_a_file_in_the_way_is_refused(file: str, tmp_path: Path) -> None:
    """Wherever on the path it stands."""
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("mine", encoding="utf-8")
    with pytest.raises(EnvironmentFailure, match="Not a directory"):
        check_writable(tmp_path / "a" / "b" / "c")
    assert (tmp_path / file).read_text(encoding="utf-8") == "mine"


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    """It is not replaced."""
    (tmp_path / "a").symlink_to(tmp_path / "nowhere")
    with pytest.raises(EnvironmentFailure):
        check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a").is_symlink()


def test_failing_before_the_end_writes_no_results(tmp_path: Path) -> None:
    """No folder of results is made by a run whose data factory raises, and nothing is stored."""
    (tmp_path / "user.py").write_text(
        "def net():\n    pass\ndef data():\n    raise OSError('gone')\n", encoding="utf-8"
    )
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match="gone"):
        compress(load_recipe(tmp_path), out=tmp_path / "out", store=store)
    assert not (tmp_path / "out").exists()
    assert store.entries() == []


@pytest.mark.parametrize(("stage", "fix"), [("prune", "add [prune]"), ("nosuch", "edgepress plan")])
def test_a_stage_that_the_recipe_lacks(stage: str, fix: str, tmp_path: Path) -> None:
    """The error says what to add, and runs nothing."""
    (tmp_path / "user.py").write_text("def net():\n    pass\ndef data():\n    pass\n", encoding="utf-8")
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        run_until(stage, load_recipe(tmp_path), store=Store(tmp_path / "store"), observer=lambda _event: None)
    assert fix in caught.value.fix


def test_two_targets_of_one_name_are_refused(tmp_path: Path) -> None:
    """The results of one would silently take the place of the other's."""
    (tmp_path / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    with pytest.raises(UsageError, match="two targets are called 'raspberry-pi-5'"):
        load_profiles(load_recipe(tmp_path), ["raspberry-pi-5", "raspberry-pi-5"])


def test_a_recipe_s_own_profile_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the working folder; on the command line a path is as the shell has it."""
    profile = resources.files("targets").joinpath("profiles/raspberry-pi-5.toml").read_text(encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "board.toml").write_text(profile, encoding="utf-8")
    (tmp_path / "mine" / "recipe.toml").write_text('targets = ["board.toml"]\n' + RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("mine")
    assert [found.name for found in load_profiles(recipe)] == ["raspberry-pi-5"]
    assert [found.name for found in load_profiles(recipe, ["mine/board.toml"])] == ["raspberry-pi-5"]
    with pytest.raises(InputError):
        load_profiles(recipe, ["board.toml"])
