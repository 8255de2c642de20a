"""`[metrics]`: which metric decides, and which are shown beside it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.recipe.base import Section


class MetricsSection(Section):
    """Which metric decides, and which are shown beside it; each task has its own (docs/tasks.md)."""

    main: Annotated[
        str, Field(description="decides, higher is better: a name, or `file.py:function`; empty: the task's default")
    ] = ""
    beside: Annotated[
        list[str] | None, Field(max_length=16, description="shown beside it: names, or `file.py:function`")
    ] = None
