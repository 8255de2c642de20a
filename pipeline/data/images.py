"""Data of a folder of images: a folder a class, or images with masks; decoded once, as the recipe says."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from pipeline.data.shares import Shares
from pipeline.data.source import DataSource
from pipeline.recipe.images import ImagesSection
from targets.errors import Fault, InputError, nearest
from targets.files import sha256_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    from pipeline.data.dataset import Dataset

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
FORMATS: Final = ("PNG", "JPEG", "BMP", "WEBP", "TIFF")
"""Whatever a file is called: Pillow hands others to programs of their own (EPS to Ghostscript)."""
MOST_BYTES: Final = 4 << 30
"""Decoded images are held as float32 in memory; more than this needs a factory that thins them out."""
_SPLITS: Final = ("train", "calibration", "validation", "test")
_MASK_MODES: Final = frozenset({"L", "P", "I", "I;16", "1"})
_GREY_LEVELS: Final = 255.0

Layout = Literal["classes", "masks", "bare"]
"""A folder a class; ``images`` beside ``masks`` with the same names; or images alone."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder(DataSource):
    """Images below a folder, each ``(channels, H, W)`` float32, with labels by their place.

    With folders ``train``, ``validation``, ... on top these are the splits; otherwise samples are split by shares.
    Classes are numbered in the order of their folders' names.

    Attributes:
        layout: What the task takes labels from.
        prepare: Size, colours, normalisation.
        shares: How samples are split where the folder does not say.
        listing_sha256: Hash over the relative paths and contents of all images.
        folder: Where they lie (not part of a key: folders differ).
    """

    layout: Layout
    prepare: ImagesSection
    shares: Shares
    listing_sha256: str
    folder: Path = field(metadata={"key": False})

    def load(self) -> Dataset:
        """The splits, decoded."""
        import numpy as np

        from pipeline.data.dataset import dataset_from

        files = list(images_below(self.folder))
        channels, (height, width) = self.prepare.channels, self.prepare.size
        needed = 4 * channels * height * width * len(files)
        if needed > MOST_BYTES:
            raise InputError(
                f"{self.folder} holds {len(files)} images, {needed / (1 << 30):.1f} GiB when decoded",
                f"they are held in memory, at most {MOST_BYTES >> 30} GiB",
                "ask for a smaller data.images.size, or write a data factory that takes some of them",
            )
        listing = hashlib.sha256()
        contents: dict[Path, npt.NDArray[Any]] = {}
        for file in files:
            raw = (self.folder / file).read_bytes()
            listing.update(_entry(file, sha256_bytes(raw)))
            mask = self.layout == "masks" and "masks" in file.parts
            contents[file] = self._decoded(raw, self.folder / file, mask=mask)
        if listing.hexdigest() != self.listing_sha256:
            raise InputError(
                f"images below {self.folder} changed while the run was under way",
                "it is data.images.folder",
                "run the same command again",
            )
        by_split: dict[str, object] = {}
        for name, (inputs, labels) in self._labelled(contents).items():
            arrays = np.stack(inputs), (np.array(labels, dtype=np.int64) if labels else None)
            if name:
                by_split[name] = arrays
                continue
            for split, rows in self.shares.split(len(inputs), str(self.folder)).items():
                by_split[split] = (arrays[0][rows], None if arrays[1] is None else arrays[1][rows])
        return dataset_from(by_split)

    def _labelled(self, contents: Mapping[Path, Any]) -> dict[str, tuple[list[Any], list[Any]]]:
        """Inputs and labels by split; by the empty name where the folder does not say."""
        split_of = own_splits(contents)
        classes = sorted({_class_of(file, own=bool(split_of)) for file in contents}) if self.layout == "classes" else []
        found: dict[str, tuple[list[Any], list[Any]]] = {}
        for file, array in contents.items():
            inner = Path(*file.parts[1:]) if split_of else file
            if self.layout == "masks" and inner.parts[0] == "masks":
                continue
            inputs, labels = found.setdefault(file.parts[0] if split_of else "", ([], []))
            inputs.append(array)
            if self.layout == "classes":
                labels.append(classes.index(_class_of(file, own=bool(split_of))))
            elif self.layout == "masks":
                labels.append(contents[_mask_of(file, contents, own=bool(split_of))])
        return found

    def _decoded(self, raw: bytes, path: Path, *, mask: bool) -> npt.NDArray[Any]:
        import numpy as np
        from PIL import Image, ImageOps

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(raw), formats=FORMATS) as opened:
                    image = ImageOps.exif_transpose(opened)
                    image.load()
        except (
            OSError,
            ValueError,
            SyntaxError,
            Image.DecompressionBombWarning,
            Image.DecompressionBombError,
        ) as error:
            raise InputError(
                f"cannot read the image {path}",
                " ".join(str(error).split())[:200] or type(error).__name__,
                "mend or remove the file",
            ) from error
        if mask:
            return self._mask(image, path)
        image = self._sized(image.convert("RGB" if self.prepare.color == "rgb" else "L"), Image.Resampling.BILINEAR)
        pixels = np.atleast_3d(np.asarray(image, dtype=np.float32)) / np.float32(_GREY_LEVELS)
        normal = (pixels - np.array(self.prepare.mean, np.float32)) / np.array(self.prepare.std, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1).astype(np.float32))

    def _mask(self, image: Any, path: Path) -> npt.NDArray[Any]:  # noqa: ANN401 - a Pillow image
        import numpy as np
        from PIL import Image

        if image.mode not in _MASK_MODES:
            raise InputError(
                f"the mask {path} has colours ({image.mode})",
                "a pixel of a mask is the number of its class",
                "save masks as grey or palette images",
            )
        numbers = np.asarray(self._sized(image, Image.Resampling.NEAREST)).astype(np.int64)
        return np.where(numbers == self.prepare.ignore, -1, numbers) if self.prepare.ignore is not None else numbers

    def _sized(self, image: Any, method: Any) -> Any:  # noqa: ANN401 - Pillow images
        from PIL import ImageOps

        height, width = self.prepare.size
        if self.prepare.fit == "stretch":
            return image.resize((width, height), method)
        return ImageOps.fit(image, (width, height), method)


