"""Who is told what happens during a command: the console or a JSON stream, and logs of training steps beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline.events import Event, Observer


@contextmanager
def observing(
    *, as_json: bool, quiet: bool = False, log_dir: Path | None = None, tensorboard: Path | None = None
) -> Iterator[Observer]:
    """The observer that the options of a command ask for.

    Raises:
        EnvironmentFailure: TensorBoard is asked for and not installed.
    """
    from pipeline.cli.console import ConsoleObserver, json_observer
    from pipeline.cli.saying import telling_logs
    from pipeline.steplog import StepLog, TensorBoardLog

    with ExitStack() as stack:
        stack.enter_context(telling_logs(quiet=quiet, as_json=as_json))
        observer: Observer = _silent if quiet else json_observer
        if not quiet and not as_json:
            observer = stack.enter_context(ConsoleObserver())
        if log_dir is not None:
            observer = stack.enter_context(StepLog(observer, log_dir / "steps.jsonl"))
        if tensorboard is not None:
            observer = stack.enter_context(TensorBoardLog(observer, tensorboard))
        yield observer


def _silent(event: Event) -> None:
    """Shows nothing."""
    del event
