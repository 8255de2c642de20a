"""Memory that was not there: how it is noticed, and what is said of it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from targets.errors import EnvironmentFailure

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNS: Final = (
    b"MemoryError", b"bad_alloc", b"bad allocation", b"Cannot allocate memory", b"Failed to allocate memory",
    b"can't allocate memory", b"CUDA out of memory",
)  # fmt: skip


def is_out_of_memory(text: bytes) -> bool:
    """Whether what a program left behind says that it got no memory."""
    return any(sign in text for sign in _SIGNS)


@contextmanager
def memory_guard(
    what: str, fix: str = "give it less to do, close other programs, or use a machine with more memory"
) -> Iterator[None]:
    """Turns what Python and torch raise for want of memory into an error of three lines.

    Args:
        what: What is done inside, as a noun.
        fix: What helps.

    Raises:
        EnvironmentFailure: There was no memory left.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not is_out_of_memory(str(error).encode()):
            raise
        told = str(error).strip().splitlines()
        raise EnvironmentFailure(
            f"{what} ran out of memory", told[0] if told else "no more could be had", fix
        ) from error
