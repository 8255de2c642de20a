"""A study goes on where it was killed, and draws what an undisturbed one would have drawn."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.recipe import BudgetSection, SearchSection
from pipeline.search.candidates import Engine, excesses_of
from pipeline.search.space import Choices, Numbers, Space
from pipeline.search.storage import open_storage
from pipeline.search.study import Claim, Study, grid_faults
from targets.errors import EdgepressError, InputError

SPACE = (
    Choices(key="prune.scope", values=("local", "global")),
    Numbers(key="prune.ratio", low=0.1, high=0.9, step=None, log=False, whole=False),
)
STEPS = (SPACE[0], Numbers(key="prune.ratio", low=0.1, high=0.5, step=0.1, log=False, whole=False))


def study(place: Path, *, sampler: str = "tpe", trials: int = 14, space: Space = SPACE, seed: int = 3) -> Study:
    section = SearchSection.model_validate({"sampler": sampler, "trials": trials, "startup_trials": 4})
    return Study(open_storage(str(place)), "s", space, section, seed)


def judge(one: Study, claim: Claim) -> None:
    """A stand-in for minutes of work: slow where little is cut, inaccurate where much is."""
    ratio = float(claim.point["prune.ratio"])
    drop = max(0.0, ratio - 0.5) / 10 + (0.002 if claim.point["prune.scope"] == "local" else 0.0)
    made = Engine(
        name="int8",
        accuracy=1 - drop,
        accuracy_drop=drop,
        latency_ms=1 - ratio,
        latency_ratio=1 - ratio,
        size_bytes=int(1000 * (1 - ratio)),
        memory_bytes=None,
    )
    one.finish(claim, made, excesses_of(made, BudgetSection(accuracy_drop=0.01)), None)


def finish(one: Study) -> None:
    while (claim := one.claim()) is not None:
        judge(one, claim)


def points(one: Study) -> list[tuple[Any, ...]]:
    return [tuple(sorted(done.point.items())) for done in one.tried()]


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.long), "nsga2", "random"])
def test_killed_and_resumed_it_draws_the_same(sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: whenever a worker dies, the candidates of the whole search are those of an undisturbed one."""
    whole = study(tmp_path / "whole", sampler=sampler)
    finish(whole)
    deaths = random.Random(sampler)
    while True:
        one = study(tmp_path / "killed", sampler=sampler)  # a new process, as it were
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.search.workers.has_ended", lambda _holder: True)
            claim = one.claim()
        if claim is None:
            break
        if deaths.random() < 0.4:
            continue  # it died: nobody told the study
        judge(one, claim)
    assert points(one) == points(whole)
    assert len(points(whole)) == 14


def test_an_interrupted_worker_gives_its_candidate_back(tmp_path: Path) -> None:
    """Promise: Ctrl-C loses no candidate, and counts none twice."""
    one = study(tmp_path / "s", trials=3)
    first = one.claim()
    assert first is not None
    one.release()
    again = study(tmp_path / "s", trials=3)
    taken = again.claim()
    assert taken is not None
    assert taken.point == first.point
    judge(again, taken)
    finish(again)
    assert len(again.tried()) == 3


def test_a_worker_that_is_there_keeps_its_candidate(tmp_path: Path) -> None:
    """Promise: a second worker takes another candidate, and both together make no more than asked for."""
    a, b = study(tmp_path / "s", trials=3), study(tmp_path / "s", trials=3)
    mine, yours = a.claim(), b.claim()
    assert mine is not None
    assert yours is not None
    assert mine.number != yours.number
    judge(a, mine)
    judge(b, yours)
    last = a.claim()
    assert last is not None
    assert b.claim() is None
    judge(a, last)
    assert len(a.tried()) == len(b.tried()) == 3


def test_what_lost_workers_had_can_be_taken_back(tmp_path: Path) -> None:
    """Promise: a machine that never comes back holds no candidate for ever."""
    lost = study(tmp_path / "s", trials=1).claim()
    one = study(tmp_path / "s", trials=1)
    assert one.claim() is None
    one.take_back()
    again = one.claim()
    assert again is not None
    assert lost is not None
    assert again.point == lost.point


