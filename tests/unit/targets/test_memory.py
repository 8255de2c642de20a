"""Memory that was not there is the machine's doing: three lines, whoever raised, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from targets.errors import EnvironmentFailure
from targets.memory import memory_guard


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (MemoryError(), "no more could be had"),
        (MemoryError("Unable to allocate 3 GiB\nmore"), "Unable to allocate 3 GiB"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "DefaultCPUAllocator"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "CUDA out of memory"),
    ],
)
def test_want_of_memory_is_told(raised: Exception, told: str) -> None:
    """Promise: numpy's, Python's and torch's ways to say it become one error with a remedy."""
    with pytest.raises(EnvironmentFailure, match="training ran out of memory") as error, memory_guard("training"):
        raise raised
    assert told in error.value.why
    assert len(str(error.value).splitlines()) == 3


def test_other_errors_stay_what_they_are() -> None:
    """A bug is not excused."""
    with pytest.raises(RuntimeError, match="size mismatch"), memory_guard("training"):
        raise RuntimeError("size mismatch")
