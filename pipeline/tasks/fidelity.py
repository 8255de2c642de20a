"""No labels: how closely the compressed model follows the uncompressed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from pipeline.tasks.base import Task

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


@final
class Fidelity(Task):
    """Scores any model against its own float version."""

    name = "fidelity"
    metric = "fidelity"
    needs_labels = False

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Nothing to check: labels are not used."""
        del data
        return {}

    def check_outputs(self, outputs: Sequence[npt.NDArray[Any]], data: Dataset) -> None:
        """Nothing to check: any output can be compared with itself."""
        del outputs, data

    def score(
        self,
        outputs: Sequence[npt.NDArray[Any]],
        labels: npt.NDArray[Any] | None,
        reference: Sequence[npt.NDArray[Any]],
    ) -> float:
        """One minus the relative root mean square error against ``reference``, the worst output counts; at least 0."""
        import numpy as np

        del labels
        errors = []
        for found, wanted in zip(outputs, reference, strict=True):
            expected = wanted.astype(np.float64)
            power = float(np.mean(np.square(expected)))
            error = float(np.mean(np.square(found.astype(np.float64) - expected)))
            errors.append((error / power) ** 0.5 if power else float(error > 0))
        return max(0.0, 1.0 - float(np.max(errors)))  # an output of NaN scores 0

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Mean squared error; recipes without labels cannot train, so this serves callers of the Python API."""
        from torch.nn import functional

        del label_smoothing
        return functional.mse_loss(outputs[0], labels)
