"""Runs every sample of an .npz through an engine, batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import read_inputs, write_arrays
from .built import engine_folder
from .failure import DEVICE, Failure
from .runner import engine_errors, open_runner
from .session import one_sample_feeds, read_spec

if TYPE_CHECKING:
    from pathlib import Path


def infer_file(folder: Path, inputs: str, out: str, batch: int) -> dict[str, Any]:
    """Writes the outputs of all samples of ``inputs`` to the .npz ``out``, under the names of the outputs.

    Raises:
        Failure: The inputs do not fit (3), the engine was changed (4), or the runtime fails (5, 6).
    """
    folder = engine_folder(folder)
    spec = read_spec(folder)
    arrays = read_inputs(inputs)
    samples = len(one_sample_feeds(arrays, spec))
    runner = open_runner(folder, spec)
    names = [item["name"] for item in spec["outputs"]]
    rows = []
    for start in range(0, samples, batch):
        feed = {name: np.ascontiguousarray(array[start : start + batch]) for name, array in arrays.items()}
        try:
            rows.append(runner.run(feed))
        except engine_errors(spec) as error:
            raise Failure(
                DEVICE,
                f"the engine failed on samples {start} to {min(start + batch, samples) - 1}",
                " ".join(str(error).split())[:500],
                "run with --batch 1 where the engine's batch size is fixed",
            ) from error
    write_arrays(out, {name: np.concatenate([row[i] for row in rows]) for i, name in enumerate(names)})
    return {"ok": True, "samples": samples, "outputs": names, "engine_sha256": spec["sha256"]}
