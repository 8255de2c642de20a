"""What runs in a limited child process: training of a Q/DQ file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np

from calibration.child import same_everywhere, sample_sets
from calibration.fidelity import Judge
from calibration.samples import CalibrationSet
from targets.errors import InputError
from targets.scheme import scheme

if TYPE_CHECKING:
    from calibration.samples import Array

QAT_BATCH: Final = 32


def train_in_child(request: Mapping[str, object]) -> dict[str, object]:
    """Trains a Q/DQ file by distillation from its float parent; for `targets.process.call_limited`.

    Args:
        request: ``model`` (the float model), ``quantized`` (its Q/DQ file), ``parent`` (the float model that file was
            made from, where algorithms have changed it), ``samples`` and ``batch_size`` as for
            `calibration.child.calibrate_in_child` (the held-back ones choose the best step), ``training`` (``.npz`` of
            training samples in an order without pattern), ``epochs``, ``seed``, ``threads``, ``time_budget_s``,
            ``scheme`` and ``out`` (file to write).

    Returns:
        ``{steps, best_step, training_samples, held_snr_db_before, held_snr_db, changed_ratio, output_snr_db,
        agreement}``; the last two of the written file against ``model``, on the held-back samples.

    Raises:
        InputError: As `train_quantized`.
    """
    from calibration.qat import QatSettings, train_quantized

    model, threads, seed = Path(str(request["model"])), int(str(request["threads"])), int(str(request["seed"]))
    quantized, out = Path(str(request["quantized"])), Path(str(request["out"]))
    _, seen, held = sample_sets(request, model)
    training = CalibrationSet.load(Path(str(request["training"])), batch_size=min(QAT_BATCH, seen.batch_size))
    if training.inputs != seen.inputs:
        raise InputError(
            f"training samples are {training.inputs}",
            f"the model takes {seen.inputs}",
            "train on samples prepared like those for calibration",
        )
    batches = _Shuffled(training, seed)
    report = train_quantized(
        Path(str(request.get("parent", model))),
        quantized,
        batches,
        out,
        QatSettings(
            steps=int(str(request["epochs"])) * len(batches),
            seed=seed,
            threads=threads,
            time_budget_s=float(str(request["time_budget_s"])),
        ),
        held=[*held],
    )
    same_everywhere(out, scheme(str(request["scheme"])))
    found = Judge(model, held, threads=threads)(out)
    return {
        "steps": report.steps,
        "best_step": report.best_step,
        "training_samples": len(training),
        "held_snr_db_before": round(report.held_snr_db[0], 3),
        "held_snr_db": round(report.held_snr_db[report.best_step], 3),
        "changed_ratio": round(report.changed_ratio, 6),
        "output_snr_db": found.snr_db,
        "agreement": found.agreement,
    }


@final
class _Shuffled:
    """Batches of samples, in another order each time; only whole ones, unless there is no other."""

    def __init__(self, samples: CalibrationSet, seed: int) -> None:
        self._samples, self._random = samples, np.random.default_rng(seed)

    def __len__(self) -> int:
        return max(1, len(self._samples) // self._samples.batch_size)

    def __iter__(self) -> Iterator[dict[str, Array]]:
        for index in self._random.permutation(len(self)).tolist():
            start = index * self._samples.batch_size
            yield self._samples.rows(start, start + self._samples.batch_size)
