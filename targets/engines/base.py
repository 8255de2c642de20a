"""What every engine does: say whether it is there, check a model, build it, inspect what was built, and run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from targets.engines.asked import asked_for
from targets.engines.buildfile import ENGINE_JSON, Array, EngineBuild, Port, json_bytes, ports
from targets.engines.inspection import INSPECT_JSON, Inspection, asked_in, check_precision, precision_warnings
from targets.engines.opened import parsed_once, stored, values_checked
from targets.engines.syncing import synced_by_the_end
from targets.errors import EnvironmentFailure, Fault, InputError, faults_error
from targets.files import write_together

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from targets.options import Precision
    from targets.profile import TargetProfile

__all__ = [
    "ENGINE_JSON", "HOST_ARITHMETIC", "INSPECT_JSON", "Array", "Availability", "Engine", "EngineBuild", "Inspection",
    "Port", "Runner", "json_bytes", "ports",
]  # fmt: skip

# A runtime that flushes subnormals sets the thread that opens the first session to do so, for everything it computes
# from then on. Sessions that only build or inspect leave the host's arithmetic alone.
HOST_ARITHMETIC: Final = MappingProxyType({"denormal_as_zero": False})


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
    """One runtime that turns an ONNX model into something a device executes.

    Attributes:
        name: What profiles call it.
        reproducible: Whether the same model gives the same engine file, byte by byte.
    """

    name: str
    reproducible: ClassVar[bool] = True

    @abstractmethod
    def available(self) -> Availability:
        """Whether this engine can build here."""

    @abstractmethod
    def runs(self, profile: TargetProfile) -> Availability:
        """Whether an engine built for ``profile`` can be opened on this machine."""

    @final
    def check(self, model: Path, profile: TargetProfile) -> list[Fault]:
        """What this engine would refuse in ``model`` for ``profile``; nothing is built.

        Raises:
            InputError: The file is no ONNX model.
        """
        return self._check(model, profile)

    @final
    def warn(self, model: Path, profile: TargetProfile) -> list[Fault]:
        """What this engine would build, and run badly; `build` puts these lines into the inspection.

        Raises:
            InputError: The file is no ONNX model.
        """
        return self._warn(model, profile)

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
        with parsed_once():
            return self._checked_build(model, profile, out, precision)

    def _checked_build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild:
        faults = self.check(model, profile)
        if faults:
            raise faults_error(f"{model.name} for {profile.name}", faults)
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty", "an engine is built into an empty folder", "give a new folder")
        with synced_by_the_end(out):
            build = self._build(model, profile, out, precision)
            inspection = replace(self._inspect(build), asked=asked_for(stored(model).model, precision))
            seen = (*inspection.warnings, *check_precision(model, inspection), *_lines(self._warn(model, profile)))
            values_checked()
        told = {INSPECT_JSON: replace(inspection, warnings=seen).to_json(), ENGINE_JSON: build.to_json()}
        write_together(out, {name: json_bytes(content) for name, content in told.items()})
        return build

    @final
    def inspect(self, build: EngineBuild) -> Inspection:
        """What was really built: operators, providers and precision as the runtime executes them.

        Its warnings are those of the engine; those of the model that it was built from are in ``inspect.json`` only.
        """
        inspection = replace(self._inspect(build), asked=asked_in(build.folder))
        return replace(inspection, warnings=(*inspection.warnings, *precision_warnings(inspection)))

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

    def _warn(self, _model: Path, _profile: TargetProfile) -> list[Fault]:
        return []

    @abstractmethod
    def _build(self, model: Path, profile: TargetProfile, out: Path, precision: Precision) -> EngineBuild: ...

    @abstractmethod
    def _inspect(self, build: EngineBuild) -> Inspection: ...

    @abstractmethod
    def _open(self, build: EngineBuild) -> Runner: ...


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


def _lines(faults: list[Fault]) -> list[str]:
    """One line for each kind of fault: the first place, and how many there are."""
    places: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        places.setdefault((fault.what, fault.fix), []).append(fault.where)
    return [
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {what}; {fix}"
        for (what, fix), where in places.items()
    ]
