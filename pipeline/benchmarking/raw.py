"""The side file of a campaign: every timed sample, delta-coded and gzipped, the same bytes for the same samples."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from typing import TYPE_CHECKING, Any, Final

from targets.errors import InputError
from targets.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_COPIED: Final = ("engine", "block", "attempt", "discarded", "inner_loops", "raw_stride")
_MAX_BYTES: Final = 1 << 30


def write_raw(runs: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes all samples: one list of nanoseconds a run, each number the difference to the one before.

    A sample is the time of ``inner_loops`` calls; where ``raw_stride`` is given, only every so many were kept.

    Raises:
        EnvironmentFailure: The disk refused.
    """
    rows = [
        {
            **{key: run[key] for key in _COPIED if run.get(key) is not None},
            "delta_ns": [now - before for before, now in itertools.pairwise([0, *run["raw"]])],
        }
        for run in runs
    ]
    write_atomic(path, gzip.compress(json.dumps(rows, separators=(",", ":")).encode(), mtime=0))


def read_raw(path: Path) -> list[dict[str, Any]]:
    """What `write_raw` wrote, with ``raw_ns`` (nanoseconds of each sample, in order) in place of the differences.

    Raises:
        InputError: The file is missing, damaged or too large.
    """
    try:
        with gzip.open(path) as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ValueError(f"it holds over {_MAX_BYTES} bytes")  # noqa: TRY301 - reported like any other damage
        rows = json.loads(data)
        return [
            {**{k: v for k, v in row.items() if k != "delta_ns"}, "raw_ns": list(itertools.accumulate(row["delta_ns"]))}
            for row in rows
        ]
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"cannot read the samples in {path}", str(error), "measure again") from error
