"""The layout of ``run.json``: what a run did, as data. The report and the terminal summary are views of it.

Everything but name, target, task and verdict is optional: a run that starts at an ONNX file has no pruning and no
curves. Times are milliseconds or seconds, sizes bytes, as the names say; ratios are 1.0 for "no difference".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from pipeline.reporting.schema_layers import Calibrated, Layer, LayerTimes
from pipeline.reporting.schema_measured import LAYOUT, Comparison, Interval, Timeline
from pipeline.reporting.schema_pruned import Allocation, Whole, Width
from targets.errors import InputError, faults_error
from targets.faults import faults_of

SCHEMA: Literal[1] = 1
_MAX_RUN_BYTES = 256 << 20


class _Data(BaseModel):
    model_config = LAYOUT


class Target(_Data):
    """The target profile.

    Attributes:
        name: Its name.
        description: One line for people.
    """

    name: str
    description: str = ""


class Task(_Data):
    """What the model is for.

    Attributes:
        name: ``classification``, ...
        metric: Name of the metric that ``accuracy`` stands for everywhere in this file.
        higher_is_better: Whether more of it is better.
    """

    name: str
    metric: str
    higher_is_better: bool = True


class Verdict(_Data):
    """What shipped, and why.

    Attributes:
        shipped: Name of the candidate; None when nothing meets the budget.
        sentence: The run in one sentence.
        reasons: Why this one, one line each.
        met_budget: Whether it meets the recipe's budget.
        exit_code: What the command exited with.
    """

    shipped: str | None
    sentence: str
    reasons: tuple[str, ...] = ()
    met_budget: bool = True
    exit_code: int = 0


class StageMetrics(_Data):
    """What the model is like after a stage; None where the stage does not tell.

    Attributes:
        accuracy: The task's metric on the validation split.
        parameters: Number of parameters.
        macs: Multiply-accumulates of one sample.
        size_bytes: The artifact on disk.
        latency_ms: Latency on the target, where it was measured.
        peak_memory_bytes: Largest resident memory while serving.
    """

    accuracy: float | None = None
    parameters: int | None = None
    macs: int | None = None
    size_bytes: int | None = None
    latency_ms: Interval | None = None
    peak_memory_bytes: int | None = None


class Stage(_Data):
    """One stage of the run.

    Attributes:
        stage: ``train``, ``load``, ``prune``, ...
        title: What it did, in a few words.
        reused: Whether the store had its result.
        wall_s: How long it took in this run.
        metrics: What the model is like afterwards.
        detail: Anything else worth keeping; shown as it is, folded away.
    """

    stage: str
    title: str = ""
    reused: bool = False
    wall_s: float = 0.0
    metrics: StageMetrics = StageMetrics()
    detail: dict[str, Any] = {}


class Candidate(_Data):
    """One engine that could have shipped.

    Attributes:
        name: ``dense-fp32``, ``fp32``, ``int8``, ``openvino-int8``, ...
        precision: ``fp32``, ``int8``, ...
        engine: The engine that it is built for.
        answers_by: Who gave the answers behind its accuracies, where that was not the engine as it runs on its target.
        unmeasured: Why it was not measured, where others were.
        accuracy: The task's metric on the validation split.
        accuracy_test: The same on the test split, read once at the end.
        beside: Further metrics on the validation split, by name.
        beside_test: The same on the test split.
        size_bytes: The engine file.
        parameters: Number of parameters.
        macs: Multiply-accumulates of one sample.
        latency_ms: Median latency of one sample.
        p90_ms: 90th percentile; None when there are too few samples to tell.
        p90_note: How many samples it rests on and its bound, or why there is none.
        p99_ms: 99th percentile; the same.
        p99_note: The same.
        throughput_ips: Inferences a second, back to back, by wall time.
        load_ms: Time to open the engine.
        first_ms: Time of the first inference.
        peak_memory_bytes: Largest resident memory of the process that serves it.
        load_peak_bytes: The same while it loads.
        unique_memory_bytes: Memory that is this process's alone, in steady state.
        accuracy_device: The task's metric on the validation split, from answers that the measured device gave.
        quality: Grade of its measurement: A, B, C, or F (void).
        quality_reasons: Why it is not better.
        shipped: Whether this one is in the bundle.
        reasons: What the gate says about it, one line each.
        block_medians_ms: Median latency in each block, in block order: block i of all candidates ran together.
        quantiles_ms: Latency of single inferences at 0, 0.5, ... 100 percent of all of them, slowest last.
        vs_reference: Against the reference candidate.
    """

    name: str
    precision: str = ""
    engine: str = ""
    answers_by: str = ""
    unmeasured: str = ""
    accuracy: float | None = None
    accuracy_test: float | None = None
    beside: dict[str, float] = {}
    beside_test: dict[str, float] = {}
    size_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    latency_ms: Interval | None = None
    p90_ms: float | None = None
    p90_note: str = ""
    p99_ms: float | None = None
    p99_note: str = ""
    throughput_ips: float | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    peak_memory_bytes: int | None = None
    load_peak_bytes: int | None = None
    unique_memory_bytes: int | None = None
    accuracy_device: float | None = None
    quality: str = ""
    quality_reasons: tuple[str, ...] = ()
    shipped: bool = False
    reasons: tuple[str, ...] = ()
    block_medians_ms: tuple[Annotated[float, Field(gt=0)], ...] = ()
    quantiles_ms: tuple[Annotated[float, Field(gt=0)], ...] = ()
    vs_reference: Comparison | None = None


class Dropped(_Data):
    """A candidate that could not be had.

    Attributes:
        name: Its name.
        what: What happened.
        why: Why.
        fix: What would bring it back.
        quiet: Nothing went wrong: it has nothing to offer for this model.
    """

    name: str
    what: str
    why: str = ""
    fix: str = ""
    quiet: bool = False


class Epoch(_Data):
    """One epoch of training.

    Attributes:
        epoch: Its number.
        loss: Mean training loss.
        accuracy: The task's metric on the validation split.
        lr: Learning rate at its end.
    """

    epoch: int
    loss: float | None = None
    accuracy: float | None = None
    lr: float | None = None


class Inspection(_Data):
    """What the engine really is.

    Attributes:
        nodes: Operator kind to precision to number of nodes: ``{"Conv": {"int8": 9}}``.
        notes: What else the build found, one line each.
    """

    nodes: dict[str, dict[str, int]] = {}
    notes: tuple[str, ...] = ()


class Warned(_Data):
    """Something the reader should know, with what to do about it.

    Attributes:
        code: ``W-NOISY-CPU``, ...
        text: What it is.
        evidence: What was seen.
        fix: What to do.
    """

    code: str
    text: str
    evidence: str = ""
    fix: str = ""


class Split(_Data):
    """The samples behind an accuracy.

    Attributes:
        split: Name of the split.
        samples: How many.
    """

    split: str
    samples: int | None = None


class RunReport(_Data):
    """All of ``run.json``; see the attributes' own classes.

    Attributes:
        schema_version: Version of this layout; ``schema`` in the file.
        name: The recipe's name.
        target: Where it runs.
        task: What it is for.
        verdict: What shipped and why.
        budget: What the recipe asks for, by key.
        stages: In the order they ran.
        candidates: What the gate compared.
        dropped: Candidates that could not be built, and those that have nothing to offer.
        timeline: Single inferences of the candidate that shipped, over the campaign.
        curves: Training curves, by stage (``train``, ``distill``).
        widths: Channels before and after pruning.
        whole: What pruning had to leave whole.
        allocation: How they were found, where a latency was asked for.
        changes: What was changed by hand, in depth, in single weights and to save int8, one line each.
        inspect: What the shipped engine really is.
        layers_of: The candidate that the quantised model became.
        layers: Layers of the quantised model.
        times: The layers of what ships, timed on the device; None where nobody asked.
        calibration: Ranges of its tensors.
        conditions: Where and how it was measured, by what it is.
        not_included: What its latencies are not, one line each.
        warnings: What the reader should know.
        reproduce: Commands that make this run again.
        deploy: Commands for the device; sensible ones when empty.
        versions: Of everything that had a part.
        validation: The split behind ``accuracy``.
        test: The split that was read once, at the end.
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    name: str
    target: Target
    task: Task
    verdict: Verdict
    budget: dict[str, Any] = {}
    stages: tuple[Stage, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    timeline: Timeline | None = None
    curves: dict[str, tuple[Epoch, ...]] = {}
    widths: tuple[Width, ...] = ()
    whole: tuple[Whole, ...] = ()
    allocation: Allocation | None = None
    changes: tuple[str, ...] = ()
    inspect: Inspection = Inspection()
    layers_of: str = ""
    layers: tuple[Layer, ...] = ()
    times: LayerTimes | None = None
    calibration: tuple[Calibrated, ...] = ()
    conditions: dict[str, Any] = {}
    not_included: tuple[str, ...] = ()
    warnings: tuple[Warned, ...] = ()
    reproduce: tuple[str, ...] = ()
    deploy: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    validation: Split = Split(split="validation")
    test: Split = Split(split="test")

    @property
    def shipped(self) -> Candidate | None:
        """The candidate in the bundle."""
        return next((candidate for candidate in self.candidates if candidate.shipped), None)


def run_report(run: object, *, subject: str = "run.json") -> RunReport:
    """The run as checked data.

    Raises:
        InputError: It does not have the layout of this module; every fault is named.
    """
    try:
        return RunReport.model_validate(run)
    except ValidationError as error:
        raise faults_error(subject, faults_of(error, RunReport)) from error


def read_run(path: Path) -> RunReport:
    """A ``run.json`` from disk.

    Raises:
        InputError: It cannot be read, is not JSON or does not have the layout of this module.
    """
    import json

    try:
        with path.open("rb") as file:
            return run_report(json.loads(file.read(_MAX_RUN_BYTES)), subject=str(path))
    except OSError as error:
        raise InputError(f"cannot read {path}", error.strerror or str(error), "give the run.json of a run") from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a run.json", str(error), "give the run.json that `edgepress run` wrote"
        ) from error
