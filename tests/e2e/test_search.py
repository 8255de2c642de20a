"""A search with the real program: killed, resumed, shared, and always with a bundle that verifies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.long

SEARCH = """
[search]
trials = 5
startup_trials = 3
[search.space]
prune.ratio = [0.3, 0.5, 0.7]
distill.epochs = [1, 2]
[search.screening]
benchmark = { mode = "quick", budget_s = 2.0 }
"""


@pytest.fixture
def searched(project: SimpleNamespace) -> Path:
    """The stripes with a [search] section."""
    path = project.folder / "recipe.toml"
    path.write_text(path.read_text(encoding="utf-8") + SEARCH, encoding="utf-8")
    folder: Path = project.folder
    return folder


def found(out: Path) -> dict[str, Any]:
    (path,) = out.glob("*/host.search/search.json")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def test_a_search_ends_with_a_bundle_that_verifies(
    edgepress: Callable[..., Any], searched: Path, tmp_path: Path
) -> None:
    """Promise: one command from a recipe with [search] to the best bundle, verified, and the front."""
    done = edgepress("search", searched, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the front" in done.stdout
    best = next(tmp_path.glob("*/host.search/best/bundle"))
    assert edgepress("verify", best).returncode == 0
    seen = found(tmp_path)
    assert seen["best_is_confirmed"]
    assert len(seen["trials"]) + len(seen["given_up"]) == 5


def test_killed_at_random_moments_it_goes_on_to_the_same_front(
    edgepress: Callable[..., Any], edgepress_program: Path, cache: Path, searched: Path, tmp_path: Path
) -> None:
    """Promise: with latencies from the store, the front of a search killed again and again is an undisturbed one's."""
    assert edgepress("search", searched, "--out", tmp_path / "whole").returncode == 0
    dice, environment = random.Random(5), {**os.environ, "EDGEPRESS_CACHE": str(cache)}
    for _ in range(4):
        with subprocess.Popen(
            [edgepress_program, "search", searched, "--out", tmp_path / "killed"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(dice.uniform(0.5, 6.0))
            process.send_signal(dice.choice([signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
    assert edgepress("search", searched, "--out", tmp_path / "killed").returncode == 0
    whole, killed = found(tmp_path / "whole"), found(tmp_path / "killed")
    assert killed["front"] == whole["front"]
    assert killed["trials"] == whole["trials"]


def test_two_workers_share_a_study(
    edgepress: Callable[..., Any], edgepress_program: Path, cache: Path, searched: Path, tmp_path: Path
) -> None:
    """Promise: both work, no candidate twice, together as many as asked for; either one ends with the same front."""
    command = [edgepress_program, "search", searched, "--storage", tmp_path / "study.journal"]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
    workers = [
        subprocess.Popen(
            [*command, "--out", tmp_path / name], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    errors = [worker.communicate(timeout=280)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], errors
    assert (
        edgepress("search", searched, "--storage", tmp_path / "study.journal", "--out", tmp_path / "a").returncode == 0
    )
    seen = found(tmp_path / "a")
    points = [json.dumps(trial["point"], sort_keys=True) for trial in (*seen["trials"], *seen["given_up"])]
    assert len(points) == len(set(points)) == 5


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "recipe.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_an_infeasible_budget_ends_with_7_and_says_what_binds(
    edgepress: Callable[..., Any], searched: Path, tmp_path: Path
) -> None:
    """Promise: the least violating bundle is kept and marked, with how far the limit would have to move."""
    options = ("--set", "budget.latency_ratio=0.0001", "--trials", "2", "--out", tmp_path)
    done = edgepress("search", searched, *options)
    assert done.returncode == 7, done.stderr
    assert "latency_ratio would have to be" in done.stderr
    best = next(tmp_path.glob("*/host.search/best"))
    assert "latency_ratio" in (best / "REJECTED.txt").read_text(encoding="utf-8")
    assert edgepress("verify", best / "bundle").returncode == 0
    assert any("latency_ratio" in text for text in found(tmp_path)["binding"])


def test_control_c_leaves_the_best_and_a_study_that_goes_on(
    edgepress: Callable[..., Any], edgepress_program: Path, cache: Path, searched: Path, tmp_path: Path
) -> None:
    """Promise: exit 130; bundle, front and study of what was finished are on the disk."""
    command = [edgepress_program, "search", searched, "--trials", "6", "--set", "seed=3", "--out", tmp_path]
    environment = {**os.environ, "EDGEPRESS_CACHE": str(cache)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("*/host.search/search.json")):
            assert process.poll() is None, "it ended before it wrote anything"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        code = process.wait(120)
    seen = found(tmp_path)
    assert code == 130
    assert 1 <= len(seen["trials"]) + len(seen["given_up"]) < 6
    if seen["best_is_confirmed"]:
        assert edgepress("verify", next(tmp_path.glob("*/host.search/best/bundle"))).returncode == 0
    assert edgepress("search", searched, "--trials", "6", "--set", "seed=3", "--out", tmp_path).returncode == 0
    assert len(found(tmp_path)["trials"]) + len(found(tmp_path)["given_up"]) == 6


def test_a_trial_trains_in_two_processes(edgepress: Callable[..., Any], searched: Path, tmp_path: Path) -> None:
    """Promise: the keys of a section that trains hold in a trial too; how many processes there are may itself vary."""
    edit(searched, "distill.epochs = [1, 2]", "distill.processes = [1, 2]")
    edit(searched, "prune.ratio = [0.3, 0.5, 0.7]", "prune.ratio = [0.5]")
    edit(searched, "[search]\n", '[search]\nsampler = "grid"\n')
    done = edgepress("search", searched, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    trials = {trial["point"]["distill.processes"]: trial for trial in found(tmp_path)["trials"]}
    assert set(trials) == {1, 2}
    assert trials[1]["before_training"] == trials[2]["before_training"]


def test_a_table_of_an_earlier_run_tells_of_candidates_before_training(
    edgepress: Callable[..., Any], searched: Path, tmp_path: Path
) -> None:
    """Promise: latencies measured by an earlier run predict those of a search that measures no table of its own."""
    edit(searched, 'stripes_net"\n', 'stripes_net"\nargs = { width = 64 }\n')  # whose layers take longer than a call
    plain = ("--set", "prune.latency_ratio=0.9", "--set", "prune.latency.rounds=1")
    text = (searched / "recipe.toml").read_text(encoding="utf-8")
    whole = text[: text.index("[search]")]
    ratio = next(line for line in whole.splitlines() if line.startswith("ratio"))
    (searched / "recipe.toml").write_text(whole.replace(ratio, ""), encoding="utf-8")
    assert edgepress("run", searched, *plain, "--out", tmp_path / "run").returncode in {0, 7}
    (searched / "recipe.toml").write_text(text, encoding="utf-8")
    assert edgepress("search", searched, "--trials", "3", "--out", tmp_path / "search").returncode in {0, 7}
    seen = [trial["before_training"] for trial in found(tmp_path / "search")["trials"]]
    assert seen
    assert all(one["predicted_ms"] > 0 for one in seen)
    by_work = sorted(seen, key=lambda one: one["macs"])
    assert by_work[0]["predicted_ms"] <= by_work[-1]["predicted_ms"]


def test_screened_by_short_training_then_trained_in_full(
    edgepress: Callable[..., Any], searched: Path, tmp_path: Path
) -> None:
    """Promise: trials train less, the final as the recipe says; its figures are those of the best."""
    options = ("--set", "search.screening.distill.samples=64", "--set", "search.screening.distill.epochs=1")
    done = edgepress("search", searched, *options, "--trials", "3", "--out", tmp_path)
    assert done.returncode in {0, 7}, done.stderr
    seen = found(tmp_path)
    assert seen["best_is_confirmed"]
    finals = [trial for trial in seen["trials"] if trial["confirmed"]]
    assert [trial["number"] for trial in finals] == [seen["best"]]
    assert finals[0]["confirmed"]["engine"] == finals[0]["engine"]


def test_a_recipe_that_states_only_a_budget_is_searched(
    edgepress: Callable[..., Any], project: SimpleNamespace, tmp_path: Path
) -> None:
    """Promise: without [prune], [distill] and [search], measured latency, criterion and distillation vary."""
    text = (project.folder / "recipe.toml").read_text(encoding="utf-8")
    kept = [part for part in text.split("\n[") if not part.startswith(("prune", "distill"))]
    (project.folder / "recipe.toml").write_text("\n[".join(kept), encoding="utf-8")
    done = edgepress("search", project.folder, "--trials", "2", "--out", tmp_path)
    assert done.returncode in {0, 7}, done.stderr
    assert {"prune.latency_ratio", "prune.criterion", "distill.alpha"} <= set(found(tmp_path)["varied"])
    assert len(found(tmp_path)["trials"]) + len(found(tmp_path)["given_up"]) == 2
