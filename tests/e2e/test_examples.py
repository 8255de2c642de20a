"""The examples, on generated data of the layouts that they read: from the data to a verified bundle."""

from __future__ import annotations

import io
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.api import compress, load_profiles
from pipeline.compose import compose
from pipeline.recipe import load_recipe
from pipeline.runner import run_plan
from pipeline.store import Store

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ("benchmark.measure=false", 'build.candidates=["dense-fp32", "fp32", "int8"]', "quantize.qat=off")


def joined(parts: list[np.ndarray], **more: np.ndarray) -> dict[str, np.ndarray]:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return {"offsets": offsets, **more}


def sentences(folder: Path) -> list[str]:
    """Good and bad words, three splits."""
    rng = np.random.default_rng(0)
    words = [[f"good{i}" for i in range(20)], [f"bad{i}" for i in range(20)], [f"word{i}" for i in range(50)]]
    label = np.arange(400) % 2
    lines = [" ".join([*rng.choice(words[1 - y], 3), *rng.choice(words[2], 6)]).encode() for y in label]
    split = np.repeat([0, 1, 2], [240, 80, 80])
    text = np.frombuffer(b"".join(lines), np.uint8)
    np.savez(
        folder / "d.npz", text=text, label=label, split=split, **joined([np.frombuffer(x, np.uint8) for x in lines])
    )
    return [f"data.files.sentences={folder / 'd.npz'}"]


def recordings(folder: Path) -> list[str]:
    """A tone for every digit, with noise."""
    rng = np.random.default_rng(0)
    digit, take = np.arange(300) % 10, np.arange(300) // 10
    time = np.arange(6000) / 8000
    tones = [
        (9000 * np.sin(2 * np.pi * (300 + 250 * d) * time) + rng.normal(0, 900, 6000)).astype(np.int16) for d in digit
    ]
    split = (take < 5).astype(np.uint8)
    np.savez(folder / "d.npz", samples=np.concatenate(tones), digit=digit, take=take, split=split, **joined(tones))
    return [f"data.files.recordings={folder / 'd.npz'}"]


def cells(folder: Path) -> list[str]:
    """Discs of three colours and sizes as JPEG."""
    rng = np.random.default_rng(0)
    jpegs, boxes, classes, counts = [], [], [], []
    for _ in range(60):
        image = Image.new("RGB", (160, 120), (220, 200, 210))
        draw = ImageDraw.Draw(image)
        counts.append(int(rng.integers(1, 4)))
        for _ in range(counts[-1]):
            kind = int(rng.integers(0, 3))
            reach = (10, 20, 6)[kind]
            x, y = rng.uniform(reach + 1, 159 - reach), rng.uniform(reach + 1, 119 - reach)
            colour = ((200, 60, 60), (90, 60, 160), (60, 60, 60))[kind]
            draw.ellipse([x - reach, y - reach, x + reach, y + reach], fill=colour)
            boxes.append([x - reach + 1, y - reach + 1, x + reach + 1, y + reach + 1])
            classes.append(kind)
        stream = io.BytesIO()
        image.save(stream, "JPEG")
        jpegs.append(np.frombuffer(stream.getvalue(), np.uint8))
    bounds = np.concatenate([[0], np.cumsum(counts)])
    split = np.repeat([0, 1, 2], [36, 12, 12])
    more = {"boxes": np.array(boxes, np.float32), "box_class": np.array(classes), "box_offsets": bounds, "split": split}
    np.savez(folder / "d.npz", jpeg=np.concatenate(jpegs), **joined(jpegs), **more)
    return [f"data.files.images={folder / 'd.npz'}"]


def interactions(folder: Path) -> list[str]:
    """Users of a taste."""
    generate: Callable[..., None] = runpy.run_path(str(EXAMPLES / "movielens/generate.py"))["generate"]
    generate(folder, users=80, films=64, each=24)
    files = {"ratings": "u.data", "films": "u.item", "users": "u.user"}
    named = [f"data.files.{name}={folder / file}" for name, file in files.items()]
    return [*named, "model.args={users = 80, catalogue = 64}"]


def own(*overrides: str) -> Callable[[Path], list[str]]:
    return lambda _: list(overrides)


DATA: dict[str, Callable[[Path], list[str]]] = {
    "sst2": sentences,
    "spoken_digits": recordings,
    "bccd": cells,
    "movielens": interactions,
    "shapes": own("data.args={train = 240, others = 40, size = 32}"),
    "diabetes": own(),
}


@pytest.mark.parametrize("name", ["bccd", "movielens", "diabetes"])  # the others go the whole way in the sweeps
def test_examples_learn_and_export(name: str, tmp_path: Path) -> None:
    """Promise: each example's data load, its model trains, and its float ONNX computes what torch does."""
    (tmp_path / "data").mkdir()
    recipe = load_recipe(EXAMPLES / name, [*DATA[name](tmp_path / "data"), "train.epochs=1", "threads=1"])
    recipe = recipe.model_copy(update={"prune": None, "distill": None})
    (profile,) = load_profiles(recipe)
    found = run_plan(compose(recipe, profile, until="export"), Store(tmp_path / "store"), observer=lambda _: None)
    assert found["export"].entry.meta
    assert np.isfinite(found["train"].entry.meta["accuracy"])
    assert found["train"].entry.meta["metric"] == recipe.metrics.main or recipe.task == "classification"


LEARNED = {"sst2": 0.8, "spoken_digits": 0.8, "bccd": 0.2, "movielens": 0.25, "shapes": 0.3, "diabetes": 0.2}


@pytest.mark.long
@pytest.mark.parametrize("name", [*DATA])
def test_examples_go_the_whole_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: to a verified bundle; what was there to learn was learned, and is told by the metric's name."""
    monkeypatch.setenv("EDGEPRESS_CACHE", str(tmp_path / "store"))
    (tmp_path / "data").mkdir()
    recipe = load_recipe(EXAMPLES / name, [*DATA[name](tmp_path / "data"), *QUICK])
    (result,) = compress(recipe, out=tmp_path / "out")
    run: dict[str, Any] = result.run
    assert run["task"]["metric"] == recipe.metrics.main or recipe.task == "classification"
    assert run["candidates"][0]["accuracy"] > LEARNED[name]
    assert set(run["candidates"][0]["beside"]) == set(recipe.metrics.beside or ())
    assert (result.folder / "bundle.tar.gz").exists()
