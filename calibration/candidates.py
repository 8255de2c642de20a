"""Makes a Q/DQ file from a choice of range method and algorithms, in the one order that works; shared parts once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from calibration.collect import MEMORY_MB, collect
from calibration.edges import edge_layers
from calibration.modelfile import open_float
from calibration.paying import fastest_mix, predict
from calibration.placement import place
from calibration.prepare import prepare
from calibration.qdq import LayerPrecision, quantize_model
from calibration.work import macs
from targets.costs import COSTS
from targets.errors import InputError, nearest

if TYPE_CHECKING:
    import onnx

    from calibration.samples import CalibrationSet
    from calibration.sampling import Every
    from calibration.table import CalibrationTable
    from targets.scheme import QuantScheme

SPARE: Final = "spare"
BEFORE: Final = ("equalize", "smooth")
RANGES: Final = "ranges"
BEHIND: Final = ("bias", "rounding")
ALGORITHMS: Final = (SPARE, *BEFORE, RANGES, *BEHIND)
"""In the order in which they work: on what is quantised, on the float model, on the ranges, on the Q/DQ file."""

_LITTLE: Final = 0.02
"""Share of the multiply-accumulates that a first or last layer may have to count as one of little work."""

_IN_ALL: Final = 0.03
"""What all of them together may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a Q/DQ file is made with.

    Attributes:
        method: Range method.
        algorithms: Some of `ALGORITHMS`.
        float_nodes: Nodes that stay float.
    """

    method: str
    algorithms: frozenset[str] = frozenset()
    float_nodes: frozenset[str] = frozenset()

    @property
    def before(self) -> tuple[str, ...]:
        """Its algorithms that change the float model, in their order."""
        return tuple(name for name in BEFORE if name in self.algorithms)

    def with_algorithm(self, name: str) -> Choice:
        """This choice and one algorithm more."""
        return replace(self, algorithms=self.algorithms | {name})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A Q/DQ file.

    Attributes:
        path: The file.
        choice: What it was made with.
        layers: What became of each node.
        float_model: The float model it was made from: the one given, or what an algorithm made of that.
        table: The ranges of that float model.
    """

    path: Path
    choice: Choice
    layers: tuple[LayerPrecision, ...]
    float_model: Path
    table: CalibrationTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """How activations are observed, where a changed float model is observed anew."""

    every: Every = "sampled"
    memory_mb: int = MEMORY_MB


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parent:
    """A float model with its ranges; ``idle``: why the last algorithm changed nothing."""

    path: Path
    table: CalibrationTable
    idle: str = ""


