"""The entry point of the limited child that opens an engine to look at it: a vendor's library may end its process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.ondevice.build import inspect_engine
from targets.ondevice.failure import Failure
from targets.ondevice_errors import from_failure

if TYPE_CHECKING:
    from collections.abc import Mapping


def inspect_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """What the engine in a folder is, opened on this machine's GPU.

    Args:
        request: ``engine_folder``.

    Returns:
        The content of ``inspect.json``.
    """
    try:
        return inspect_engine(Path(request["engine_folder"]))
    except Failure as failure:
        raise from_failure(failure) from failure
