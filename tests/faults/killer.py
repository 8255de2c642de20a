"""The real command line, killed at a moment of a real stage, again and again, for one import of torch.

A line of JSON in (``{"arguments": [...], "environment": {...}, "folder": ..., "kill": "train.mid"}``), the exit code
out; every command runs in a fork of this process, with its output in ``folder``. Without ``kill`` the moments that a
stage goes through are written to ``folder/moments``, each once.

Moments: ``before`` a stage runs, ``during`` (its first progress), ``saved`` (the first checkpoint of a training lies
there), ``mid`` (it has run, nothing is published), ``blobs`` (its files have their names, its record has none),
``after`` its publication, before anybody is told.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

HEAVY = ("torch", "torch.export", "lightning_fabric", "pipeline.api", "pipeline.training", "pipeline.pruning")
ALL = (
    *HEAVY, "onnx", "onnxruntime", "onnxscript", "onnx_ir", "optuna", "torchmetrics", "matplotlib.figure", "jinja2",
    "pipeline.search", "pipeline.exporting", "pipeline.distillation", "pipeline.reporting.render",
)  # fmt: skip


class Moments:
    """Where the run is; dies at one of the places, or writes them all down."""

    def __init__(self, kill: str, log: Path) -> None:
        self.kill, self.log, self.stage, self.seen = kill, log, "", set[str]()

    def reach(self, moment: str) -> None:
        here = f"{self.stage}.{moment}"
        if not self.stage or here in self.seen:
            return
        self.seen.add(here)
        if here == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if not self.kill:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(f"{here}\n")


def install(moments: Moments) -> None:
    """Puts the moments into the places of the real code."""
    from pipeline import runner
    from pipeline.plan import Node
    from pipeline.store import Entry, FileRef, Store
    from pipeline.store.blobs import Blobs
    from pipeline.training.checkpoints import Checkpoints

    def at_work(self: object, node: Node, *rest: object, real: Callable[..., Entry] = runner._Run._execute) -> Entry:
        moments.stage = node.name
        moments.reach("before")
        done = real(self, node, *rest)
        moments.stage = ""
        return done

    def publish(
        self: Store, *arguments: object, real: Callable[..., Entry] = Store.publish, **options: object
    ) -> Entry:
        moments.reach("mid")
        done = real(self, *arguments, **options)
        moments.reach("after")
        return done

    def install_(
        self: Blobs, staged: Iterable[tuple[Path, FileRef]], real: Callable[..., None] = Blobs.install
    ) -> None:
        real(self, staged)
        moments.reach("blobs")

    def progress(
        self: object, *of: object, real: Callable[..., Callable[..., None]] = runner._Run._progress
    ) -> Callable[..., None]:
        tell = real(self, *of)

        def told(*arguments: object, **options: object) -> None:
            tell(*arguments, **options)
            moments.reach("during")

        return told

    def save(self: Checkpoints, checkpoint: object, real: Callable[..., None] = Checkpoints.save) -> None:
        real(self, checkpoint)
        moments.reach("saved")

    runner._Run._execute = at_work  # type: ignore[method-assign]
    runner._Run._progress = progress  # type: ignore[method-assign]
    Store.publish = publish  # type: ignore[method-assign]
    Blobs.install = install_  # type: ignore[method-assign]
    Checkpoints.save = save  # type: ignore[method-assign]


def run(request: Mapping[str, Any]) -> None:
    """The command, in this process, which ends with it."""
    folder = Path(request["folder"])
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.update(request["environment"])
    sys.argv = ["edgepress", *request["arguments"]]
    install(Moments(request["kill"], folder / "moments"))
    from pipeline.cli import main

    main.main()


def die_with_parent() -> None:
    """Whoever stops the test stops this, too (PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve() -> None:
    """Answers requests until there are no more."""
    die_with_parent()
    for name in ALL if "--all" in sys.argv else HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            die_with_parent()
            try:
                run(request)
            except SystemExit as stop:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(stop.code or 0))
            os._exit(99)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
