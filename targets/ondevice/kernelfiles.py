"""Reads small kernel files under a root; what is missing, unreadable or garbage is None."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_BLOCK_BYTES, _MAX_BLOCKS = 1 << 16, 64


class Tree(NamedTuple):
    """The file system that /proc, /sys and /etc are read from.

    Attributes:
        root: ``/`` on a device; a folder holding a copy elsewhere.
    """

    root: str = "/"

    def path(self, name: str) -> Path:
        """Where ``name`` (absolute, as on the device) lies."""
        return Path(self.root) / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """The text of a file without surrounding white space."""
        try:
            with self.path(name).open("rb") as stream:
                blocks: list[bytes] = []  # in small pieces: /proc/sys refuses to be read by megabytes
                while len(blocks) < _MAX_BLOCKS and (block := stream.read(_BLOCK_BYTES)):
                    blocks.append(block)
        except OSError:
            return None
        return b"".join(blocks).decode("utf-8", "replace").strip().strip("\0")

    def number(self, name: str) -> int | None:
        """A file that holds one decimal integer."""
        return integer(self.text(name))

    def flag(self, name: str) -> bool | None:
        """A file that holds 0 or 1."""
        return {0: False, 1: True}.get(-1 if (value := self.number(name)) is None else value)

    def names(self, folder: str) -> list[str]:
        """Names in a folder, numbers in them in numerical order; empty where it cannot be listed."""
        try:
            return sorted(os.listdir(self.path(folder)), key=_natural)  # noqa: PTH208 - names only
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder, readable or not."""
        return os.path.lexists(self.path(name))

    def denied(self, name: str) -> bool:
        """Whether the file is there and this user may not read it."""
        try:
            self.path(name).open("rb").close()
        except PermissionError:
            return True
        except OSError:
            return False
        return False

    def link(self, name: str) -> str | None:
        """Where a symbolic link points."""
        try:
            return os.readlink(self.path(name))  # noqa: PTH115 - Path.readlink is not in Python 3.8
        except OSError:
            return None


def integer(text: str | None) -> int | None:
    """The integer that ``text`` is, in plain decimal digits."""
    digits = (text or "").lstrip("-")
    return int(text) if text and digits.isascii() and digits.isdigit() and len(text) - len(digits) <= 1 else None


def numbers(text: str | None) -> list[int]:
    """The CPUs of a kernel list like ``0-3,8``; empty where it is no such list."""
    found: set[int] = set()
    for part in (text or "").replace(" ", ",").split(","):
        first, dash, last = part.partition("-")
        low, high = integer(first), integer(last) if dash else integer(first)
        if low is not None and high is not None and 0 <= low <= high < low + 65536:
            found.update(range(low, high + 1))
    return sorted(found)


def _natural(name: str) -> tuple[str, int, str]:
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name
