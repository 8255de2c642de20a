"""Numbers with their nouns, as a person would write them."""

from __future__ import annotations


def counted(count: int, noun: str, many: str = "") -> str:
    """``1 block``, ``3 blocks``, ``1,200 entries``.

    Args:
        count: How many.
        noun: Of one.
        many: Of several; the noun with an s when empty.
    """
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"
