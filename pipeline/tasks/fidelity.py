"""No labels: how closely the compressed model follows the uncompressed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from pipeline.tasks.base import Arrays, Task

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

    from pipeline.data import Dataset


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity(Task):
    """Scores any model against its own float version.

    ``fidelity`` is one minus the relative root mean square error against the uncompressed model; the worst output
    counts, and 0 is the least.
    """

    name: ClassVar[str] = "fidelity"
    needs_labels: ClassVar[bool] = False
    known: ClassVar[tuple[str, ...]] = ("fidelity",)

    metric: str = "fidelity"

    def check_labels(self, data: Dataset) -> Mapping[str, Any]:
        """Nothing to check: labels are not used."""
        del data
        return {}

    def check_outputs(self, outputs: Arrays, data: Dataset) -> None:
        """Nothing to check: any output can be compared with itself."""
        del outputs, data

    def loss(self, outputs: Sequence[Tensor], labels: Tensor, *, label_smoothing: float) -> Tensor:
        """Mean squared error; recipes without labels cannot train, so this serves callers of the Python API."""
        from torch.nn import functional

        del label_smoothing
        return functional.mse_loss(outputs[0], labels)

    def decode(self, outputs: Arrays) -> Mapping[str, npt.NDArray[Any]]:
        """The outputs as they are, by number."""
        return {str(at): array for at, array in enumerate(outputs)}

    def _figures(
        self, names: Sequence[str], outputs: Arrays, labels: npt.NDArray[Any] | None, reference: Arrays
    ) -> Mapping[str, float]:
        import numpy as np

        del labels
        errors = []
        for found, wanted in zip(outputs, reference, strict=True):
            expected = wanted.astype(np.float64)
            power = float(np.mean(np.square(expected)))
            error = float(np.mean(np.square(found.astype(np.float64) - expected)))
            errors.append((error / power) ** 0.5 if power else float(error > 0))
        value = max(0.0, 1.0 - float(np.max(errors)))  # an output of NaN scores 0
        return dict.fromkeys(names, value)
