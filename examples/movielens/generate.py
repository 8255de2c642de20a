"""Writes interactions of known structure in the layout of MovieLens-100k: users of a taste like films of that taste.

python generate.py FOLDER [USERS FILMS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TASTES = 8


def generate(folder: Path, users: int = 943, films: int = 1682, each: int = 60, seed: int = 0) -> None:
    """``u.data``, ``u.item`` and ``u.user``: nine of ten liked films are of the user's taste, popular ones first."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    taste, kind = rng.integers(0, TASTES, users), np.arange(films) % TASTES
    popularity = 1 / (1 + np.arange(films) // TASTES)
    lines = []
    for user in range(users):
        weight = popularity * np.where(kind == taste[user], 9.0 * (TASTES - 1), 1.0)
        chosen = rng.choice(films, size=min(each, films), replace=False, p=weight / weight.sum())
        for at, film in enumerate(rng.permutation(chosen)):
            stars = rng.integers(4, 6) if kind[film] == taste[user] else rng.integers(1, 5)
            lines.append(f"{user + 1}\t{film + 1}\t{stars}\t{880_000_000 + at}\n")
    (folder / "u.data").write_text("".join(lines), encoding="latin-1")
    genres = "|".join(["0"] * 19)
    titles = [f"{film + 1}|Film {film + 1} (1995)|01-Jan-1995||http://example.org|{genres}\n" for film in range(films)]
    (folder / "u.item").write_text("".join(titles), encoding="latin-1")
    people = [
        f"{user + 1}|{rng.integers(12, 70)}|{'MF'[rng.integers(2)]}|{('artist', 'doctor', 'other')[user % 3]}|00000\n"
        for user in range(users)
    ]
    (folder / "u.user").write_text("".join(people), encoding="latin-1")


if __name__ == "__main__":
    generate(Path(sys.argv[1]), *map(int, sys.argv[2:4]))
