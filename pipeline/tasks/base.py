"""The contract of a task: what labels and outputs must be, the loss, and the metrics by name."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, final

from pipeline.tasks.names import fits
from pipeline.usercode import FactoryRef, call_factory
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset

Arrays = Sequence["npt.NDArray[Any]"]
MAIN: Final = "accuracy"
"""Key of the main metric's value in the results of every stage; ``metric`` beside it says which metric that is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(ABC):
    """What a model is for. Configuration alone, hashed into keys; arrays in, figures out.

    Attributes:
        name: What a recipe calls it.
        needs_labels: Whether it compares with labels; otherwise with the uncompressed model.
        asks_again: Whether equal inputs in two splits are no leak: the same user comes back, with another label.
        smooths: Whether its loss knows label smoothing.
        known: Names of its metrics; ``<k>`` stands for a whole number.
        lower_is_better: Metrics that can be shown, but not decide.
        metric: Name of the main metric: the one that counts, higher is better.
        beside: Names of the metrics shown beside it.
        functions: The user's own metrics by name.
    """

    name: ClassVar[str]
    needs_labels: ClassVar[bool] = True
    asks_again: ClassVar[bool] = False
    smooths: ClassVar[bool] = True
    known: ClassVar[tuple[str, ...]]
    lower_is_better: ClassVar[frozenset[str]] = frozenset()

    metric: str = ""
    beside: tuple[str, ...] = ()
    functions: Mapping[str, FactoryRef] = field(default_factory=dict)

    @abstractmethod
    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Facts about the labels, for the report.

        Raises:
            InputError: Labels are missing or not what the task needs.
        """

    @abstractmethod
    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """Checks the model's outputs on a few samples against the labels of all splits.

        Raises:
            InputError: They do not fit together.
        """

    @abstractmethod
    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """The training loss, a scalar."""

    @abstractmethod
    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """What the outputs mean, as named arrays ``(N, ...)``."""

    @abstractmethod
    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        """The metrics of these names, all of them of the task's own."""

    @final
    def score(self, outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays) -> float:
        """The main metric over a whole split, higher is better.

        Args:
            outputs: One array per model output, ``(N, ...)``.
            labels: ``(N, ...)``, where the task has labels.
            reference: The uncompressed float model's outputs for the same samples.

        Raises:
            InputError: The user's own metric raises, or gives no finite number.
        """
        return self._measured((self.metric,), outputs, labels, reference)[self.metric]

    @final
    def scores(self, outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays) -> dict[str, Any]:
        """What a stage tells of a model: ``accuracy`` (the main metric), ``metric`` (its name), ``beside``."""
        values = self._measured((self.metric, *self.beside), outputs, labels, reference)
        return {**self.named(values[self.metric]), "beside": {name: values[name] for name in self.beside}}

    @final
    def named(self, value: float) -> dict[str, Any]:
        """The main metric with its name, for the results of a stage."""
        return {MAIN: value, "metric": self.metric}

    @property
    def alone(self) -> Self:
        """The same task with nothing beside the main metric: for stages whose outcome does not depend on it."""
        return replace(self, beside=(), functions={n: f for n, f in self.functions.items() if n == self.metric})

    @property
    def best(self) -> float:
        """What the main metric cannot exceed; infinite for the user's own."""
        return math.inf if self.metric in self.functions else 1.0

    @classmethod
    def knows(cls, metric: str) -> bool:
        """Whether a metric of that name is one of the task's."""
        return any(fits(metric, template) for template in cls.known)

    def _measured(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> dict[str, float]:
        own = [name for name in dict.fromkeys(names) if name not in self.functions]
        found = dict(self._figures(own, outputs, labels, reference)) if own else {}
        for name in names:
            if name in self.functions:
                found[name] = _called(self.functions[name], outputs, labels)
        return found


def _called(function: FactoryRef, outputs: Arrays, labels: npt.NDArray[Any] | None) -> float:
    """The user's metric: a finite number."""
    value = call_factory(function, {"outputs": list(outputs), "labels": labels}, "metrics")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(
            f"metric {str(function)!r} gave {value!r}"[:200],
            "a metric is one finite number",
            "return a float, higher is better; say what it is where nothing can be scored",
        )
    return number


def split_labels(data: Dataset, task: str, hint: str) -> dict[str, npt.NDArray[Any]]:
    """The labels of every split that must have some (calibration need not), by the split's name.

    Raises:
        InputError: A split has none.
    """
    found = {}
    for name, split in data.splits.items():
        if split.labels is not None:
            found[name] = split.labels
        elif name != "calibration":
            raise InputError(
                f"split {name!r} has no labels",
                f"task `{task}` compares with labels",
                f'return (inputs, labels) per split{hint}, give an .npz an array `labels`, or use task = "fidelity"',
            )
    return found
