"""Executes a plan: reuse what the store has, run the rest, publish each stage as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, final

from pipeline.artifacts import Artifact
from pipeline.data.loaded import LoadedData
from pipeline.diskspace import Forecast
from pipeline.dropping import dropped_by, is_own_failure, withdrawn_by
from pipeline.events import CandidateDropped, Notice, Observer, StageFinished, StageProgress, StageStarted, TrainingStep
from pipeline.lineage import Ancestor
from pipeline.plan import Chosen, Drops, Lineage, Node, Plan, Source, source_names
from pipeline.stages.base import WITHDRAWN, Context, Stage, configuration
from pipeline.store import Entry, Store, make_key
from pipeline.store.place import OTHER_CACHE, measuring_folder, unfinished_folder
from pipeline.timeleft import TimeLeft
from targets.errors import EdgepressError
from targets.files import disk_guard
from targets.forkserver import fork_server

State = Literal["stored", "to run", "optional", "not needed"]
KEY_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One node's place in the store.

    Attributes:
        node: The node.
        entry: Its store entry.
        reused: Whether it was there before this run.
    """

    node: Node
    entry: Entry
    reused: bool


def run_plan(plan: Plan, store: Store, observer: Observer) -> dict[str, Outcome]:
    """Brings every node of ``plan`` into the store, in order.

    Finished stages stay in the store whatever happens after them, so an interrupted run continues where it stopped.

    Returns:
        By name, the nodes that could be had: an optional one that failed is not there, nor what needs it.
    """
    run = _Run(store=store, observer=observer, forecast=Forecast(plan.nodes, store.root, observer))
    with ExitStack() as stack:
        stack.enter_context(store.session())
        run.folders = stack.enter_context(store.scratch())
        stack.enter_context(fork_server())
        for node in plan.nodes:
            run.try_to_bring(plan, node)
    return run.outcomes


def cached_state(plan: Plan, store: Store) -> dict[str, State]:
    """For each node whether the store has it.

    What is ``optional`` may fail, and no failure is kept: until it ran, nobody knows, and what takes it with others has
    yet to run. What is ``not needed`` has nothing to offer for this model, as a stored stage found.
    """
    run = _Run(store=store, observer=_ignore, forecast=Forecast(plan.nodes, store.root, _ignore))
    state: dict[str, State] = {}
    for node in plan.nodes:
        if node.name in run.gone:
            state[node.name] = "not needed"
            continue
        try:
            entry = store.reuse(run.key(node))
        except KeyError:
            entry = None
        if entry is None:
            state[node.name] = "optional" if node.optional else "to run"
            continue
        state[node.name] = "stored"
        run.keep(plan, Outcome(node=node, entry=entry, reused=True))
    return state


@final
class _OwnFailure(Exception):
    """An optional stage failed by itself; not an error of the store around it."""

    def __init__(self, error: EdgepressError) -> None:
        super().__init__(error)
        self.error = error


