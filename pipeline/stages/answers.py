"""What a built engine answers on this machine; where it cannot as on its target, its graph, computed otherwise."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.stages.exactly import has_integer_sums, run_exactly, sums_in
from pipeline.stages.inference import run_engine, run_onnx
from targets import machine
from targets.process import Limits, call_limited
from targets.scheme import scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from pipeline.data import Split
    from targets.profile import TargetProfile

STAND_IN: Final = "ONNX Runtime, the same graph"
"""Who answers for an engine that does not run here; every text that tells such an answer says so."""

EXACT: Final = "exact int8 sums, the same graph"
"""Who answers for an engine whose file holds integer operators, where this CPU's sums are not the target's."""

_SATURATES: Final = "sums of its 8-bit products saturate on this CPU, which has no VNNI, and not on the target's"
_ASK_TIMEOUT_S: Final = 120.0


def stands_in(engine: Path, profile: TargetProfile) -> str:
    """Why the engine in the folder ``engine`` does not answer here itself; empty where it does.

    Args:
        engine: An engine's folder.
        profile: The target with this one engine.
    """
    description = _description(engine)
    if description.get("build_on_device"):
        return "it is built on the device"
    if description.get("model"):
        return runs_here(profile)
    if computes_alike(profile):
        return ""
    if description.get("precision") == "int8" and Path(description["file"]).suffix == ".onnx":
        return _SATURATES
    return _SATURATES if has_integer_sums(description) and sums_in(engine).followed else ""


def answered_by(engine: Path, profile: TargetProfile) -> str:
    """Who answers for the engine and why, as texts say it; empty where the engine does, as it will on its target."""
    why, description = stands_in(engine, profile), _description(engine)
    integers = why in {_SATURATES, ""} and not computes_alike(profile) and has_integer_sums(description)
    lost = sums_in(engine).unfollowed if integers and not description.get("model") else ()
    if lost:
        layers = f"{lost[0]}{f' and {len(lost) - 1} more' if len(lost) > 1 else ''}"
        if why:
            return f"{EXACT}, but for {layers}, which can be computed no other way ({_SATURATES})"
        return f"the engine itself, though sums of {layers} may saturate on this CPU, which has no VNNI"
    if not why:
        return ""
    return f"{EXACT if integers else STAND_IN} ({why})"


def computes_alike(profile: TargetProfile) -> bool:
    """Whether int8 sums on this machine are exact, as they are on the target."""
    if machine.provides(profile.hardware.arch, profile.hardware.isa) or machine.arch() != "x86_64":
        return True
    dialect = scheme(profile.quantization.scheme)
    if dialect.weight_bits < 8 or dialect.activation_bits > 8:  # noqa: PLR2004 - bits
        return True  # 7-bit weights never saturate; 16-bit activations are computed in float here
    return bool(machine.cpu_features() & {"avx512_vnni", "avx_vnni"})


def answers(
    engine: Path, split: Split, profile: TargetProfile, scratch: Path, *, batch_size: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Outputs by name, ``(N, ...)``: of the engine, or where another `stands_in`, of its graph as `answered_by` says.

    Args:
        engine: An engine's folder.
        split: The samples.
        profile: The target with this one engine.
        scratch: A folder for files in passing.
        batch_size: Samples at a time; as many as is good when None.
    """
    size = {} if batch_size is None else {"batch_size": batch_size}
    if not (why := stands_in(engine, profile)):
        return run_engine(engine, split, scratch, **size)
    description = _description(engine)
    if why == _SATURATES and has_integer_sums(description):
        return run_exactly(engine, split, **size)
    return run_onnx(engine / (description.get("model") or description["file"]), split, **size)


def _description(engine: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((engine / "engine.json").read_text(encoding="utf-8"))
    return found


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
