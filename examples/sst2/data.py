"""SST-2 from one .npz: arrays `text` (UTF-8 bytes), `offsets`, `label`, `split` (0 train, 1 dev, 2 test).

The tokeniser is the example's own: words, the frequent ones whole, the others as their longest known pieces.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np

PAD, UNKNOWN = 0, 1
WORDS, PIECES, LONGEST = 4000, 2000, 6


def sst2(sentences: Path, length: int = 48) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Tokens (N, length) int64, padded with 0; labels 0 (negative) and 1 (positive).

    Sentences of the training split that stand in another split too are left out of it.

    Args:
        sentences: The .npz file.
        length: Tokens kept of a sentence.
    """
    with np.load(sentences, allow_pickle=False) as archive:
        text, offsets, labels, split = (archive[name] for name in ("text", "offsets", "label", "split"))
    whole = text.tobytes()
    lines = [whole[a:b].decode() for a, b in itertools.pairwise(offsets)]
    tokeniser = Tokeniser([line for line, part in zip(lines, split, strict=True) if part == 0])
    tokens = np.array([tokeniser.encode(line, length) for line in lines], dtype=np.int64)
    parts = {name: np.flatnonzero(split == at) for at, name in enumerate(("train", "validation", "test"))}
    parts = without_repeats(parts, tokens)
    return {name: (tokens[rows], labels[rows].astype(np.int64)) for name, rows in parts.items()}


def without_repeats(parts: dict[str, np.ndarray], tokens: np.ndarray) -> dict[str, np.ndarray]:
    """The same rows, but none in training or validation that a later split has too."""
    kept: dict[str, np.ndarray] = {}
    seen: set[bytes] = set()
    for name in ("test", "validation", "train"):
        kept[name] = np.array([row for row in parts[name] if tokens[row].tobytes() not in seen])
        seen |= {tokens[row].tobytes() for row in kept[name]}
    return {name: kept[name] for name in parts}


class Tokeniser:
    """Whole words where they are frequent in training, else their longest pieces that are."""

    def __init__(self, lines: list[str]) -> None:
        words = Counter(word for line in lines for word in line.split())
        pieces = Counter()
        for word, count in words.items():
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + LONGEST) + 1):
                    pieces["##" + word[start:end]] += count
        known = [word for word, _ in words.most_common(WORDS)]
        known += [piece for piece, _ in pieces.most_common(PIECES)]
        self.numbers = {token: at for at, token in enumerate(known, start=2)}

    def encode(self, line: str, length: int) -> list[int]:
        """Token numbers of one sentence, cut or padded to ``length``."""
        tokens = [number for word in line.split() for number in self._word(word)][:length]
        return tokens + [PAD] * (length - len(tokens))

    def _word(self, word: str) -> list[int]:
        if word in self.numbers:
            return [self.numbers[word]]
        found, at = [], 0
        while at < len(word):
            ends = range(min(len(word), at + LONGEST), at, -1)
            end = next((end for end in ends if "##" + word[at:end] in self.numbers), at + 1)
            found.append(self.numbers.get("##" + word[at:end], UNKNOWN))
            at = end
        return found
