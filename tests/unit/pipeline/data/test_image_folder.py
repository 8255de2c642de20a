"""A folder of images: classes by folder, masks by name, decoded as the recipe says, known by content."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import Dataset, ImageFolder, find_data
from pipeline.recipe import Recipe
from pipeline.stages.base import configuration
from targets.errors import InputError


def recipe(
    folder: Path, task: str = "classification", *, split: dict[str, float] | None = None, **images: object
) -> Recipe:
    section = {"folder": "images", "size": [4, 6], **images}
    return Recipe.model_validate(
        {
            "name": "r",
            "task": task,
            "folder": folder,
            "model": {"onnx": "net.onnx"},
            "data": {"images": section, **({"split": split} if split else {})},
        }
    )


def save(path: Path, value: int | np.ndarray, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(value) if isinstance(value, np.ndarray) else Image.new(mode, size, (value,) * len(mode))
    image.save(path)


def loaded(made: Recipe) -> Dataset:
    source = find_data(made)
    assert isinstance(source, ImageFolder), source
    return source.load()


def refused(made: Recipe) -> str:
    source = find_data(made)
    if isinstance(source, list):
        return "\n".join(f"{fault.where}: {fault.what}; {fault.fix}" for fault in source)
    with pytest.raises(InputError) as caught:
        source.load()
    return str(caught.value)


def test_a_folder_a_class_with_splits_on_top(tmp_path: Path) -> None:
    """Promise: classes are numbered in the order of their names, the same in every split."""
    for at, name in enumerate(("train/cat/a.png", "train/dog/b.png", "validation/dog/c.png", "validation/cat/d.jpg")):
        save(tmp_path / "images" / name, 40 * at)
    data = loaded(recipe(tmp_path))
    assert {
        name: (split.labels.tolist() if split.labels is not None else None) for name, split in data.splits.items()
    } == {
        "train": [0, 1],
        "validation": [0, 1],
    }
    assert data["train"].inputs[""].shape == (2, 3, 4, 6)
    assert data["train"].inputs[""].dtype == np.float32


def test_samples_are_split_by_shares(tmp_path: Path) -> None:
    """Promise: where the folder names no splits, every image is in exactly one, by the recipe's seed."""
    for at in range(20):
        save(tmp_path / "images" / "ab"[at % 2] / f"{at}.png", at)
    data = loaded(recipe(tmp_path, split={"train": 0.5, "validation": 0.25, "test": 0.25}))
    assert [len(data[name]) for name in ("train", "validation", "test")] == [10, 5, 5]
    levels = np.concatenate([np.round(split.inputs[""][:, 0, 0, 0] * 255) for split in data.splits.values()])
    assert sorted(levels.astype(int)) == [*range(20)]
    labels = np.concatenate([split.labels for split in data.splits.values() if split.labels is not None])
    assert np.array_equal(labels, levels.astype(int) % 2)


