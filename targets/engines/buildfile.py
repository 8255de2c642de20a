"""An engine on disk: a folder with the engine file, what else it needs, and the ``engine.json`` that describes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from targets.errors import InputError
from targets.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from targets.options import Precision

ENGINE_JSON: Final = "engine.json"
SCHEMA: Final = 1

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One input or output of an engine; ``dtype`` is numpy's name, a free dimension is a name."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """The port that a ``{name, dtype, shape}`` object describes."""
        return cls(name=str(data["name"]), dtype=str(data["dtype"]), shape=tuple(data["shape"]))

    def accepts(self, array: Array) -> bool:
        """Whether dtype, rank and every fixed dimension of ``array`` fit."""
        if str(array.dtype) != self.dtype or array.ndim != len(self.shape):
            return False
        sizes = zip(self.shape, array.shape, strict=True)
        return all(not isinstance(size, int) or size == found for size, found in sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineBuild:
    """An engine on disk: a folder with the engine file and its ``engine.json``.

    Attributes:
        folder: Where it lies.
        engine: The name of the engine that built it.
        file: The engine file's name inside the folder.
        runtime: The package that opens it.
        runtime_version: The version of the runtime that built it.
        precision: What was asked for.
        options: How the runtime opens it.
        inputs: What it reads.
        outputs: What it gives.
        sha256: Of the engine file.
        files: Further files that the engine cannot do without, such as weights kept outside it: name to sha256.
        model: Name of the ONNX file in the folder that computes the same function with ONNX Runtime, where the engine
            itself cannot run everywhere it is built; empty where it can.
        build_on_device: ``file`` is that ONNX model, ``build.json`` lies beside it, and the device makes the engine of
            them (``ondevice.pyz build``).
    """

    folder: Path
    engine: str
    file: str
    runtime: str
    runtime_version: str
    precision: Precision
    options: Mapping[str, object]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    sha256: str
    files: Mapping[str, str] = field(default_factory=dict)
    model: str = ""
    build_on_device: bool = False

    def to_json(self) -> dict[str, object]:
        """The content of ``engine.json``; no path."""
        data = asdict(self)
        del data["folder"]
        return {"schema": SCHEMA, **data}

    def write(self) -> None:
        """Writes ``engine.json`` into the folder."""
        write_atomic(self.folder / ENGINE_JSON, json_bytes(self.to_json()))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The build in ``folder``.

        Raises:
            InputError: There is no valid ``engine.json``.
        """
        try:
            return cls._parse(folder, json.loads((folder / ENGINE_JSON).read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{folder} holds no engine", f"{ENGINE_JSON}: {error!r}", "give the folder of a built engine"
            ) from error

    @classmethod
    def _parse(cls, folder: Path, data: Mapping[str, Any]) -> Self:
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, not {SCHEMA}")
        plain = ("engine", "file", "runtime", "runtime_version", "precision", "options", "sha256")
        return cls(
            folder=folder,
            **{key: data[key] for key in plain},
            inputs=ports(data["inputs"]),
            outputs=ports(data["outputs"]),
            files={str(name): str(digest) for name, digest in data.get("files", {}).items()},
            model=str(data.get("model", "")),
            build_on_device=data.get("build_on_device", False) is True,
        )


def json_bytes(data: Mapping[str, object]) -> bytes:
    """Readable JSON with sorted keys: the same data give the same bytes."""
    return (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def ports(items: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Ports from the ``inputs`` or ``outputs`` list of an ``io.json``."""
    return tuple(Port.parse(item) for item in items)
