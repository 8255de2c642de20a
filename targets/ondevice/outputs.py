"""The outputs of the timed calls: their hash, and whether they are what was promised."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from .arrays import read_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RTOL = 1e-3  # allowed error, relative to the largest expected magnitude, or beside a given ``atol``


def digest(outputs: Mapping[str, np.ndarray]) -> str:
    """The sha256 of outputs by name, in the order of their names."""
    found = hashlib.sha256()
    for name in sorted(outputs):
        found.update(name.encode() + b"\0" + np.ascontiguousarray(outputs[name]).tobytes())
    return found.hexdigest()


def outputs_ok(got: Mapping[str, np.ndarray], samples: Sequence[int], expected: str) -> bool | None:
    """Whether outputs are finite and as expected; None when they are finite and nothing is expected.

    Args:
        got: Output name to array ``(n, ...)``.
        samples: The sample of which each of the ``n`` rows is the output.
        expected: An .npz with ``output.<name>`` ``(samples, ...)``, and where an output has one ``atol.<name>`` (a
            number): then an error of ``atol + 1e-3 |expected|`` is allowed, else 1e-3 of the largest magnitude. Empty:
            nothing is expected.
    """
    if not all(np.isfinite(array).all() for array in got.values() if array.dtype.kind == "f"):
        return False
    if not expected:
        return None
    arrays = read_arrays(expected)
    rows = np.asarray(samples)
    for name, array in got.items():
        wanted, atol = arrays.get("output." + name), arrays.get("atol." + name)
        if wanted is None or len(wanted) <= rows.max() or wanted.shape[1:] != array.shape[1:]:
            return False
        target = wanted[rows].astype(np.float64)
        if not np.isfinite(target).all():
            return False
        if atol is None:
            allowed = np.asarray(_RTOL * max(1e-12, float(np.abs(target).max())))
        else:
            allowed = float(atol) + _RTOL * np.abs(target)
        if not (np.abs(array.astype(np.float64) - target) <= allowed).all():
            return False
    return True
