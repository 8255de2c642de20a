"""The real command line, killed at a moment of a real stage: ``KILL=train.mid python killer.py run ...``.

Moments: ``before`` a stage runs, ``mid`` (it has run, nothing is published), ``blobs`` (its files have their names, its
record has none), ``after`` its publication, before anybody is told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline import runner
from pipeline.cli import main
from pipeline.plan import Node
from pipeline.store import Entry, FileRef, Store
from pipeline.store.blobs import Blobs

STAGE, _, MOMENT = os.environ.get("KILL", "").partition(".")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_work(self: runner._Run, node: Node, key: str, real: Callable[..., Entry] = runner._Run._execute) -> Entry:
    if (node.name, MOMENT) == (STAGE, "before"):
        _die()
    Blobs.wanted = node.name == STAGE  # type: ignore[attr-defined]
    return real(self, node, key)


def _publish(self: Store, *arguments: object, real: Callable[..., Entry] = Store.publish, **options: object) -> Entry:
    if Blobs.wanted and MOMENT == "mid":  # type: ignore[attr-defined]
        _die()
    done = real(self, *arguments, **options)
    if Blobs.wanted and MOMENT == "after":  # type: ignore[attr-defined]
        _die()
    return done


def _install(self: Blobs, staged: Iterable[tuple[Path, FileRef]], real: Callable[..., None] = Blobs.install) -> None:
    real(self, staged)
    if Blobs.wanted and MOMENT == "blobs":  # type: ignore[attr-defined]
        _die()


if __name__ == "__main__":
    Blobs.wanted = False  # type: ignore[attr-defined]
    runner._Run._execute = _at_work  # type: ignore[method-assign]
    Store.publish = _publish  # type: ignore[method-assign]
    Blobs.install = _install  # type: ignore[method-assign]
    main.main()
