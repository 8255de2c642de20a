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
