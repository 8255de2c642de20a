"""What every engine does: say whether it is there, check a model, build it, inspect what was built, and run it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self, final

import numpy as np

from targets.errors import EnvironmentFailure, Fault, InputError, faults_error
from targets.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from targets.options import Precision
    from targets.profile import TargetProfile

ENGINE_JSON: Final = "engine.json"
INSPECT_JSON: Final = "inspect.json"
_SCHEMA: Final = 1
# A runtime that flushes subnormals sets the thread that opens the first session to do so, for everything it computes
# from then on. Sessions that only build or inspect leave the host's arithmetic alone.
HOST_ARITHMETIC: Final = MappingProxyType({"denormal_as_zero": False})

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether an engine can work here.

    Attributes:
        ok: It can.
        why: The version found, or why it cannot.
        fix: What to install; empty when ok.
    """

    ok: bool
    why: str
    fix: str = ""


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
        runtime_version: The version of the runtime that built it.
        precision: What was asked for.
        options: How the runtime opens it.
        inputs: What it reads.
        outputs: What it gives.
        sha256: Of the engine file.
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

    def to_json(self) -> dict[str, object]:
        """The content of ``engine.json``; no path."""
        data = asdict(self)
        del data["folder"]
        return {"schema": _SCHEMA, **data}

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
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} holds no engine", f"{ENGINE_JSON}: {error!r}", "give the folder of a built engine"
            ) from error

    @classmethod
    def _parse(cls, folder: Path, data: Mapping[str, Any]) -> Self:
        if data["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, not {_SCHEMA}")
        plain = ("engine", "file", "runtime", "runtime_version", "precision", "options", "sha256")
        return cls(
            folder=folder,
            **{key: data[key] for key in plain},
            inputs=ports(data["inputs"]),
            outputs=ports(data["outputs"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was really built.

    Attributes:
        scope: Where the graph was optimised: for this machine, or on the build host for another.
        requested_precision: What was asked for.
        actual_precision: ``int8`` or ``fp32`` when all convolutions and matrix products run so, else ``mixed``.
        nodes: Nodes of each operator.
        int8_nodes: Those of them that compute on 8-bit integers (Quantize and Dequantize are conversions, not counted).
        providers: Nodes on each execution provider.
        int8_node_ratio: 8-bit nodes / all nodes.
        compute: Convolutions and matrix products: ``total`` and ``int8`` nodes, and ``macs`` and ``int8_macs`` of them
            for one sample (padding that the runtime adds to fill its blocks is counted).
        int8_mac_ratio: 8-bit multiply-accumulates / all of them.
        float_compute: Names of the convolutions and matrix products that stayed float.
        weights_bytes: Size of all constants.
        subnormal_weights: Float constants that are subnormal numbers (slow on many CPUs).
    """

    scope: str
    requested_precision: Precision
    actual_precision: str
    nodes: Mapping[str, int]
    int8_nodes: Mapping[str, int]
    providers: Mapping[str, int]
    int8_node_ratio: float
    compute: Mapping[str, int]
    int8_mac_ratio: float
    float_compute: tuple[str, ...]
    weights_bytes: int
    subnormal_weights: int

    def to_json(self) -> dict[str, object]:
        """The content of ``inspect.json``."""
        return {"schema": _SCHEMA, **asdict(self)}


class Runner(ABC):
    """An open engine; close it by leaving the ``with`` block of `Engine.open`."""

    def __init__(self, build: EngineBuild) -> None:
        self._build = build

    @final
    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for one batch.

        Args:
            feed: Every input by name, ``(batch, ...)``, dtypes and shapes as the engine declares them.

        Raises:
            InputError: A name, dtype or shape is not the engine's, or the batch is empty.
            DeviceError: The runtime failed.
        """
        wanted = {port.name: port for port in self._build.inputs}
        if set(feed) != set(wanted):
            raise InputError(
                "the input names do not fit the engine",
                f"the engine reads {sorted(wanted)}; given are {sorted(feed)}",
                "name the arrays like the engine's inputs",
            )
        for name, port in wanted.items():
            _check_input(port, feed[name])
        outputs = self._infer({name: np.ascontiguousarray(feed[name]) for name in wanted})
        return {port.name: outputs[port.name] for port in self._build.outputs}

    @abstractmethod
    def _infer(self, feed: Mapping[str, Array]) -> Mapping[str, Array]: ...

    @abstractmethod
    def close(self) -> None:
        """Frees the engine."""


class Engine(ABC):
    """One runtime that turns an ONNX model into something a device executes."""

    name: str

    @abstractmethod
    def available(self) -> Availability:
        """Whether this engine can work here."""

    @final
    def check(self, model: Path, profile: TargetProfile) -> list[Fault]:
        """What this engine would refuse in ``model`` for ``profile``; nothing is built.

        Raises:
            InputError: The file is no ONNX model.
        """
        return self._check(model, profile)

    @final
    def build(self, model: Path, profile: TargetProfile, out: Path, *, precision: Precision) -> EngineBuild:
        """Builds ``model`` into the empty folder ``out``: engine file, ``engine.json`` and ``inspect.json``.

        Args:
            model: A float ONNX model, or one with Q/DQ for int8.
            profile: The target.
            out: An empty or new folder.
            precision: What the engine must compute in; anything else is an error.

        Raises:
            EnvironmentFailure: The engine is not installed.
            InputError: The model cannot be built, or does not run in ``precision``.
        """
        there = self.available()
        if not there.ok:
            raise EnvironmentFailure(f"the engine {self.name} is not available", there.why, there.fix)
        faults = self.check(model, profile)
        if faults:
            raise faults_error(f"{model.name} for {profile.name}", faults)
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty", "an engine is built into an empty folder", "give a new folder")
        build = self._build(model, profile, out, precision)
        inspection = self._inspect(build)
        _check_precision(model, inspection)
        write_atomic(out / INSPECT_JSON, json_bytes(inspection.to_json()))
        build.write()
        return build

    @final
    def inspect(self, build: EngineBuild) -> Inspection:
        """What was really built: operators, providers and precision as the runtime executes them."""
        return self._inspect(build)

    @final
    @contextmanager
    def open(self, build: EngineBuild) -> Iterator[Runner]:
        """Opens the engine with the options fixed in it.

        Raises:
            RefusedError: The engine file is not the one that was built.
            DeviceError: The runtime refuses it.
        """
        runner = self._open(build)
        try:
            yield runner
        finally:
            runner.close()

    @abstractmethod
    def _check(self, model: Path, profile: TargetProfile) -> list[Fault]: ...

    @abstractmethod
    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild: ...

    @abstractmethod
    def _inspect(self, build: EngineBuild) -> Inspection: ...

    @abstractmethod
    def _open(self, build: EngineBuild) -> Runner: ...


def json_bytes(data: Mapping[str, object]) -> bytes:
    """Readable JSON with sorted keys: the same data give the same bytes."""
    return (json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _check_input(port: Port, array: Array) -> None:
    if not port.accepts(array):
        raise InputError(
            f"input {port.name!r} does not fit",
            f"the engine wants {port.dtype} {list(port.shape)}, given is {array.dtype} {list(array.shape)}",
            "prepare the samples as the model's inputs are",
        )
    if array.size == 0:
        raise InputError(
            f"input {port.name!r} is empty", f"its shape is {list(array.shape)}", "give at least one sample"
        )


def _check_precision(model: Path, inspection: Inspection) -> None:
    wanted, found = inspection.requested_precision, inspection.actual_precision
    if wanted == "int8" and not inspection.compute["int8"]:
        raise InputError(
            f"{model.name} was to run in int8, and nothing does",
            f"all {inspection.compute['total']} convolutions and matrix products stayed float after optimisation",
            "quantize the model for the engine of this target, or ask for fp32",
        )
    if wanted == "fp32" and found != "fp32":
        raise InputError(
            f"{model.name} was to run in fp32, and does not",
            f"{inspection.compute['int8']} of {inspection.compute['total']} convolutions and matrix products are int8",
            "give the float model, or ask for int8",
        )


def ports(items: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    """Ports from the ``inputs`` or ``outputs`` list of an ``io.json``."""
    return tuple(Port.parse(item) for item in items)