def find_images(
    folder: Path, prepare: ImagesSection, layout: Layout, shares: Shares, *, chosen: bool
) -> ImageFolder | Fault:
    """The source, found and hashed without decoding anything; a fault where the folder is none of that layout.

    Args:
        folder: The folder.
        prepare: The recipe's section.
        layout: What the task takes labels from.
        shares: How samples are split where the folder does not say.
        chosen: Whether the recipe gave those shares itself.
    """
    where = "data.images.folder"
    if not folder.is_dir():
        return Fault(where=where, what=f"{folder} is no folder", fix=f"give the path with --set {where}=PATH")
    files = list(images_below(folder))
    if not files:
        return Fault(
            where=where,
            what=f"{folder} holds no image ({', '.join(sorted(SUFFIXES))})",
            fix="check the path; videos and archives must be unpacked first",
        )
    own = own_splits(files)
    if own and chosen:
        return Fault(where="data.split", what=f"{folder} has folders for splits of its own", fix="remove data.split")
    fault = _layout_fault(folder, files, layout, own=bool(own))
    if fault is not None:
        return fault
    listing = hashlib.sha256()
    for file in files:
        try:
            listing.update(_entry(file, sha256_bytes((folder / file).read_bytes())))
        except OSError as error:
            return Fault(where=where, what=f"cannot read {folder / file}: {error.strerror}", fix="mend or remove it")
    return ImageFolder(layout=layout, prepare=prepare, shares=shares, listing_sha256=listing.hexdigest(), folder=folder)


def images_below(folder: Path) -> Iterator[Path]:
    """Relative paths of all images, sorted; hidden files and folders are left alone."""
    found = (
        path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()
    )
    yield from sorted(path for path in found if not any(part.startswith(".") for part in path.parts))


def own_splits(files: Collection[Path]) -> set[str]:
    """Names of the splits that the folders on top are; none where they are something else."""
    tops = {file.parts[0] for file in files}
    return tops if tops <= set(_SPLITS) and all(len(file.parts) > 1 for file in files) else set()


def _layout_fault(folder: Path, files: list[Path], layout: Layout, *, own: bool) -> Fault | None:
    where = "data.images.folder"
    depth = 1 if own else 0
    if layout == "classes":
        bare = next((file for file in files if len(file.parts) < depth + 2), None)
        if bare is not None:
            fix = "sort images into a folder a class: cats/1.png, or train/cats/1.png"
            return Fault(where=where, what=f"{folder / bare} lies in no class folder", fix=fix)
    if layout == "masks":
        there = set(files)
        for file in files:
            inner = file.parts[depth:]
            if inner[0] not in {"images", "masks"}:
                fix = "put images below images/ and masks of the same names below masks/"
                return Fault(where=where, what=f"{folder / file} is below neither images/ nor masks/", fix=fix)
            if inner[0] == "images" and _mask_of(file, there, own=own) not in there:
                stems = [other.stem for other in files if other.parts[depth] == "masks"]
                return Fault(where=where, what=f"{folder / file} has no mask", fix=nearest(file.stem, stems))
    return None


def _mask_of(file: Path, there: Container[Path], *, own: bool) -> Path:
    """The mask of an image: the same name below ``masks``, of any kind of image."""
    parts = list(file.parts)
    parts[1 if own else 0] = "masks"
    base = Path(*parts)
    return next((path for suffix in sorted(SUFFIXES) if (path := base.with_suffix(suffix)) in there), base)


def _class_of(file: Path, *, own: bool) -> str:
    return file.parts[1 if own else 0]


def _entry(file: Path, digest: str) -> bytes:
    return f"{file.as_posix()} {digest}\n".encode("utf-8", "surrogateescape")
