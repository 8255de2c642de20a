"""The contract of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


class Task(ABC):
    """What a model is for. Stateless; arrays in, figures out."""

    name: ClassVar[str]
    metric: ClassVar[str]
    needs_labels: ClassVar[bool]

    @abstractmethod
    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Facts about the labels, for the report.

        Raises:
            InputError: Labels are missing or not what the task needs.
        """

    @abstractmethod
    def check_outputs(self, outputs: Sequence[npt.NDArray[Any]], data: Dataset) -> None:
        """Checks the model's outputs on a few samples against the labels of all splits.

        Raises:
            InputError: They do not fit together.
        """

    @abstractmethod
    def score(
        self,
        outputs: Sequence[npt.NDArray[Any]],
        labels: npt.NDArray[Any] | None,
        reference: Sequence[npt.NDArray[Any]],
    ) -> float:
        """The metric over a whole split, higher is better.

        Args:
            outputs: One array per model output, ``(N, ...)``.
            labels: ``(N, ...)``, where the task has labels.
            reference: The uncompressed float model's outputs for the same samples.
        """

    @abstractmethod
    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """The training loss, a scalar."""
