"""How near a quantised model's outputs are to the float model's: signal-to-noise ratio, agreement, accuracy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np
from numpy.typing import NDArray

from calibration.exposure import culprit, fixed_batch
from calibration.joining import joined, no_fixed_size
from calibration.modelfile import open_float, runnable
from calibration.prepare import prepare
from calibration.qdq import snr_db
from calibration.session import Session
from targets.errors import InputError
from targets.onnxfile import io_of, open_onnx

if TYPE_CHECKING:
    from pathlib import Path

    import onnx_ir as ir

    from calibration.samples import CalibrationSet

Array = NDArray[np.generic]
_ROWS: Final = 2
_DOUBT: Final = 1.645
"""Standard errors: a loss this large comes by chance once in twenty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """A model against the float model.

    Attributes:
        snr_db: Signal-to-noise ratio over all outputs together.
        agreement: Share of positions whose largest class is the float model's, None without an output of classes.
        accuracy: Share of samples whose largest class is the label's, None without labels.
        same: Whether each position agrees, in order.
    """

    snr_db: float
    agreement: float | None
    accuracy: float | None
    same: NDArray[np.bool_]

    def agrees_less_than(self, other: Fidelity) -> bool:
        """Whether agreement fell against ``other`` by more than chance explains (sign test on the same positions)."""
        lost, gained = int((other.same & ~self.same).sum()), int((self.same & ~other.same).sum())
        return lost - gained > _DOUBT * math.sqrt(lost + gained)


@final
class Judge:
    """Compares models with one float model on the same samples; its outputs are computed once.

    Args:
        float_model: The float model.
        samples: What to compare on.
        labels: ``(N,)`` class numbers of these samples, or None.
        threads: Threads inside one operator.

    Raises:
        InputError: The float model fails on the samples, gives NaN or Inf (activation and sample are named), or has an
            output whose size depends on values.
    """

    def __init__(
        self, float_model: Path, samples: CalibrationSet, *, labels: Array | None = None, threads: int
    ) -> None:
        self._samples, self._labels, self._threads = samples, labels, threads
        proto = open_float(float_model)
        model, fixed = prepare(proto), fixed_batch(io_of(proto))
        self._names = [str(value.name) for value in model.graph.outputs]
        with runnable(model) as source:
            session = Session(source, threads=threads, optimize=False)
        self._exact = self._run(session)
        if not all(np.isfinite(array).all() for array in self._exact):
            self._blame(model, session, fixed=fixed)
        if labels is not None and (labels.shape != (len(samples),) or not _classes(self._exact[:1])):
            raise InputError(
                f"there are labels of shape {list(labels.shape)} for {len(samples)} samples",
                "each sample has one class number, and the first output one column for each class",
                "give such labels, or none",
            )
        output_snr_db(self._exact, self._exact)

    def __call__(self, quantized: Path) -> Fidelity:
        """Compares a Q/DQ file; its Q/DQ is computed in float, so that this CPU's int8 shortcuts do not sway it.

        Raises:
            InputError: As `compare`, or it cannot be run on the samples.
        """
        return self.compare(
            self._run(Session(open_onnx(quantized).SerializeToString(), threads=self._threads, optimize=False))
        )

    def compare(self, found: list[Array]) -> Fidelity:
        """Compares outputs of all samples, in the model's order.

        Raises:
            InputError: One has another shape than the float model's, or holds NaN or Inf.
        """
        for name, exact, other in zip(self._names, self._exact, found, strict=True):
            if exact.shape != other.shape:
                raise no_fixed_size(name, exact.shape, other.shape)
        pairs = [(exact, other) for exact, other in zip(self._exact, found, strict=True) if _classes([exact])]
        same = [(exact.argmax(-1) == other.argmax(-1)).reshape(-1) for exact, other in pairs]
        return Fidelity(
            snr_db=output_snr_db(self._exact, found),
            agreement=round(min(float(part.mean()) for part in same), 6) if same else None,
            accuracy=None if self._labels is None else round(float((found[0].argmax(-1) == self._labels).mean()), 6),
            same=np.concatenate(same) if same else np.ones(0, np.bool_),
        )

    def _blame(self, model: ir.Model, session: Session, *, fixed: bool) -> None:
        """Raises what names the first activation of the float model that is not finite, and its sample."""
        names, first = [str(value.name) for value in model.graph.outputs], 0
        for batch in self._samples:
            numbers = [self._samples.number(first + index) for index in range(len(next(iter(batch.values()))))]
            for name, array in zip(names, session.run(names, batch), strict=True):
                if array.dtype == np.float32 and not np.isfinite(array).all():
                    raise culprit(model, name, batch, numbers, threads=self._threads, fixed=fixed)
            first += len(numbers)

    def _run(self, session: Session) -> list[Array]:
        batches = zip(*(session.run(None, batch) for batch in self._samples), strict=True)
        return [joined(parts, name) for name, parts in zip(self._names, batches, strict=True)]


def output_snr_db(reference: list[Array], other: list[Array]) -> float:
    """Signal-to-noise ratio over all outputs together, in dB.

    Raises:
        InputError: An output of either model holds NaN or Inf.
    """
    exact, found = (np.concatenate([a.astype(np.float64).reshape(-1) for a in side]) for side in (reference, other))
    if not np.isfinite(exact).all():
        raise InputError(
            "an output of the float model holds NaN or Inf",
            "what int8 costs cannot be measured against it",
            "look at the last layers (a logarithm of zero, a division by zero), or repair the model",
        )
    if not np.isfinite(found).all():
        raise InputError(
            "the int8 model gives NaN or Inf",
            "the float model does not on the same samples",
            "keep this model in float",
        )
    return snr_db(exact, found)


def _classes(outputs: list[Array]) -> bool:
    return all(array.dtype.kind == "f" and array.ndim >= _ROWS and array.shape[-1] > 1 for array in outputs)
