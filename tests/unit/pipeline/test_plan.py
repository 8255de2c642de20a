"""Plans are checked before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipeline.plan import Chosen, Drops, Node, Plan, source_names

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


def test_what_is_mandatory_needs_nothing_optional(toys: SimpleNamespace) -> None:
    """Else a dropped candidate would take the run with it; as one of several inputs it is fine."""
    make = Node(name="make", title="", stage=toys.Make(text="a"), inputs={}, optional=True)
    need = Node(name="double", title="", stage=toys.Double(), inputs={"model": "make"})
    with pytest.raises(AssertionError, match="cannot do without"):
        Plan(nodes=(make, need))
    optional = Node(name="build:x", title="", stage=toys.Double(), inputs={"model": "make"}, optional=True)
    choose = Node(name="choose", title="", stage=toys.Choose(choice="x"), inputs={"models": ("build:x",)})
    plan = Plan(nodes=(make, optional, choose))
    assert [node.name for node in plan.dependants("make")] == ["build:x"]
    assert optional.candidate == "x"


def test_a_stage_that_was_asked_for_is_not_optional(toys: SimpleNamespace) -> None:
    """`edgepress quantize` fails where quantising fails; variants of it may be missing."""
    nodes = tuple(
        Node(name=name, title="", stage=toys.Make(text=name), inputs={}, optional=True) for name in ("make", "make:b")
    )
    assert [node.optional for node in Plan(nodes=nodes).until("make").nodes] == [False, True]


def test_what_is_told_of_must_come_before(toys: SimpleNamespace) -> None:
    """A stage that tells of dropped candidates names nodes of the plan."""
    make = Node(name="make", title="", stage=toys.Make(text="a"), inputs={})
    double = Node(name="double", title="", stage=toys.Double(), inputs={"model": "make"})
    tell = Node(
        name="tell", title="", stage=toys.Tell(), inputs={"models": ("double",), "dropped": Drops(among=("later",))}
    )
    with pytest.raises(AssertionError, match="later or never"):
        Plan(nodes=(make, double, tell))
    assert source_names(Drops(among=("a", "b"))) == ("a", "b")
