"""The ordered stages of one recipe on one target, checked before any work."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drops:
    """What became of candidates that were dropped: no artifact, yet part of the key of the stage that tells it.

    Attributes:
        among: Names of the nodes that may have been dropped.
    """

    among: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Every stage behind the node that a verdict chose: no artifact, yet part of the key of the stage that tells it.

    Attributes:
        of: The chosen node.
    """

    of: Chosen


Source = str | tuple[str, ...] | Chosen | Drops | Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One stage in a plan.

    Attributes:
        name: Unique in the plan; ``stage:variant`` where a stage runs more than once.
        title: One line for people.
        stage: What runs.
        inputs: For each field of the stage's ``consumes``: the node or nodes whose artifact goes in.
        optional: When it fails, the run goes on without it and without what needs it; where several go in, it is left
            out. Nothing of the failure is kept.
    """

    name: str
    title: str
    stage: Stage[Any]
    inputs: Mapping[str, Source]
    optional: bool = False

    @property
    def candidate(self) -> str:
        """Name of the candidate that it builds; empty when it builds none."""
        kind, _, name = self.name.partition(":")
        return name if kind == "build" else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Nodes in an order in which each finds its inputs done."""

    nodes: tuple[Node, ...]

    def __post_init__(self) -> None:
        made: dict[str, type[Artifact]] = {}
        optional: set[str] = set()
        for node in self.nodes:
            assert node.name not in made, f"two nodes are called {node.name}"
            _check_types(node, made)
            assert node.optional or not optional & _single(node), f"{node.name} cannot do without what is optional"
            made[node.name] = node.stage.produces
            optional |= {node.name} if node.optional else set()

    def dependants(self, name: str) -> tuple[Node, ...]:
        """The nodes that cannot run without the node ``name``, in order."""
        lost = {name}
        found = []
        for node in self.nodes:
            if lost & _single(node):
                lost.add(node.name)
                found.append(node)
        return tuple(found)

    def until(self, stage: str) -> Plan:
        """The part of the plan that the nodes of ``stage`` need, those nodes included.

        A node that is called like the stage was asked for: neither it nor what it cannot do without is optional there.
        """
        by_name = {node.name: node for node in self.nodes}
        wanted: set[str] = set()
        pending = [node.name for node in self.nodes if node.stage.name == stage]
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted.add(name)
                pending += [source for inputs in by_name[name].inputs.values() for source in source_names(inputs)]
        kept: list[Node] = []
        asked = {stage}
        for node in reversed([node for node in self.nodes if node.name in wanted]):
            kept.insert(0, replace(node, optional=node.optional and node.name not in asked))
            asked |= _single(node) if node.name in asked else set()
        return Plan(nodes=tuple(kept))


def source_names(source: Source) -> tuple[str, ...]:
    """Names of all nodes that ``source`` may draw on."""
    if isinstance(source, Lineage):
        return source_names(source.of)
    if isinstance(source, Chosen):
        return (source.verdict, *source.among)
    if isinstance(source, Drops):
        return source.among
    return (source,) if isinstance(source, str) else source


def _single(node: Node) -> set[str]:
    """The nodes that this one needs each of."""
    return {source for source in node.inputs.values() if isinstance(source, str)}


def _check_types(node: Node, made: Mapping[str, type[Artifact]]) -> None:
    wanted = typing.get_type_hints(node.stage.consumes)
    assert wanted.keys() == node.inputs.keys(), f"{node.name} takes {sorted(wanted)}, is given {sorted(node.inputs)}"
    for field, source in node.inputs.items():
        if isinstance(source, Drops):
            assert set(source.among) <= made.keys(), f"{node.name} tells of nodes that come later or never"
            continue
        if isinstance(source, Lineage):
            assert set(source_names(source)) <= made.keys(), f"{node.name} tells of nodes that come later or never"
            continue
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
