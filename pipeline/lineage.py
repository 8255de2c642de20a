"""Where a result comes from: every stage behind it, with its configuration, tools and digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """One stage behind a result.

    Attributes:
        node: Its name in the plan.
        stage: Name of the stage.
        version: Its version.
        configuration: What it was asked for, paths left out, as its key has it.
        tools: Versions of the distributions that matter for its outcome.
        digest: Digest of what it made.
        measured: Whether running it again may make something else.
    """

    node: str
    stage: str
    version: int
    configuration: Mapping[str, Any]
    tools: Mapping[str, str]
    digest: str
    measured: bool
