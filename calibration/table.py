"""The calibration table: measured ranges on disk, bound by hash to the model and the data they were measured on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from targets.errors import InputError
from targets.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

SCHEMA: Final = 3
_MOST_BARS: Final = 4096
Range = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorFacts:
    """What else was seen of an activation.

    Attributes:
        count: Values that its extremes saw: all.
        histogram_count: Values that its histogram saw.
        low: The smallest value.
        high: The largest value.
        zeros_ratio: Share of exact zeros.
        scale_spread_ratio: Bootstrap spread of the min-max scale over samples (`calibration.bootstrap`).
        outside_ratio: Method -> share of the values outside its range.
        snr_db: Method -> signal-to-noise ratio of eight bits in its range (`calibration.rounding_noise`); empty where
            every value is zero.
    """

    count: int
    histogram_count: int
    low: float
    high: float
    zeros_ratio: float
    scale_spread_ratio: float
    outside_ratio: Mapping[str, float]
    snr_db: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """A small histogram.

    Attributes:
        low: Where the first bar begins.
        high: Where the last one ends; all are equally wide.
        counts: Values in each.
    """

    low: float
    high: float
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationTable:
    """Ranges of activations by every method: another method, scheme or set of layers needs no new measurement.

    Attributes:
        tensors: ``{tensor: {method: (low, high)}}``.
        samples: How many samples were seen.
        model_sha256: Hash of the float ONNX file.
        data_sha256: Content hash of the samples.
        versions: Tool name to version.
        every: What the histograms saw, ``sampled`` or ``all`` values.
        facts: ``{tensor: TensorFacts}``; empty in a table that was put together by hand.
        sample_ids: The first 16 hex digits of each sample's content hash, in order.
        histograms: ``{tensor: Bars}`` of the few that eight bits cost most.
    """

    tensors: Mapping[str, Mapping[str, Range]]
    samples: int
    model_sha256: str
    data_sha256: str
    versions: Mapping[str, str]
    every: str = "sampled"
    facts: Mapping[str, TensorFacts] = field(default_factory=dict)
    sample_ids: tuple[str, ...] = ()
    histograms: Mapping[str, Bars] = field(default_factory=dict)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods every tensor has a range of, in table order."""
        return tuple(next(iter(self.tensors.values())))

    def ranges(self, method: str) -> dict[str, Range]:
        """All ranges of one method.

        Raises:
            InputError: The table was made without it.
        """
        if method not in self.methods:
            raise InputError(
                f"the calibration table has no ranges of method {method!r}",
                f"it has {', '.join(self.methods)}",
                "collect again with that method, or choose one of these",
            )
        return {name: ranges[method] for name, ranges in self.tensors.items()}

    def check_model(self, sha256: str) -> None:
        """Refuses any model but the one that was measured.

        Raises:
            InputError: The hashes differ.
        """
        self._check("model", self.model_sha256, sha256, "this file is", "on this model")

    def check_data(self, sha256: str) -> None:
        """Refuses any samples (`CalibrationSet.content_sha256`) but those that were measured.

        Raises:
            InputError: The hashes differ.
        """
        self._check("set of samples", self.data_sha256, sha256, "these samples are", "on these samples")

    def serves(self, *, model_sha256: str, data_sha256: str, methods: Sequence[str], every: str = "sampled") -> bool:
        """Whether this table can stand for a new measurement with these arguments, by the same tools."""
        from calibration.collect import tool_versions

        wanted = (model_sha256, data_sha256, every, tool_versions())
        mine = (self.model_sha256, self.data_sha256, self.every, dict(self.versions))
        return mine == wanted and set(methods) <= set(self.methods)

    def save(self, path: Path) -> None:
        """Writes the table as JSON, whole or not at all; the same table gives the same bytes."""
        write_atomic(
            path, (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n").encode("utf-8")
        )

    @staticmethod
    def load(path: Path) -> CalibrationTable:
        """The table in a file.

        Raises:
            InputError: The file is missing or holds no valid table.
        """
        try:
            return _from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise InputError(
                f"{path} holds no calibration table", f"{type(error).__name__}: {error}", "collect the ranges again"
            ) from error

    @staticmethod
    def _check(what: str, mine: str, other: str, it: str, again: str) -> None:
        if other != mine:
            raise InputError(
                f"the calibration table belongs to another {what}",
                f"it was measured on sha256 {mine[:12]}, {it} {other[:12]}",
                f"collect ranges again {again}",
            )


def _from_json(data: Mapping[str, Any]) -> CalibrationTable:
    if data["schema"] != SCHEMA:
        raise ValueError(f"schema {data['schema']}, known is {SCHEMA}")
    tensors = {
        str(name): {str(method): _range(pair) for method, pair in ranges.items()}
        for name, ranges in data["tensors"].items()
    }
    if not tensors or len({frozenset(ranges) for ranges in tensors.values()}) != 1:
        raise ValueError("its tensors have no ranges, or of different methods")
    return CalibrationTable(
        tensors=tensors,
        samples=int(data["samples"]),
        model_sha256=str(data["model_sha256"]),
        data_sha256=str(data["data_sha256"]),
        versions={str(name): str(version) for name, version in data["versions"].items()},
        every=str(data["every"]),
        facts={str(name): _facts(facts) for name, facts in data["facts"].items()},
        sample_ids=tuple(str(one) for one in data["sample_ids"]),
        histograms={str(name): _bars(bars) for name, bars in data["histograms"].items()},
    )


def _facts(data: Mapping[str, Any]) -> TensorFacts:
    ratios = {str(method): _finite(share) for method, share in data["outside_ratio"].items()}
    low, high = _range((data["low"], data["high"]))
    return TensorFacts(
        count=int(data["count"]),
        histogram_count=int(data["histogram_count"]),
        low=low,
        high=high,
        zeros_ratio=_finite(data["zeros_ratio"]),
        scale_spread_ratio=_finite(data["scale_spread_ratio"]),
        outside_ratio=ratios,
        snr_db={str(name): _finite(value) for name, value in data["snr_db"].items()},
    )


def _bars(data: Mapping[str, Any]) -> Bars:
    low, high = _range((data["low"], data["high"]))
    counts = tuple(int(count) for count in data["counts"])
    if not 0 < len(counts) <= _MOST_BARS or min(counts) < 0:
        raise ValueError(f"a histogram of {len(counts)} bars")
    return Bars(low=low, high=high, counts=counts)


def _range(pair: Sequence[float]) -> Range:
    low, high = (_finite(end) for end in pair)
    if low > high:
        raise ValueError(f"[{low}, {high}] is no range")
    return low, high


def _finite(number: float) -> float:
    if not math.isfinite(number := float(number)):
        raise ValueError(f"{number} is no finite number")
    return number
