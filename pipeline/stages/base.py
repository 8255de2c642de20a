"""The contract of a stage: frozen configuration and artifacts in, one folder and its small results out."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from pydantic import BaseModel

from pipeline.artifacts import Artifact

if TYPE_CHECKING:
    from pipeline.data.loaded import LoadedData
    from pipeline.recipe import LearningSection

In = TypeVar("In")

WITHDRAWN: Final = "withdrawn"
"""Key in the results of a stage that found nothing to gain for this model, with the reason: kept as any result is."""


class Progress(Protocol):
    """Tells how far a stage is: share done (0 to 1), a text for people, named figures."""

    def __call__(self, done: float, text: str, /, **values: float) -> None:
        """Reports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a running stage may use beside its configuration and inputs.

    Attributes:
        progress: Reports progress.
        warn: Tells the user something that does not stop the run.
        scratch: An empty folder of this stage's own, removed after it.
        state: A private folder that outlives the run: what an interrupted measurement has finished, and what is known
            of devices.
        data: The data of this run, loaded once.
        step: Reports an optimiser step: share of the stage that is done, its number, how many there are, the epoch,
            named figures.
        unfinished: A folder for what an interrupted stage has finished, found again by the stage's key and removed
            when the stage is published; made by whoever writes there. None: nothing outlives this run.
    """

    progress: Progress
    warn: Callable[[str], None]
    scratch: Path
    state: Path
    data: LoadedData
    step: Callable[[float, int, int, int, Mapping[str, float]], None] = lambda *_: None
    unfinished: Path | None = None


class Stage(ABC, Generic[In]):
    """One step of the pipeline; a frozen dataclass whose fields are its configuration.

    Two stages with equal configuration, equal inputs and equal tools give equal bytes, unless ``measured`` says that
    the outcome is a measurement. Fields with ``metadata={"key": False}`` do not change the outcome (paths).

    Attributes:
        name: The stage's name, also its command.
        version: Raised with every change that changes what the stage makes.
        consumes: Dataclass of input artifacts (a field may be a tuple of artifacts).
        produces: Type of the artifact.
        measured: Whether the outcome is a measurement, different from run to run.
        tools: Distributions whose versions matter for the outcome.
        even: Whether the shares that it reports as done take time evenly, so that they tell what the rest takes.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    consumes: ClassVar[type]
    produces: ClassVar[type[Artifact]]
    measured: ClassVar[bool] = False
    tools: ClassVar[tuple[str, ...]] = ()
    even: ClassVar[bool] = True

    @property
    def learning(self) -> LearningSection | None:
        """How it trains, where it does: in as many processes as that says the whole stage runs."""
        return None

    @abstractmethod
    def run(self, src: In, out: Path, context: Context) -> Mapping[str, Any]:
        """Writes the artifact's files into the empty folder ``out``; returns its small results, JSON-able.

        An optional stage may find that it has nothing to offer: it then writes nothing and returns the reason under
        `WITHDRAWN`.
        """

    def verify(self, src: In, out: Path, results: Mapping[str, Any]) -> None:
        """Raises when the artifact in ``out`` is not what this stage promises."""


def configuration(value: object) -> Any:  # noqa: ANN401 - plain JSON-able data
    """A stage's configuration as plain data for its key; fields marked ``key: False`` are left out.

    Raises:
        TypeError: A field has a type that has no canonical form (our own bug).
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: configuration(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.metadata.get("key", True)
        }
        return {"type": type(value).__name__, **fields}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): configuration(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [configuration(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")
