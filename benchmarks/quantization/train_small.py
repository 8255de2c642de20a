"""Two small nets for `compare.py`, trained once: sentiment by a transformer, spoken digits by convolutions.

    train_small.py CACHE --sst2 sst2.npz --fsdd fsdd.npz

Writes ``CACHE/text`` and ``CACHE/spoken`` as `compare.py` takes them; what is there already is left alone. Sentences:
flat bytes ``text`` with ``offsets``, ``label``, ``split`` (train, validation, test). Recordings: flat int16 ``samples``
with ``offsets``, ``digit``, ``split`` (train, test).
"""

from __future__ import annotations

import argparse
import collections
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Array = NDArray[Any]
WORDS, LENGTH, WIDTH = 4000, 32, 64
FRAME, HOP, BANDS, FRAMES = 256, 128, 40, 48
CALIBRATION = 512


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--sst2", type=Path)
    parser.add_argument("--fsdd", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    if asked.sst2:
        make(asked.cache / "text", TextNet(), *sentences(asked.sst2), epochs=6, rate=1e-3, name="ids")
    if asked.fsdd:
        make(asked.cache / "spoken", SpokenNet(), *recordings(asked.fsdd), epochs=12, rate=2e-3, name="x")


class TextNet(nn.Module):
    """Two transformer layers over word embeddings, mean over words, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.places = nn.Parameter(torch.randn(LENGTH, WIDTH) * 0.02)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (N, 2) of word numbers (N, LENGTH)."""
        x = self.words(ids) + self.places
        for layer in self.layers:
            x = layer(x)
        scores: Tensor = self.head(self.norm(x).mean(1))
        return scores


class Layer(nn.Module):
    """Attention with four heads and a feed-forward part, both behind a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        y = self.before(x)
        q, k, v = (
            part(y).view(-1, LENGTH, 4, WIDTH // 4).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) / (WIDTH // 4) ** 0.5, -1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(-1, LENGTH, WIDTH))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class SpokenNet(nn.Module):
    """Convolutions over time on bands of a spectrogram, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 48, 64)
        self.features = nn.Sequential(
            *(part for a, b in itertools.pairwise(widths) for part in
              (nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))
        )  # fmt: skip
        self.head = nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N, 10) of spectrograms (N, 1, BANDS, FRAMES)."""
        scores: Tensor = self.head(self.features(x).mean((2, 3)))
        return scores


def sentences(path: Path) -> tuple[Array, Array, Array, Array]:
    """Word numbers: 0 fills up, 1 is any rare word."""
    with np.load(path, allow_pickle=False) as data:
        text, offsets, label, split = (data[name] for name in ("text", "offsets", "label", "split"))
    raw = text.tobytes()
    lines = [raw[a:b].decode("utf-8", "replace").lower() for a, b in itertools.pairwise(offsets)]
    words = [re.findall(r"[a-z']+|[0-9]+|[^\sa-z0-9]", line) for line in lines]
    counts = collections.Counter(word for some, part in zip(words, split, strict=True) if part == 0 for word in some)
    number = {word: index + 2 for index, (word, _) in enumerate(counts.most_common(WORDS - 2))}
    ids = np.zeros((len(words), LENGTH), np.int64)
    for row, some in zip(ids, words, strict=True):
        kept = [number.get(word, 1) for word in some[:LENGTH]]
        row[: len(kept)] = kept
    train, test = split == 0, split != 0
    return ids[train], label[train].astype(np.int64), ids[test], label[test].astype(np.int64)


def recordings(path: Path) -> tuple[Array, Array, Array, Array]:
    """Logarithmic spectra in bands, cut or filled to `FRAMES`."""
    with np.load(path, allow_pickle=False) as data:
        samples, offsets, digit, split = (data[name] for name in ("samples", "offsets", "digit", "split"))
    bounds = np.unique(np.geomspace(2, FRAME // 2, BANDS + 1).astype(int))
    bounds = np.linspace(1, FRAME // 2, BANDS + 1).astype(int) if len(bounds) <= BANDS else bounds
    found = np.zeros((len(digit), 1, BANDS, FRAMES), np.float32)
    window = np.hanning(FRAME)
    for row, start, end in zip(found, offsets, offsets[1:], strict=False):
        wave = np.pad(samples[start:end].astype(np.float64) / 2**15, (0, FRAME))
        frames = np.lib.stride_tricks.sliding_window_view(wave, FRAME)[::HOP][:FRAMES]
        power = np.abs(np.fft.rfft(frames * window)) ** 2
        bands = np.add.reduceat(power[:, : bounds[-1]], bounds[:-1], axis=1)
        row[0, :, : len(frames)] = (np.log(bands.T + 1e-6) + 6.0) / 4.0
    train, test = split == 0, split != 0
    return found[train], digit[train].astype(np.int64), found[test], digit[test].astype(np.int64)


def make(
    folder: Path,
    net: nn.Module,
    x: Array,
    y: Array,
    test_x: Array,
    test_y: Array,
    *,
    epochs: int,
    rate: float,
    name: str,
) -> None:
    """Trains, tells the accuracy, exports, and writes the samples."""
    if (folder / "model.onnx").exists():
        print(f"{folder} is there")
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    net.train()
    for _ in range(epochs):
        order = random.permutation(len(x))
        for start in range(0, len(x) - 63, 64):
            rows = order[start : start + 64]
            loss = functional.cross_entropy(net(torch.from_numpy(x[rows])), torch.from_numpy(y[rows]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    net.eval()
    with torch.no_grad():
        answers = torch.cat([net(torch.from_numpy(test_x[i : i + 100])) for i in range(0, len(test_x), 100)])
    print(f"{folder.name}: accuracy {float((answers.argmax(1).numpy() == test_y).mean()):.4f} on {len(test_y)}")
    batch = torch.export.Dim("batch", min=1)
    program = torch.onnx.export(
        net, (torch.from_numpy(x[:2]),), dynamo=True, input_names=[name], output_names=["scores"],
        dynamic_shapes={next(iter(net.forward.__annotations__)): {0: batch}}, opset_version=20, verbose=False,
    )  # fmt: skip
    assert program is not None
    program.save(folder / "model.onnx")
    np.savez(folder / "calibration.npz", **{name: x[random.permutation(len(x))[:CALIBRATION]]})
    np.savez(folder / "test.npz", **{name: test_x, "labels": test_y})


if __name__ == "__main__":
    main()
