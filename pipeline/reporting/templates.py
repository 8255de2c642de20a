"""Templates that escape everything and know every name they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.words import counted

if TYPE_CHECKING:
    from jinja2 import Environment


def templates() -> Environment:
    """The pages' templates, each with ``counted``."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["counted"] = counted
    return environment
