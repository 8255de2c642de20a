"""Every step of every training, written down: JSON lines, and scalars for TensorBoard."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

from pipeline.events import Event, Observer, StageProgress, TrainingStep
from targets.errors import EnvironmentFailure
from targets.files import disk_guard

if TYPE_CHECKING:
    from typing import TextIO


@final
class StepLog(AbstractContextManager["StepLog"]):
    """Passes events on and writes one JSON line a training step and a training epoch.

    Args:
        observer: Gets every event.
        path: The file; new lines are added to it.
    """

    def __init__(self, observer: Observer, path: Path) -> None:
        self._observer, self._path = observer, path
        self._file: TextIO | None = None

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        self._observer(event)
        line = _line(event)
        if line is None:
            return
        with disk_guard(f"writing {self._path}"):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write(json.dumps(line, sort_keys=True) + "\n")
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()


@final
class TensorBoardLog(AbstractContextManager["TensorBoardLog"]):
    """Passes events on and writes TensorBoard scalars, a run a stage.

    Args:
        observer: Gets every event.
        folder: Of all runs.

    Raises:
        EnvironmentFailure: TensorBoard is not installed.
    """

    def __init__(self, observer: Observer, folder: Path) -> None:
        try:
            from tensorboard.summary import Writer
        except ImportError as error:
            raise EnvironmentFailure(
                "cannot write TensorBoard scalars",
                f"tensorboard is not installed ({error})",
                "run `pip install 'edgepress[tensorboard]'`, or use --log-dir, which needs nothing",
            ) from error
        self._make: Any = Writer
        self._observer, self._folder = observer, folder
        self._writers: dict[str, Any] = {}
        self._steps: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Takes one event."""
        self._observer(event)
        if isinstance(event, TrainingStep):
            self._steps[event.stage] = event.step
            self._write(event.stage, "step", event.values, event.step)
        elif isinstance(event, StageProgress) and event.values and event.stage in self._steps:
            self._write(event.stage, "epoch", event.values, self._steps[event.stage])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    def _write(self, stage: str, group: str, values: Any, step: int) -> None:  # noqa: ANN401 - figures by name
        with disk_guard(f"writing {self._folder}"):
            if stage not in self._writers:
                self._writers[stage] = self._make(str(self._folder / stage.replace(":", "-")))
            for name, value in values.items():
                self._writers[stage].add_scalar(f"{group}/{name}", value, step)


def _line(event: Event) -> dict[str, object] | None:
    if isinstance(event, TrainingStep):
        return {"stage": event.stage, "epoch": event.epoch, "step": event.step, **event.values}
    if isinstance(event, StageProgress) and event.values:
        return {"stage": event.stage, "text": event.text, **event.values}
    return None