@final
class Workshop:
    """Makes candidates of one float model.

    Args:
        model: The float model.
        table: Its ranges.
        samples: The samples that ranges and algorithms may see.
        scheme: The dialect.
        folder: An empty folder for everything made.
        threads: Threads inside one operator.
        seed: Seed of what is learned.
        observed: How activations are observed.
    """

    def __init__(
        self,
        model: Path,
        table: CalibrationTable,
        samples: CalibrationSet,
        *,
        scheme: QuantScheme,
        folder: Path,
        threads: int,
        seed: int = 0,
        observed: Observed | None = None,
    ) -> None:
        self.model, self.table, self.samples, self.scheme = model, table, samples, scheme
        self._folder, self._threads, self._seed = folder, threads, seed
        self._observed = observed or Observed()
        self._parents: dict[tuple[str, ...], _Parent] = {(): _Parent(path=model, table=table)}
        self._made: dict[Choice, Path] = {}
        self._layers: dict[Choice, tuple[LayerPrecision, ...]] = {}

    @cached_property
    def spared(self) -> frozenset[str]:
        """First and last layers with at most 2 % of the work each and 3 % in all, and layers that int8 makes no faster.

        int8 mostly saves next to nothing at the ends and costs much: the model's input is rounded to 8 bits in the
        first layer, and every class score in the last. Where it is known to save something there, it stays. 16 bits
        round neither coarsely, and for an NPU a float layer means another trip to the CPU: then none is spared.
        """
        if self.scheme.activation_bits > 8:  # noqa: PLR2004 - bits
            return frozenset()
        prepared = prepare(open_float(self.model))
        costs = COSTS.get(self.scheme.name)
        found: set[str] = set()
        prediction = None
        if costs is not None:
            prediction, work = predict(prepared, self.scheme, costs, self.samples, threads=self._threads)
            found |= fastest_mix(prediction, work)
        else:
            work = macs(prepared, place(prepared.graph, self.scheme), self.samples, threads=self._threads)
        total, taken = sum(work.values()), 0.0
        for name in sorted(edge_layers(prepared.graph, work) - found, key=lambda name: (work[name], name)):
            slower = prediction is not None and prediction.slows({*found, name}, found)
            if not slower and work[name] <= _LITTLE * total and taken + work[name] <= _IN_ALL * total:
                found.add(name)
                taken += work[name]
        return frozenset(found)

    def idle(self, choice: Choice, algorithm: str) -> str:
        """Why adding this algorithm to the choice would change nothing; empty where it may.

        Raises:
            InputError: As `make`.
        """
        if algorithm == SPARE:
            return "" if self.spared - choice.float_nodes else "int8 pays in every layer"
        if algorithm not in BEFORE:
            return ""
        return self._parent(choice.with_algorithm(algorithm).before).idle

    def make(self, choice: Choice, *, time_budget_s: float | None = None) -> Candidate:
        """The candidate of a choice; ``time_budget_s`` bounds what is learned.

        Raises:
            InputError: An unknown algorithm, or the model does not take this choice.
        """
        for name in choice.algorithms:
            if name not in ALGORITHMS:
                raise InputError(
                    f"no algorithm is called {name!r}", nearest(name, ALGORITHMS), "choose one of these, or leave it"
                )
        wanted = choice
        if SPARE in choice.algorithms:
            choice = replace(
                choice, float_nodes=choice.float_nodes | self.spared, algorithms=choice.algorithms - {SPARE}
            )
        parent = self._parent(choice.before)
        path, layers = self._quantized(parent, choice)
        done = choice.algorithms - set(BEHIND)
        for name in BEHIND:
            if name in choice.algorithms:
                done = done | {name}
                path = self._improved(name, parent.path, path, replace(choice, algorithms=done), time_budget_s)
        return Candidate(path=path, choice=wanted, layers=layers, float_model=parent.path, table=parent.table)

    def _parent(self, names: tuple[str, ...]) -> _Parent:
        """The float model after these algorithms, and its ranges."""
        if names not in self._parents:
            before, name = self._parent(names[:-1]), names[-1]
            model, idle = _CHANGES[name](open_float(before.path), self.samples, self._threads)
            if idle:
                self._parents[names] = replace(before, idle=idle)
                return self._parents[names]
            path = self._new(f"{name}.onnx")
            path.write_bytes(model.SerializeToString(deterministic=True))
            table = collect(
                path,
                self.samples,
                threads=self._threads,
                methods=before.table.methods,
                every=self._observed.every,
                memory_mb=self._observed.memory_mb,
            )
            self._parents[names] = _Parent(path=path, table=table)
        return self._parents[names]

    def _quantized(self, parent: _Parent, choice: Choice) -> tuple[Path, tuple[LayerPrecision, ...]]:
        key = replace(choice, algorithms=choice.algorithms - set(BEHIND))
        if key not in self._made:
            path = self._new("quantized.onnx")
            chosen = None
            if RANGES in choice.algorithms:
                from calibration.ranges import choose_ranges

                chosen, _ = choose_ranges(
                    parent.path,
                    parent.table,
                    self.scheme,
                    self.samples,
                    method=choice.method,
                    threads=self._threads,
                    float_nodes=choice.float_nodes,
                )
            self._layers[key] = quantize_model(
                parent.path,
                parent.table,
                self.scheme,
                choice.method,
                path,
                ranges=chosen,
                float_nodes=choice.float_nodes,
            )
            self._made[key] = path
        return self._made[key], self._layers[key]

    def _improved(self, name: str, parent: Path, source: Path, done: Choice, time_budget_s: float | None) -> Path:
        if done not in self._made:
            path = self._new(f"{name}.onnx")
            if name == "bias":
                from calibration.bias import correct_bias

                correct_bias(parent, source, self.samples, path, threads=self._threads)
            else:
                from calibration.rounding import learn_rounding

                learn_rounding(
                    parent,
                    source,
                    self.samples,
                    path,
                    threads=self._threads,
                    seed=self._seed,
                    time_budget_s=None if time_budget_s is None or math.isinf(time_budget_s) else time_budget_s,
                    learn_biases=True,
                    learn_scales=True,
                )
            self._made[done] = path
        return self._made[done]

    def _new(self, name: str) -> Path:
        return self._folder / f"{len(self._made) + len(self._parents):03d}-{name}"


def _equalized(model: onnx.ModelProto, samples: CalibrationSet, threads: int) -> tuple[onnx.ModelProto, str]:
    from calibration.equalize import equalize

    del samples, threads
    changed, report = equalize(model)
    return changed, "" if report.tensors else "no channel can be scaled between two layers"


def _smoothed(model: onnx.ModelProto, samples: CalibrationSet, threads: int) -> tuple[onnx.ModelProto, str]:
    from calibration.smooth import smooth

    changed, report = smooth(model, samples, threads=threads)
    return changed, "" if report.tensors else "no normalisation is read by layers with weights alone"


_CHANGES: Final[Mapping[str, Callable[[onnx.ModelProto, CalibrationSet, int], tuple[onnx.ModelProto, str]]]] = {
    "equalize": _equalized,
    "smooth": _smoothed,
}
"""Name of an algorithm -> the changed float model (the same function), and why it is none."""
