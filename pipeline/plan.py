"""The ordered stages of one recipe on one target, checked before any work."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import Artifact, Verdict
from pipeline.stages.base import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The node that a verdict chose: known only when the verdict is there.

    Attributes:
        verdict: Name of the node that decides; its results name the chosen node under ``chosen``.
        among: Names of the nodes it chooses from.
    """

    verdict: str
    among: tuple[str, ...]


Source = str | tuple[str, ...] | Chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One stage in a plan.

    Attributes:
        name: Unique in the plan; ``stage:variant`` where a stage runs more than once.
        title: One line for people.
        stage: What runs.
        inputs: For each field of the stage's ``consumes``: the node or nodes whose artifact goes in.
    """

    name: str
    title: str
    stage: Stage[Any]
    inputs: Mapping[str, Source]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Nodes in an order in which each finds its inputs done."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        made: dict[str, type[Artifact]] = {}
        for node in self.nodes:
            assert node.name not in made, f"two nodes are called {node.name}"
            _check_types(node, made)
            made[node.name] = node.stage.produces

    def until(self, stage: str) -> Plan:
        """The part of the plan that the nodes of ``stage`` need, those nodes included."""
        by_name = {node.name: node for node in self.nodes}
        wanted: set[str] = set()
        pending = [node.name for node in self.nodes if node.stage.name == stage]
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending += [source for inputs in by_name[name].inputs.values() for source in source_names(inputs)]
        return Plan(nodes=tuple(node for node in self.nodes if node.name in wanted))


def source_names(source: Source) -> tuple[str, ...]:
    """Names of all nodes that ``source`` may draw on."""
    if isinstance(source, Chosen):
        return (source.verdict, *source.among)
    return (source,) if isinstance(source, str) else source


def _check_types(node: Node, made: Mapping[str, type[Artifact]]) -> None:
    wanted = typing.get_type_hints(node.stage.consumes)
    assert wanted.keys() == node.inputs.keys(), f"{node.name} takes {sorted(wanted)}, is given {sorted(node.inputs)}"
    for field, source in node.inputs.items():
        allowed = _artifact_types(wanted[field])
        if isinstance(source, Chosen):
            assert made[source.verdict] is Verdict, f"{source.verdict} is no verdict"
        drawn: Iterable[str] = source.among if isinstance(source, Chosen) else source_names(source)
        for name in drawn:
            assert name in made, f"{node.name} needs {name}, which comes later or never"
            assert issubclass(made[name], allowed), (
                f"{node.name}.{field} takes {allowed}, {name} is {made[name].__name__}"
            )


def _artifact_types(hint: object) -> tuple[type, ...]:
    arguments = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
    if not arguments:
        assert isinstance(hint, type)
        return (hint,)
    return tuple(kind for argument in arguments for kind in _artifact_types(argument))