@dataclass(slots=True)
class _Run:
    store: Store
    observer: Observer
    forecast: Forecast
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    dropped: list[CandidateDropped] = field(default_factory=list)
    folders: Path = Path()
    data: LoadedData = field(default_factory=LoadedData)

    def try_to_bring(self, plan: Plan, node: Node) -> None:
        """Brings a node into the store; without it where it is optional and fails, or needs what is gone."""
        if node.name in self.gone:
            return
        try:
            self.keep(plan, self.bring(node))
        except _OwnFailure as failure:
            self._lose(plan, node, dropped_by(plan, node, failure.error))

    def keep(self, plan: Plan, outcome: Outcome) -> None:
        """Notes a node that is in the store, which may be there to say that it has nothing to offer."""
        reason = outcome.entry.meta.get(WITHDRAWN)
        if reason is None:
            self.outcomes[outcome.node.name] = outcome
            return
        assert outcome.node.optional, f"{outcome.node.name} was asked for and withdraws"
        self._lose(plan, outcome.node, withdrawn_by(plan, outcome.node, str(reason)))

    def _lose(self, plan: Plan, node: Node, dropped: Sequence[CandidateDropped]) -> None:
        self.gone |= {node.name, *(other.name for other in plan.dependants(node.name))}
        self.dropped += dropped
        for event in dropped:
            self.observer(event)

    def bring(self, node: Node) -> Outcome:
        key = self.key(node)
        entry = self.store.reuse(key)
        if entry is not None:
            self._forget_unfinished(key)
            return self._finished(node, entry, reused=True)
        with self.store.lock(
            key, on_wait=lambda _key: self.observer(Notice(text=f"another run is making {node.name!r}; waiting for it"))
        ):
            entry = self.store.reuse(key)  # another run may have made it while this one waited
            if entry is not None:
                return self._finished(node, entry, reused=True)
            room_bytes = self.forecast.before(node, self.outcomes)
            self.observer(StageStarted(stage=node.name, title=node.title))
            return self._finished(node, self._execute(node, key, room_bytes), reused=False)

    def key(self, node: Node) -> str:
        return make_key(
            {
                "schema": KEY_SCHEMA,
                "stage": node.stage.name,
                "version": node.stage.version,
                "configuration": configuration(node.stage),
                "inputs": {name: self._digests(source) for name, source in node.inputs.items()},
                "tools": {name: _version(name) for name in ("edgepress", *node.stage.tools)},
            }
        )

    def _digests(self, source: Source) -> object:
        if isinstance(source, Lineage):
            return [configuration(item) for item in self._lineage(source)]
        if isinstance(source, Chosen):
            return self.outcomes[self._chosen(source)].entry.digest
        if isinstance(source, str):
            return self.outcomes[source].entry.digest
        if isinstance(source, Drops):
            if unknown := set(source.among) - self.outcomes.keys() - self.gone:
                raise KeyError(*unknown)
            return [configuration(item) for item in self.dropped]
        return [[name, self.outcomes[name].entry.digest] for name in source if name not in self.gone]

    def _chosen(self, source: Chosen) -> str:
        name = str(self.outcomes[source.verdict].entry.meta["chosen"])
        assert name in source.among, f"the verdict chose {name}, which was no candidate"
        return name

    def _lineage(self, source: Lineage) -> tuple[Ancestor, ...]:
        """Every stage behind the chosen node, itself included, in the order of the run."""
        wanted: set[str] = set()
        pending = [self._chosen(source.of)]
        while pending:
            name = pending.pop()
            if name not in wanted and name in self.outcomes:
                wanted.add(name)
                inputs = self.outcomes[name].node.inputs.values()
                pending += [other for inner in inputs for other in source_names(inner)]
        return tuple(_ancestor(outcome) for name, outcome in self.outcomes.items() if name in wanted)

    def _execute(self, node: Node, key: str, room_bytes: int) -> Entry:
        with self.store.scratch(room_bytes) as work:
            out, scratch = work / "out", work / "scratch"
            out.mkdir()
            scratch.mkdir()
            inputs = node.stage.consumes(**{name: self._artifacts(source) for name, source in node.inputs.items()})
            pace = TimeLeft(even=node.stage.even)
            context = Context(
                progress=self._progress(node, pace),
                warn=lambda text: self.observer(Notice(text=text)),
                scratch=scratch,
                state=measuring_folder(self.store.root),
                data=self.data,
                step=self._step(node, pace),
                unfinished=unfinished_folder(self.store.root) / key,
            )
            started_s = time.monotonic()
            try:
                action = f"running stage {node.name!r}"
                with disk_guard(action, path=work, size_bytes=room_bytes, hint=OTHER_CACHE):
                    results = dict(_run(node.stage, inputs, out, context))
                node.stage.verify(inputs, out, results)
            except EdgepressError as error:
                if node.optional and is_own_failure(error):
                    raise _OwnFailure(error) from error
                raise
            wall_s = round(time.monotonic() - started_s, 3)
            entry = self.store.publish(
                out, key, stage=node.name, meta=results, measured=node.stage.measured, notes={"wall_s": wall_s}
            )
            self._forget_unfinished(key)
            return entry

    def _forget_unfinished(self, key: str) -> None:
        """Removes what an interrupted stage kept, also where it died between its publication and this."""
        place = self.store.root / "unfinished" / key
        if place.exists():
            import shutil  # heavy: only those who remove pay for it

            shutil.rmtree(place, ignore_errors=True)  # another run may be at it; gc removes what is left

    def _artifacts(self, source: Source) -> Artifact | tuple[object, ...]:
        if isinstance(source, Lineage):
            return self._lineage(source)
        if isinstance(source, Drops):
            return tuple(self.dropped)
        if isinstance(source, tuple):
            return tuple(self._artifact(name) for name in source if name not in self.gone)
        return self._artifact(self._chosen(source) if isinstance(source, Chosen) else source)

    def _artifact(self, name: str) -> Artifact:
        outcome = self.outcomes[name]
        folder = self.folders / name.replace(":", "-")
        if not folder.exists():
            self.store.materialize(outcome.entry, folder)
        return artifact_of(outcome, folder)

    def _progress(self, node: Node, pace: TimeLeft) -> Callable[..., None]:
        def progress(done: float, text: str, /, **values: float) -> None:
            left_s = pace.left_s(done)
            self.observer(StageProgress(stage=node.name, done=done, text=text, values=values, left_s=left_s))

        return progress

    def _step(self, node: Node, pace: TimeLeft) -> Callable[[float, int, int, int, Mapping[str, float]], None]:
        def step(done: float, number: int, steps: int, epoch: int, values: Mapping[str, float]) -> None:
            self.observer(
                TrainingStep(
                    stage=node.name,
                    done=done,
                    step=number,
                    steps=steps,
                    epoch=epoch,
                    values=values,
                    left_s=pace.left_s(done),
                )
            )

        return step

    def _finished(self, node: Node, entry: Entry, *, reused: bool) -> Outcome:
        self.observer(
            StageFinished(
                stage=node.name,
                title=node.title,
                reused=reused,
                wall_s=float(str(entry.notes.get("wall_s", 0.0))),
                results=entry.meta,
                digest=entry.digest,
            )
        )
        return Outcome(node=node, entry=entry, reused=reused)


def _run(stage: Stage[Any], inputs: object, out: Path, context: Context) -> Mapping[str, Any]:
    if stage.learning is None or stage.learning.processes == 1:
        return stage.run(inputs, out, context)
    from pipeline.stages.together import run_together

    return run_together(stage, inputs, out, context)


def _ancestor(outcome: Outcome) -> Ancestor:
    stage = outcome.node.stage
    return Ancestor(
        node=outcome.node.name,
        stage=stage.name,
        version=stage.version,
        configuration=configuration(stage),
        tools={name: _version(name) for name in ("edgepress", *stage.tools)},
        digest=outcome.entry.digest,
        measured=stage.measured,
    )


def _ignore(_event: object) -> None:
    """Tells nobody."""


@cache
def _version(distribution: str) -> str:
    return metadata.version(distribution)


def artifact_of(outcome: Outcome, folder: Path) -> Artifact:
    """The typed view of a node's files, which lie in ``folder``."""
    return outcome.node.stage.produces(
        node=outcome.node.name,
        folder=folder,
        digest=outcome.entry.digest,
        results=outcome.entry.meta,
        wall_s=float(str(outcome.entry.notes.get("wall_s", 0.0))),
    )
