"""Plans are checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.plan import Chosen, Node, Plan, source_names

if TYPE_CHECKING:
    from types import SimpleNamespace


def test_a_plan_keeps_its_order(toys: SimpleNamespace) -> None:
    """Nodes stay in the order given when each finds its inputs done."""
    plan = Plan(nodes=(
        Node(name="make", title="", stage=toys.Make(text="a"), inputs={}),
        Node(name="double", title="", stage=toys.Double(), inputs={"model": "make"}),
    ))  # fmt: skip
    assert [node.name for node in plan.nodes] == ["make", "double"]


@pytest.mark.parametrize("inputs", [{"model": "later"}, {}, {"model": "make", "other": "make"}])
def test_wrong_wiring_is_our_own_bug(inputs: dict[str, str], toys: SimpleNamespace) -> None:
    """An input that is missing, unknown or comes later stops the plan when it is made, not when it runs."""
    make = Node(name="make", title="", stage=toys.Make(text="a"), inputs={})
    with pytest.raises(AssertionError):
        Plan(nodes=(make, Node(name="double", title="", stage=toys.Double(), inputs=inputs)))


def test_wrong_artifact_types_are_refused(toys: SimpleNamespace) -> None:
    """A stage that takes a torch model is not given an ONNX model."""
    nodes = (
        Node(name="make", title="", stage=toys.Make(text="a"), inputs={}),
        Node(name="double", title="", stage=toys.Double(), inputs={"model": "make"}),
        Node(name="again", title="", stage=toys.Double(), inputs={"model": "double"}),
    )
    with pytest.raises(AssertionError, match="takes"):
        Plan(nodes=nodes)


def test_two_nodes_of_one_name_are_refused(toys: SimpleNamespace) -> None:
    """Names are unique."""
    node = Node(name="make", title="", stage=toys.Make(text="a"), inputs={})
    with pytest.raises(AssertionError, match="two nodes"):
        Plan(nodes=(node, node))


def test_until_takes_what_a_stage_needs_and_nothing_more(toys: SimpleNamespace) -> None:
    """Only the ancestors of the stage's nodes stay."""
    plan = Plan(nodes=(
        Node(name="make", title="", stage=toys.Make(text="a"), inputs={}),
        Node(name="other", title="", stage=toys.Make(text="b"), inputs={}),
        Node(name="double", title="", stage=toys.Double(), inputs={"model": "make"}),
        Node(name="choose", title="", stage=toys.Choose(choice="double"), inputs={"models": ("double",)}),
    ))  # fmt: skip
    assert [node.name for node in plan.until("double").nodes] == ["make", "double"]
    assert plan.until("nosuch").nodes == ()


def test_a_choice_draws_on_its_verdict_and_all_candidates() -> None:
    """So that `until` keeps them all."""
    assert source_names(Chosen(verdict="gate", among=("a", "b"))) == ("gate", "a", "b")
