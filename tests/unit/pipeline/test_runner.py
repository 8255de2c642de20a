"""Plans are executed once, reused after, and a failure leaves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.events import CandidateDropped, Event, StageFinished, StageProgress, StageStarted
from pipeline.plan import Chosen, Drops, Node, Plan
from pipeline.runner import cached_state, run_plan
from pipeline.store import Store
from targets.errors import DeviceLost, DiskFailure, EdgepressError, EnvironmentFailure, InputError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def two(toys: SimpleNamespace, text: str) -> Plan:
    return Plan(nodes=(
        Node(name="make", title="make it", stage=toys.Make(text=text), inputs={}),
        Node(name="double", title="double it", stage=toys.Double(), inputs={"model": "make"}),
    ))  # fmt: skip


def test_a_run_tells_what_happens(toys: SimpleNamespace, store: Store) -> None:
    """Started, progress and finished arrive in order, with results; outputs of one stage feed the next."""
    events: list[Event] = []
    outcomes = run_plan(two(toys, "ab"), store, events.append)
    assert [type(event) for event in events] == [
        StageStarted,
        StageProgress,
        StageFinished,
        StageStarted,
        StageFinished,
    ]
    assert outcomes["double"].entry.meta == {"text": "abab"}
    assert store.read_bytes(outcomes["double"].entry, "text") == b"abab"


def test_a_second_run_only_finishes(toys: SimpleNamespace, store: Store) -> None:
    """Every stage is reused, and none starts."""
    first = run_plan(two(toys, "ab"), store, lambda _event: None)
    events: list[Event] = []
    second = run_plan(two(toys, "ab"), store, events.append)
    assert all(isinstance(event, StageFinished) and event.reused for event in events)
    assert {name: outcome.entry.digest for name, outcome in first.items()} == {
        n: o.entry.digest for n, o in second.items()
    }


def test_other_configuration_is_other_work(toys: SimpleNamespace, store: Store) -> None:
    """A changed field runs the stage and all that depend on it."""
    run_plan(two(toys, "ab"), store, lambda _event: None)
    assert not any(outcome.reused for outcome in run_plan(two(toys, "cd"), store, lambda _event: None).values())


def test_equal_outputs_of_another_stage_are_reused_downstream(toys: SimpleNamespace, store: Store) -> None:
    """Keys depend on what goes in, not on the name of the node that made it."""
    run_plan(two(toys, "ab"), store, lambda _event: None)
    renamed = Plan(nodes=(
        Node(name="origin", title="", stage=toys.Make(text="ab"), inputs={}),
        Node(name="twice", title="", stage=toys.Double(), inputs={"model": "origin"}),
    ))  # fmt: skip
    assert all(outcome.reused for outcome in run_plan(renamed, store, lambda _event: None).values())


@pytest.mark.parametrize(("text", "kept"), [("bad", []), ("7", ["make"])])
def test_a_failure_is_never_cached(
    text: str, kept: list[str], toys: SimpleNamespace, store: Store, tmp_path: Path
) -> None:
    """Whether a stage or its own verification fails: what was finished stays, the rest leaves nothing."""
    for _ in range(2):
        with pytest.raises(InputError):
            run_plan(two(toys, text), store, lambda _event: None)
    assert [entry.stage for entry in store.entries()] == kept
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


def test_a_choice_is_followed(toys: SimpleNamespace, store: Store) -> None:
    """The node that the verdict names goes in."""
    chosen = Chosen(verdict="choose", among=("a", "b"))

    def plan(choice: str) -> Plan:
        return Plan(nodes=(
            Node(name="make", title="", stage=toys.Make(text="x"), inputs={}),
            Node(name="other", title="", stage=toys.Make(text="y"), inputs={}),
            Node(name="a", title="", stage=toys.Double(), inputs={"model": "make"}),
            Node(name="b", title="", stage=toys.Double(), inputs={"model": "other"}),
            Node(name="choose", title="", stage=toys.Choose(choice=choice), inputs={"models": ("a", "b")}),
            Node(name="last", title="", stage=toys.Choose(choice="a"), inputs={"models": chosen}),
        ))  # fmt: skip

    outcomes = {choice: run_plan(plan(choice), store, lambda _event: None)["last"] for choice in ("a", "b")}
    assert outcomes["a"].entry.key != outcomes["b"].entry.key


def test_cached_state_looks_without_running(toys: SimpleNamespace, store: Store) -> None:
    """Before: all to run, the one below what is missing too; after: all there."""
    assert cached_state(two(toys, "ab"), store) == {"make": "to run", "double": "to run"}
    assert store.entries() == []
    run_plan(two(toys, "ab"), store, lambda _event: None)
    assert cached_state(two(toys, "ab"), store) == {"make": "stored", "double": "stored"}


def test_a_damaged_blob_is_made_again(toys: SimpleNamespace, tmp_path: Path) -> None:
    """A flipped bit costs one stage, not the run."""
    first = run_plan(two(toys, "ab"), Store(tmp_path / "store"), lambda _event: None)
    sha = first["double"].entry.files[0].sha256
    blob = tmp_path / "store" / "cas" / sha[:2] / sha
    blob.chmod(0o644)
    blob.write_bytes(b"abaX")
    second = run_plan(two(toys, "ab"), Store(tmp_path / "store"), lambda _event: None)
    assert {name: outcome.reused for name, outcome in second.items()} == {"make": True, "double": False}
    assert second["double"].entry.digest == first["double"].entry.digest


def contest(toys: SimpleNamespace, *texts: str, **extra: object) -> Plan:
    """One mandatory text, others that are optional, each doubled; a choice among all; a tale of what was dropped."""
    names = ("must", *(f"may{i}" for i in range(1, len(texts))))
    made = [
        Node(name=name, title="", stage=toys.Make(text=text, **extra), inputs={}, optional=name != "must")
        for name, text in zip(names, texts, strict=True)
    ]
    built = [
        Node(name=f"build:{name}", title="", stage=toys.Double(), inputs={"model": name}, optional=name != "must")
        for name in names
    ]
    builds = tuple(node.name for node in built)
    among = tuple(node.name for node in (*made, *built))
    return Plan(nodes=(
        *made, *built,
        Node(name="choose", title="", stage=toys.Choose(choice="build:must"), inputs={"models": builds}),
        Node(name="tell", title="", stage=toys.Tell(), inputs={"models": builds, "dropped": Drops(among=among)}),
    ))  # fmt: skip


def test_an_optional_stage_that_fails_is_left_out(toys: SimpleNamespace, store: Store) -> None:
    """The run goes on without it and what needs it, says so once, and keeps nothing of it."""
    events: list[Event] = []
    outcomes = run_plan(contest(toys, "a", "bad"), store, events.append)
    assert set(outcomes) == {"must", "build:must", "choose", "tell"}
    dropped = [event for event in events if isinstance(event, CandidateDropped)]
    assert dropped == [CandidateDropped(name="may1", what="bad text", why="it is bad", fix="give another")]
    assert {entry.stage for entry in store.entries()} == set(outcomes)
    assert outcomes["tell"].entry.meta == {"models": ["build:must"], "dropped": ["may1"]}


def test_what_is_left_decides_the_keys(toys: SimpleNamespace, store: Store) -> None:
    """A choice among what is there is the same choice, however many others were tried and failed."""
    with_failure = run_plan(contest(toys, "a", "bad"), store, lambda _event: None)
    without = run_plan(contest(toys, "a"), store, lambda _event: None)
    assert with_failure["choose"].entry.key == without["choose"].entry.key
    assert with_failure["tell"].entry.key != without["tell"].entry.key, "who tells of it must tell it anew"


def test_a_failure_is_tried_again(toys: SimpleNamespace, store: Store) -> None:
    """What was missing may be there the next time, and what it would change is not taken from the store."""
    run_plan(contest(toys, "a", "bad"), store, lambda _event: None)
    second = run_plan(contest(toys, "a", "good"), store, lambda _event: None)
    assert {name for name, outcome in second.items() if outcome.reused} == {"must", "build:must"}
    assert second["tell"].entry.meta["dropped"] == []


def test_a_verification_that_fails_drops_too(toys: SimpleNamespace, store: Store) -> None:
    """An engine that is not what its stage promises is as bad as none."""
    events: list[Event] = []
    outcomes = run_plan(contest(toys, "a", "7"), store, events.append)
    assert "build:may1" not in outcomes
    assert [event.name for event in events if isinstance(event, CandidateDropped)] == ["may1"]


def test_a_stage_may_withdraw(toys: SimpleNamespace, store: Store) -> None:
    """Nothing to gain is a result: kept, told quietly, and known to the next plan without running anything."""
    events: list[Event] = []
    plan = contest(toys, "a", "withdraw")
    run_plan(plan, store, events.append)
    (dropped,) = [event for event in events if isinstance(event, CandidateDropped)]
    assert (dropped.name, dropped.quiet, dropped.why) == ("may1", True, "no gain")
    state = cached_state(plan, store)
    assert (state["may1"], state["build:may1"], state["tell"]) == ("stored", "not needed", "stored")
    assert all(outcome.reused for outcome in run_plan(plan, store, lambda _event: None).values())


def test_the_plan_says_what_may_fail(toys: SimpleNamespace, store: Store) -> None:
    """A failure is not kept, so an optional stage stays optional, and what takes it with others stays to run."""
    plan = contest(toys, "a", "bad")
    run_plan(plan, store, lambda _event: None)
    state = cached_state(plan, store)
    assert (state["must"], state["may1"], state["build:may1"]) == ("stored", "optional", "optional")
    assert (state["choose"], state["tell"]) == ("to run", "to run")


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        OSError(28, "No space left on device"),
        DiskFailure("writing failed", "No space left on device: 'x'", "free some"),
        RefusedError("refused", "a link", "remove it"),
        DeviceLost("lost", "no answer", "reconnect"),
        EdgepressError("odd", "unknown kind", "look"),
        AssertionError("our own bug"),
        ValueError("our own bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_failure_of_the_candidate_stops_the_run(
    error: BaseException, toys: SimpleNamespace, store: Store
) -> None:
    """Interruption, full disk, lost device, refusal and our own bugs are never taken for a dropped candidate."""
    events: list[Event] = []
    with pytest.raises((type(error), EnvironmentFailure)):
        run_plan(contest(toys, "a", "raise", error=error), store, events.append)
    assert not any(isinstance(event, CandidateDropped) for event in events)


def test_a_fault_of_the_store_stops_the_run(
    toys: SimpleNamespace, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the store says while it keeps an optional stage's files is the store's fault, not the candidate's."""

    def publish(*_: object, stage: str, **__: object) -> None:
        raise InputError("the store", "is broken", "mend it")

    monkeypatch.setattr(Store, "publish", publish)
    with pytest.raises(InputError, match="the store"):
        run_plan(
            Plan(nodes=(Node(name="may", title="", stage=toys.Make(text="a"), inputs={}, optional=True),)),
            store,
            lambda _event: None,
        )


def test_what_an_interrupted_stage_kept_goes_with_its_result(toys: SimpleNamespace, store: Store) -> None:
    """Promise R1: killed after a training was published, before its checkpoints went: they go next time."""
    outcomes = run_plan(two(toys, "ab"), store, lambda _event: None)
    left = store.root / "unfinished" / outcomes["make"].entry.key / "training"
    left.mkdir(parents=True)
    (left / "big").write_bytes(b"x")
    run_plan(two(toys, "ab"), store, lambda _event: None)
    assert list((store.root / "unfinished").iterdir()) == []