def test_pixels_are_as_the_recipe_says(tmp_path: Path) -> None:
    """Promise: from 0 to 255 to 0 to 1, less the mean, by the std, channel by channel."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    save(tmp_path / "images/validation/a/x.png", pixels)
    save(tmp_path / "images/validation/b/y.png", 0)
    data = loaded(recipe(tmp_path, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 2.0]))
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0]
    assert np.allclose(data["validation"].inputs[""][0], expected.transpose(2, 0, 1), atol=1e-6)


def test_crop_keeps_the_shape_of_things(tmp_path: Path) -> None:
    """Promise: `crop` cuts the sides of a wide image off, `stretch` squeezes them in."""
    wide = np.zeros((4, 18, 3), dtype=np.uint8)
    wide[:, 6:12] = 255
    save(tmp_path / "images/validation/a/x.png", wide)
    save(tmp_path / "images/validation/b/y.png", 0)
    assert loaded(recipe(tmp_path, fit="crop"))["validation"].inputs[""][0].min() > 0.9
    assert loaded(recipe(tmp_path, fit="stretch"))["validation"].inputs[""][0].min() == 0.0


def test_masks_stand_beside_images_by_name(tmp_path: Path) -> None:
    """Promise: numbers of a mask survive resizing, and the number to ignore becomes -1."""
    mask = np.array([[0, 1, 2], [2, 255, 0]], dtype=np.uint8).repeat(4, axis=0).repeat(4, axis=1)
    for split in ("train", "validation"):
        save(tmp_path / f"images/{split}/images/one.jpg", 9, size=(12, 8))
        save(tmp_path / f"images/{split}/masks/one.png", mask)
    data = loaded(recipe(tmp_path, "segmentation", size=[2, 3], ignore=255))
    labels = data["validation"].labels
    assert labels is not None
    assert labels.tolist() == [[[0, 1, 2], [2, -1, 0]]]
    assert list(data.splits) == ["train", "validation"]


def test_the_key_is_content_not_place(tmp_path: Path) -> None:
    """Promise: the same images elsewhere are the same data; another pixel, size or mean is not."""
    for name in ("a/x.png", "b/y.png"):
        save(tmp_path / "one/images/validation" / name, len(name))
    shutil.copytree(tmp_path / "one", tmp_path / "two")

    def key(folder: str, **images: object) -> object:
        return configuration(find_data(recipe(tmp_path / folder, **images)))

    assert key("one") == key("two")
    assert key("one") != key("one", mean=[0.5])
    save(tmp_path / "two/images/validation/a/x.png", 77)
    assert key("one") != key("two")


def test_a_changed_image_is_noticed(tmp_path: Path) -> None:
    """Promise: what is decoded is what was hashed."""
    for name in ("a/x.png", "b/y.png"):
        save(tmp_path / "images/validation" / name, 1)
    source = find_data(recipe(tmp_path))
    assert isinstance(source, ImageFolder)
    save(tmp_path / "images/validation/a/x.png", 2)
    with pytest.raises(InputError, match="changed while the run"):
        source.load()


def test_what_is_no_such_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise: each wrong folder names the file that is wrong and where it belongs."""
    assert "is no folder" in refused(recipe(tmp_path))
    (tmp_path / "images").mkdir()
    assert "holds no image" in refused(recipe(tmp_path))
    save(tmp_path / "images/loose.png", 1)
    assert "lies in no class folder" in refused(recipe(tmp_path))
    assert "neither images/ nor masks/" in refused(recipe(tmp_path, "segmentation"))
    (tmp_path / "images/loose.png").unlink()
    save(tmp_path / "images/images/a.png", 1)
    assert "has no mask" in refused(recipe(tmp_path, "segmentation"))
    assert "has no labels for task" in refused(recipe(tmp_path, "regression"))
    shutil.rmtree(tmp_path / "images")
    for name in ("validation/a/x.png", "validation/b/y.png"):
        save(tmp_path / "images" / name, 1)
    assert "data.split" in refused(recipe(tmp_path, split={"validation": 0.5, "test": 0.5}))
    (tmp_path / "images/validation/a/x.png").write_bytes(b"\x89PNG broken")
    assert "cannot read the image" in refused(recipe(tmp_path))
    monkeypatch.setattr("pipeline.data.images.MOST_BYTES", 100)
    assert "when decoded" in refused(recipe(tmp_path))


def test_masks_in_colour_are_refused(tmp_path: Path) -> None:
    """Promise: colours are no class numbers."""
    save(tmp_path / "images/validation/images/a.png", 1)
    save(tmp_path / "images/validation/masks/a.png", 1)
    assert "has colours" in refused(recipe(tmp_path, "segmentation"))


@pytest.mark.parametrize("kind", ["a bomb", "PostScript", "cut short", "a flipped byte"])
def test_hostile_images_are_told_by_name(kind: str, tmp_path: Path) -> None:
    """Promise D10: bombs, other formats under an image's name (EPS would start a program), cuts and damage."""
    for split in ("a", "b"):
        for number in range(4):
            save(tmp_path / "images" / split / f"{number}.png", 40 * number)
    bad = tmp_path / "images" / "a" / "bad.png"
    if kind == "a bomb":
        Image.new("1", (20_000, 20_000)).save(bad)
        assert bad.stat().st_size < 100_000
    elif kind == "PostScript":
        bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ls) pop\n%%EOF\n")
    else:
        save(bad, np.arange(72, dtype=np.uint8).reshape(4, 6, 3))
        data = bytearray(bad.read_bytes())
        data[len(data) // 2] ^= 0xFF
        bad.write_bytes(data[: len(data) // 2] if kind == "cut short" else data)
    assert "bad.png" in refused(recipe(tmp_path))
