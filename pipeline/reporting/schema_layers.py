"""The parts of ``run.json`` that tell of layers and tensors: precision, noise, time, ranges."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from pipeline.reporting.schema_measured import LAYOUT


class _Data(BaseModel):
    model_config = LAYOUT


class Layer(_Data):
    """One layer of the quantised model.

    Attributes:
        name: Path of the user's module; its node where no module is known.
        node: Its node.
        kind: Operator kind.
        precision: What it runs in.
        shape: Of its output, for one sample; empty where it is not known.
        snr_db: Signal-to-quantisation-noise ratio of its output against the float model, errors before it included.
        weight_snr_db: The same of its weight alone.
        alone_db: The same of the model's outputs when this layer alone is int8.
        parameters: Its own.
        macs: Its own, for one sample.
        note: Why it is as it is, where there is something to say.
    """

    name: str
    node: str = ""
    kind: str = ""
    precision: str = ""
    shape: tuple[int, ...] = ()
    snr_db: float | None = None
    weight_snr_db: float | None = None
    alone_db: float | None = None
    parameters: int | None = None
    macs: int | None = None
    note: str = ""


class TimedLayer(_Data):
    """One node of the engine that ships, as the device ran it.

    Attributes:
        module: Path of the user's module; None where the node belongs to none, empty at the top.
        node: Its name in the engine.
        op: The operator that the engine made of it.
        precision: What it computes in.
        shape: Of its output.
        snr_db: Of its output against the float model, where the engine is int8.
        us: What it takes, without what the profiler adds.
        share_ratio: Of the time of all nodes.
        bound: What its least possible time consists of: ``compute``, ``memory``, ``overhead``.
        attained_pct: Its least possible time as a share of the time it takes.
    """

    module: str | None
    node: str
    op: str
    precision: str = ""
    shape: tuple[int, ...] = ()
    snr_db: float | None = None
    us: float
    share_ratio: float
    bound: str = ""
    attained_pct: float | None = None


class LayerTimes(_Data):
    """A profile of what ships, taken apart from the measurement.

    Attributes:
        candidate: Whose layers they are.
        device: Where.
        why: Why there are none.
        wall_us: One inference without the profiler.
        outside_us: What of it lies outside of the nodes.
        attained_pct: The least possible time of all nodes as a share of the inference.
        iterations: Inferences profiled.
        noisy: Whether the device did not hold its speed while its peaks were measured.
        rows: The nodes, in the order of execution.
    """

    candidate: str = ""
    device: str = ""
    why: str = ""
    wall_us: float | None = None
    outside_us: float | None = None
    attained_pct: float | None = None
    iterations: int | None = None
    noisy: bool = False
    rows: tuple[TimedLayer, ...] = ()


class Histogram(_Data):
    """Values of one tensor, in equal bars.

    Attributes:
        low: Where the first bar begins.
        high: Where the last one ends.
        counts: Values in each.
    """

    low: float
    high: float
    counts: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class Calibrated(_Data):
    """Range of one tensor.

    Attributes:
        tensor: Its name.
        module: Path of the module that makes it; empty where that is not known.
        low: Smallest value that int8 represents.
        high: Largest one.
        method: How it was chosen.
        seen_low: Smallest value seen.
        seen_high: Largest value seen.
        outside_ratio: Share of the values that the range clips.
        snr_db: What eight bits make of its values by themselves.
        histogram: Of those that suffer most.
    """

    tensor: str
    module: str = ""
    low: float
    high: float
    method: str = ""
    seen_low: float | None = None
    seen_high: float | None = None
    outside_ratio: float | None = None
    snr_db: float | None = None
    histogram: Histogram | None = None
