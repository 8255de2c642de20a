"""Which samples go to which split, by shares and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

CALIBRATED: Final = {"calibration": 0.5, "validation": 0.25, "test": 0.25}
"""For recipes that do not train."""
TRAINED: Final = {"train": 0.6, "validation": 0.2, "test": 0.2}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """A random split.

    Attributes:
        parts: Share of the samples by split, in order; they make 1.
        seed: Seed of the permutation.
    """

    parts: Mapping[str, float]
    seed: int

    def split(self, samples: int, where: str) -> dict[str, npt.NDArray[np.int64]]:
        """Rows of each split; together each row once.

        Args:
            samples: How many there are.
            where: What holds them, for the message.

        Raises:
            InputError: A split would be empty.
        """
        import numpy as np

        summed = np.cumsum(list(self.parts.values()))
        ends = [int(samples * share + 1e-9) for share in summed[:-1]]  # a share of 0.2 of 5 samples is 1, not 0.999
        rows = np.split(np.random.default_rng(self.seed).permutation(samples), ends)
        found = dict(zip(self.parts, rows, strict=True))
        empty = next((name for name, part in found.items() if not len(part)), None)
        if empty is not None:
            raise InputError(
                f"{where} holds too few samples: {samples}",
                f"split {empty!r} would be empty with shares {dict(self.parts)}",
                "save more samples; some hundreds make figures and calibration worth something",
            )
        return found
