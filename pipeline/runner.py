"""Executes a plan: reuse what the store has, run the rest, publish each stage as soon as it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Final

from pipeline.artifacts import Artifact
from pipeline.data.loaded import LoadedData
from pipeline.events import Notice, Observer, StageFinished, StageProgress, StageStarted
from pipeline.plan import Chosen, Node, Plan, Source
from pipeline.stages.base import Context, configuration
from pipeline.store import Entry, Store, make_key
from pipeline.store.place import measuring_folder
from targets.files import disk_guard

KEY_SCHEMA: Final = 1
_OTHER_CACHE: Final = "choose another cache with EDGEPRESS_CACHE"


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
    """
    run = _Run(store=store, observer=observer)
    with ExitStack() as stack:
        stack.enter_context(store.session())
        run.folders = stack.enter_context(store.scratch())
        for node in plan.nodes:
            run.outcomes[node.name] = run.bring(node)
    return run.outcomes


def cached_state(plan: Plan, store: Store) -> dict[str, bool | None]:
    """For each node whether the store has it; None where that depends on a node that has not run yet."""
    run = _Run(store=store, observer=lambda _event: None)
    state: dict[str, bool | None] = {}
    for node in plan.nodes:
        try:
            key = run.key(node)
        except KeyError:
            state[node.name] = None
            continue
        entry = store.reuse(key)
        state[node.name] = entry is not None
        if entry is not None:
            run.outcomes[node.name] = Outcome(node=node, entry=entry, reused=True)
    return state


@dataclass(slots=True)
class _Run:
    store: Store
    observer: Observer
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    folders: Path = Path()
    data: LoadedData = field(default_factory=LoadedData)

    def bring(self, node: Node) -> Outcome:
        key = self.key(node)
        entry = self.store.reuse(key)
        if entry is not None:
            return self._finished(node, entry, reused=True)
        with self.store.lock(
            key, on_wait=lambda _key: self.observer(Notice(text=f"another run is making {node.name!r}; waiting for it"))
        ):
            entry = self.store.reuse(key)  # another run may have made it while this one waited
            if entry is not None:
                return self._finished(node, entry, reused=True)
            self.observer(StageStarted(stage=node.name, title=node.title))
            return self._finished(node, self._execute(node, key), reused=False)

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
        if isinstance(source, Chosen):
            return self.outcomes[self._chosen(source)].entry.digest
        if isinstance(source, str):
            return self.outcomes[source].entry.digest
        return [[name, self.outcomes[name].entry.digest] for name in source]

    def _chosen(self, source: Chosen) -> str:
        name = str(self.outcomes[source.verdict].entry.meta["chosen"])
        assert name in source.among, f"the verdict chose {name}, which was no candidate"
        return name

    def _execute(self, node: Node, key: str) -> Entry:
        with self.store.scratch() as work:
            out, scratch = work / "out", work / "scratch"
            out.mkdir()
            scratch.mkdir()
            inputs = node.stage.consumes(**{name: self._artifacts(source) for name, source in node.inputs.items()})
            context = Context(
                progress=self._progress(node),
                warn=lambda text: self.observer(Notice(text=text)),
                scratch=scratch,
                state=measuring_folder(self.store.root),
                data=self.data,
            )
            started_s = time.monotonic()
            with disk_guard(f"running stage {node.name!r}", path=work, hint=_OTHER_CACHE):
                results = dict(node.stage.run(inputs, out, context))
            node.stage.verify(inputs, out, results)
            wall_s = round(time.monotonic() - started_s, 3)
            return self.store.publish(
                out, key, stage=node.name, meta=results, measured=node.stage.measured, notes={"wall_s": wall_s}
            )

    def _artifacts(self, source: Source) -> Artifact | tuple[Artifact, ...]:
        if isinstance(source, tuple):
            return tuple(self._artifact(name) for name in source)
        return self._artifact(self._chosen(source) if isinstance(source, Chosen) else source)

    def _artifact(self, name: str) -> Artifact:
        outcome = self.outcomes[name]
        folder = self.folders / name.replace(":", "-")
        if not folder.exists():
            self.store.materialize(outcome.entry, folder)
        return artifact_of(outcome, folder)

    def _progress(self, node: Node) -> Callable[..., None]:
        def progress(done: float, text: str, /, **values: float) -> None:
            self.observer(StageProgress(stage=node.name, done=done, text=text, values=values))

        return progress

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