def test_a_grid_is_gone_through_once(tmp_path: Path) -> None:
    """Promise: every point once, none twice, and then the end, however many trials were asked for."""
    one = study(tmp_path / "s", sampler="grid", trials=50, space=STEPS)
    finish(one)
    found = points(one)
    assert len(found) == len(set(found)) == 10
    assert {dict(point)["prune.ratio"] for point in found} == {0.1, 0.2, 0.3, 0.4, 0.5}


def test_a_grid_needs_steps() -> None:
    """Promise: a grid without an end is refused before anything runs, by key."""
    with pytest.raises(InputError, match=r"prune\.ratio"):
        grid_faults(SPACE)


def test_no_candidate_is_tried_twice_in_a_small_space(tmp_path: Path) -> None:
    """Promise: figures that are known are not asked for again while there are others."""
    one = study(tmp_path / "s", trials=8, space=STEPS)
    finish(one)
    assert len(set(points(one))) == 8


def test_a_torn_line_of_the_journal_is_cut_off(tmp_path: Path) -> None:
    """Promise: a journal whose last writer died in the middle of a line is opened and goes on."""
    place = tmp_path / "s"
    one = study(place, trials=4)
    claim = one.claim()
    assert claim is not None
    judge(one, claim)
    with place.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    finish(study(place, trials=4))
    assert len(study(place, trials=4).tried()) == 4


def test_what_was_given_up_is_told(tmp_path: Path) -> None:
    """Promise: a hopeless candidate counts as tried, with its reason."""
    one = study(tmp_path / "s", trials=2)
    for failed in (False, True):
        claim = one.claim()
        assert claim is not None
        one.give_up(claim, "why", failed=failed)
    assert one.claim() is None
    assert [(given.reason, given.failed) for given in one.given_up()] == [("why", False), ("why", True)]


@pytest.mark.parametrize("place", ["nosuch://ann:secret@host/name", "postgresql://ann:secret@127.0.0.1:1/name"])
def test_a_database_that_is_not_there_is_a_three_line_error(place: str) -> None:
    """Promise: no traceback of a database driver, and no password in the message."""
    with pytest.raises(EdgepressError) as caught:
        Study(open_storage(place), "s", SPACE, SearchSection(), 0)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("faults", [2, 100])
def test_workers_that_make_the_tables_at_once_both_go_on(faults: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: the one that the database refuses tries again; refused for ever, it is told in three lines."""
    import optuna
    from sqlalchemy.exc import IntegrityError

    asked: list[str] = []
    made = object()

    def storage(place: str) -> object:
        asked.append(place)
        if len(asked) <= faults:
            raise IntegrityError("CREATE TABLE studies", None, ValueError("it is there already"))
        return made

    monkeypatch.setattr(optuna.storages, "RDBStorage", storage)
    monkeypatch.setattr("pipeline.search.storage._MAKING_S", 0.0)
    if faults < 100:
        assert open_storage("postgresql://host/name") is made
        return
    with pytest.raises(InputError, match="it is there already"):
        open_storage("postgresql://host/name")
    assert len(asked) < 20


@pytest.mark.parametrize("seed", range(4))
def test_a_drawing_that_is_repeated_gives_the_same(seed: int, tmp_path: Path) -> None:
    """Promise: a genetic draw that a worker died over, its parents noted already, is drawn anew as it was."""
    one = study(tmp_path / "s", sampler="nsga2", trials=9, seed=seed)
    for number in range(4):  # each better than those before it: by rank, their order is not that of their numbers
        claim = one.claim()
        assert claim is not None
        made = Engine(
            name="int8", accuracy=0.9 + number / 100, accuracy_drop=0.0, latency_ms=1 - number / 10,
            latency_ratio=1 - number / 10, size_bytes=1000, memory_bytes=None,
        )  # fmt: skip
        one.finish(claim, made, (), None)
    first = one._draw(4)
    one._discard(first)
    assert one._draw(4).params == first.params
