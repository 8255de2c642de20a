"""Templates that escape everything and know every name they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.words import counted

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


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
    environment.filters["code"] = _code
    return environment


def _code(shown: str) -> Markup:
    """Text whose parts between backticks are code."""
    from markupsafe import Markup

    parts = shown.split("`")
    if len(parts) % 2 == 0:
        return Markup().join([shown])
    return Markup().join(Markup("<code>{}</code>").format(part) if n % 2 else part for n, part in enumerate(parts))
