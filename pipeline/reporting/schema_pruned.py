"""The parts of ``run.json`` that tell what was removed: widths, what stays whole, how the amounts were found."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from pipeline.reporting.schema_measured import LAYOUT


class _Data(BaseModel):
    model_config = LAYOUT


class Width(_Data):
    """Channels of one group of coupled layers.

    Attributes:
        group: Its name: the layers that must keep the same channels.
        before: Channels before pruning.
        after: Channels after pruning.
    """

    group: str
    before: int
    after: int


class Whole(_Data):
    """Channels that pruning had to leave, and what that costs.

    Attributes:
        operator: The operator that needs them whole, or has no rule.
        module: Path of the user's module it is called in; empty at the top.
        reason: Why, in a few words.
        units: How many could have been removed.
        parameters: How many parameters belong to them.
    """

    operator: str
    module: str
    reason: str
    units: int
    parameters: int


class Round(_Data):
    """One choice of widths for a latency, as foretold and as measured.

    Attributes:
        target_ms: What was asked for.
        predicted_ms: By the latency table, corrected by the rounds before.
        measured_ms: On the device, interleaved with the dense engine.
        dense_ms: That engine's latency in the same campaign.
        importance_ratio: Share of importance kept.
    """

    target_ms: float
    predicted_ms: float
    measured_ms: float
    dense_ms: float
    importance_ratio: float


class Allocation(_Data):
    """How the widths for a latency were found.

    Attributes:
        precision: What the engines were measured in.
        device: Where.
        why_off: Why the latency is not near enough what was asked for; empty where it is.
        rounds: All of them, the one taken last.
        table_nets: Nets that the latency table was measured on.
        table_error_ratio: Mean error of the table on nets that its model had not seen.
    """

    precision: str
    device: str
    why_off: str = ""
    rounds: Annotated[tuple[Round, ...], Field(min_length=1)]
    table_nets: int | None = None
    table_error_ratio: float | None = None
