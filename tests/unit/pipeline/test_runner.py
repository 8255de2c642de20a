"""Plans are executed once, reused after, and a failure leaves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.events import Event, StageFinished, StageProgress, StageStarted
from pipeline.plan import Chosen, Node, Plan
from pipeline.runner import cached_state, run_plan
from pipeline.store import Store
from targets.errors import InputError

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
    """Before: unknown below what is missing; after: all there."""
    assert cached_state(two(toys, "ab"), store) == {"make": False, "double": None}
    assert store.entries() == []
    run_plan(two(toys, "ab"), store, lambda _event: None)
    assert cached_state(two(toys, "ab"), store) == {"make": True, "double": True}


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
