"""Kill -9 at the boundaries of real stages: one store goes through all of them, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

HERE = Path(__file__).parent
ROUTES = ("chain", "given", "latency", "onnx", "search")
SAMPLE = ("train.saved", "train.blobs", "prune.after")


@dataclass
class Killer:
    """The process that forks a command a request."""

    requests: IO[str]
    answers: IO[str]

    def run(self, arguments: list[str], folder: Path, kill: str = "") -> int:
        """The exit code of one command."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = {"EDGEPRESS_CACHE": str(folder / "cache")}
        request = {"arguments": arguments, "environment": environment, "folder": str(folder), "kill": kill}
        self.requests.write(json.dumps(request) + "\n")
        self.requests.flush()
        return int(self.answers.readline())


def _serve(*options: str) -> Iterator[Killer]:
    with subprocess.Popen(
        [sys.executable, HERE / "killer.py", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        yield Killer(process.stdin, process.stdout)
        process.stdin.close()


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    yield from _serve()


@pytest.fixture(scope="module")
def ready_killer() -> Iterator[Killer]:
    yield from _serve("--all")


@dataclass
class Told:
    """What a command said of its stages: digests, which of them are measured ones, and which ran."""

    digests: dict[str, set[str]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)


def told(folder: Path) -> Told:
    found = Told()
    for line in (folder / "stderr").read_text(encoding="utf-8").splitlines():
        event: dict[str, Any] = json.loads(line) if line.startswith("{") else {"event": ""}
        if event["event"] == "StageFinished":
            found.digests.setdefault(event["stage"], set()).add(event["digest"])
        elif event["event"] == "StageStarted":
            found.ran.add(event["stage"])
    return found


def moments_of(folder: Path) -> list[str]:
    """The moments of an undisturbed run, in order; `before` a stage is `after` the one before it, but for the first."""
    found = (folder / "moments").read_text(encoding="utf-8").split()
    return found[:1] + [moment for moment in found[1:] if not moment.endswith(".before")]


def records(folder: Path) -> dict[str, int]:
    """The stored results; one that is stored again gets another number."""
    return {path.name: path.stat().st_ino for path in (folder / "cache" / "ac").glob("*.json")}


def unmeasured(folder: Path) -> set[str]:
    """Digests of results that no measurement went into, so far as the stages themselves say."""
    entries = [json.loads(path.read_bytes()) for path in (folder / "cache" / "ac").glob("*.json")]
    return {entry["digest"] for entry in entries if not entry["measured"]}


def kill_through(
    moments: list[str], arguments: list[str], folder: Path, killer: Killer, invariants: ModuleType
) -> None:
    """Kills at each moment in turn, on one store, and then lets the command finish."""
    for moment in moments:
        before = records(folder)
        code = killer.run(arguments, folder, moment)
        said = (folder / "stderr").read_text(encoding="utf-8")
        assert code == -9, f"{moment} was not met on the way ({code}): {said[-2000:]}"
        after = records(folder)
        assert before.items() <= after.items(), f"a finished stage was run again before {moment}"
        stage, _, place = moment.rpartition(".")
        new = [json.loads((folder / "cache" / "ac" / name).read_bytes())["stage"] for name in after.keys() - before]
        assert (stage in new) == (place == "after"), f"{moment}: the stage is half there"
        invariants.check_store(folder / "cache", after_next_run=False)
    kept = records(folder)
    code = killer.run(arguments, folder)
    assert code == 0, (folder / "stderr").read_text(encoding="utf-8")[-3000:]
    assert kept.items() <= records(folder).items(), "a finished stage was run again in the end"
    invariants.check_store(folder / "cache", after_next_run=True)
    assert not list((folder / "cache" / "unfinished").iterdir()), "an unfinished training is left for ever"


def test_kills_at_real_stages_lose_nothing(tmp_path: Path, killer: Killer, invariants: ModuleType) -> None:
    """Promise R1: killed before its record, a stage is redone; killed after it, it is kept; digests are the same."""
    recipe = HERE.parent / "e2e" / "stripes"
    arguments = ["prune", str(recipe), "--json", "--set", "train.epochs=2"]
    assert killer.run(arguments, tmp_path / "calm") == 0
    assert set(SAMPLE) <= set(moments_of(tmp_path / "calm"))
    kill_through(list(SAMPLE), arguments, tmp_path / "killed", killer, invariants)
    assert told(tmp_path / "killed").digests == told(tmp_path / "calm").digests


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("route", ROUTES)
def test_kills_at_every_boundary_lose_nothing(
    route: str, tmp_path: Path, ready_killer: Killer, invariants: ModuleType, routes: ModuleType
) -> None:
    """Promise R1: killed at every boundary of every real stage, one store ends with the digests of a calm run."""
    project = routes.make_project(route, tmp_path / "project")
    arguments = ["search" if route == "search" else "run", str(project), "--json", "--out"]
    calm = tmp_path / "calm"
    assert ready_killer.run([*arguments, str(calm / "out")], calm) == 0, (calm / "stderr").read_text("utf-8")[-3000:]
    moments = moments_of(tmp_path / "calm")
    kill_through(moments, [*arguments, str(tmp_path / "killed" / "out")], tmp_path / "killed", ready_killer, invariants)
    whole, killed = told(calm), told(tmp_path / "killed")
    assert whole.digests.keys() == killed.digests.keys() or route == "search"  # which says only what is new
    if route == "latency":  # what it prunes is what it measured
        differing = {name for name, found in whole.digests.items() if found != killed.digests[name]}
        assert differing.isdisjoint({"data", "train", "export:dense"})
        return
    assert unmeasured(tmp_path / "calm") == unmeasured(tmp_path / "killed")
    if route == "search":
        found = [next((tmp_path / name / "out").glob("*/*.search/search.json")) for name in ("calm", "killed")]
        assert found[0].read_bytes() == found[1].read_bytes()


@pytest.mark.long
def test_the_routes_go_through_every_stage(routes: ModuleType, tmp_path: Path) -> None:
    """Promise R1: no stage of ours is in none of the recipes that the sweep runs."""
    from pipeline.compose import compose
    from pipeline.recipe import load_recipe
    from pipeline.stages.base import Stage
    from targets.profile import load_profile

    names = set()
    for route in ROUTES:
        recipe = load_recipe(routes.make_project(route, tmp_path / route), ())
        names |= {type(node.stage) for node in compose(recipe, load_profile("host")).nodes}
    ours = {stage for stage in Stage.__subclasses__() if stage.__module__.startswith("pipeline.")}
    missing = {stage.__name__ for stage in ours} - {stage.__name__ for stage in names}
    assert missing <= {"HalveStage"}, missing  # only for GPUs, which fp16 pays on
