"""MovieLens-100k in its original layout: `u.data` (user, item, rating, time), `u.item` and `u.user` (fields by `|`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

LIKED = 4


def movielens(ratings: Path, films: Path, users: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Users (N, 4) int64: number, age group, gender, occupation; for each what is to be recommended.

    Every user's last liked film (4 or 5 stars) is for the test, the one before for validation, all others are for
    training: there a label is the film's number. For validation and test the label is a row over the whole catalogue:
    1 for the film held back, -1 for what the user has rated otherwise, which is not ranked.
    """
    catalogue = len(films.read_text(encoding="latin-1").splitlines())
    people = _people(users)
    table = np.loadtxt(ratings, dtype=np.int64, delimiter="\t")
    table = table[np.lexsort((table[:, 3], table[:, 0]))]  # by user, then time; equal times stay in the file's order
    train: list[tuple[int, int]] = []
    held: dict[str, list[tuple[int, int]]] = {"validation": [], "test": []}
    for user in np.unique(table[:, 0]):
        liked = [int(row[1]) - 1 for row in table[table[:, 0] == user] if row[2] >= LIKED]
        if len(liked) >= 5:
            held["validation"].append((int(user) - 1, liked.pop(-2)))
            held["test"].append((int(user) - 1, liked.pop(-1)))
        train += [(int(user) - 1, film) for film in liked]
    seen = np.zeros((len(people), catalogue), dtype=bool)
    seen[table[:, 0] - 1, table[:, 1] - 1] = True
    found = {"train": (people[[user for user, _ in train]], np.array([film for _, film in train]))}
    for name, rows in held.items():
        relevance = np.where(seen[[user for user, _ in rows]], np.int8(-1), np.int8(0))
        relevance[np.arange(len(rows)), [film for _, film in rows]] = 1
        found[name] = (people[[user for user, _ in rows]], relevance)
    return found


def _people(users: Path) -> np.ndarray:
    """A row for every user, in the order of their numbers: number, age in tens, gender, occupation."""
    rows = [line.split("|") for line in users.read_text(encoding="latin-1").splitlines()]
    occupations = {name: at for at, name in enumerate(sorted({row[3] for row in rows}))}
    return np.array(
        [
            (int(number) - 1, min(int(age) // 10, 7), gender == "F", occupations[occupation])
            for number, age, gender, occupation, _ in sorted(rows, key=lambda row: int(row[0]))
        ],
        dtype=np.int64,
    )
