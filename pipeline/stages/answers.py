"""What a built engine answers on this machine; where it does not run here, ONNX Runtime on the same graph."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.stages.inference import run_engine, run_onnx
from targets.process import Limits, call_limited

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pipeline.data import Split
    from targets.profile import TargetProfile

STAND_IN: Final = "ONNX Runtime, the same graph"
"""Who answers for an engine that does not run here; every text that tells such an answer says so."""

_ASK_TIMEOUT_S: Final = 120.0


def stands_in(engine: Path, profile: TargetProfile) -> str:
    """Why the engine in the folder ``engine`` does not answer here itself; empty where it does.

    Args:
        engine: An engine's folder.
        profile: The target with this one engine.
    """
    description = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    if description.get("build_on_device"):
        return "it is built on the device"
    return runs_here(profile) if description.get("model") else ""


def answers(
    engine: Path, split: Split, profile: TargetProfile, scratch: Path, *, batch_size: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``: of the engine, or where it `stands_in`, of its graph by ONNX Runtime.

    Args:
        engine: An engine's folder.
        split: The samples.
        profile: The target with this one engine.
        scratch: A folder for files in passing.
        batch_size: Samples at a time; as many as is good when None.
    """
    size = {} if batch_size is None else {"batch_size": batch_size}
    if not stands_in(engine, profile):
        return run_engine(engine, split, scratch, **size)
    description = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    return run_onnx(engine / (description.get("model") or description["file"]), split, **size)


def runs_here(profile: TargetProfile) -> str:
    """Why no engine built for ``profile`` can be opened on this machine; empty where one can."""
    return _runs_here(profile.model_dump_json())


@cache
def _runs_here(profile: str) -> str:
    request = {"profile": json.loads(profile)}
    what = "asking whether the engine runs here"
    answer = call_limited(
        "pipeline.stages.answers:ask_in_child", request, limits=Limits(timeout_s=_ASK_TIMEOUT_S), what=what
    )
    return str(answer["why_not"])


def ask_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Whether an engine runs on this machine; in a child, as some runtimes crash where there is no driver.

    Args:
        request: ``profile``: a `TargetProfile` as JSON, with one engine.
    """
    from targets.engines import engine
    from targets.profile import TargetProfile

    profile = TargetProfile.model_validate(request["profile"], strict=False)
    found = engine(profile.engine.name).runs(profile)
    return {"why_not": "" if found.ok else found.why}
