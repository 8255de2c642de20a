"""From a trained PyTorch model to a verified bundle: stages, order, store and command line.

::

    from pipeline import compress, load_recipe

    for result in compress(load_recipe("examples/digits"), targets=["host"]):
        print(result.shipped, result.folder)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api import Result, compress
    from pipeline.recipe import load_recipe

__all__ = ["Result", "compress", "load_recipe"]

_HOMES = {"compress": "pipeline.api", "Result": "pipeline.api", "load_recipe": "pipeline.recipe"}


def __getattr__(name: str) -> object:
    """Imports the public names on first use, so that importing a sub-package stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
