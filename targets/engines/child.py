"""Entry points for limited child processes: build an engine, run a data set through one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from targets.engines import engine
from targets.engines.base import INSPECT_JSON
from targets.errors import InputError
from targets.ondevice.failure import Failure
from targets.ondevice.infer import infer_file
from targets.ondevice.session import read_json
from targets.ondevice_errors import from_failure
from targets.options import Precision
from targets.profile import TargetProfile

if TYPE_CHECKING:
    from collections.abc import Mapping


def build_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Builds an engine.

    Args:
        request: ``model`` (path of an ONNX file), ``profile`` (a `TargetProfile` as JSON), ``precision`` (a
            `Precision`) and ``out_folder`` (empty or new).

    Returns:
        ``engine`` and ``inspection``: the contents of ``engine.json`` and ``inspect.json``.
    """
    profile = TargetProfile.model_validate(request["profile"], strict=False)
    precision = request["precision"]
    known = get_args(Precision)
    if precision not in known:
        raise InputError(f"{precision!r} is no precision", f"known are {', '.join(known)}", "ask for one of them")
    build = engine(profile.engine.name).build(
        Path(request["model"]), profile, Path(request["out_folder"]), precision=precision
    )
    return {"engine": build.to_json(), "inspection": read_json(build.folder / INSPECT_JSON)}


def infer_in_child(request: Mapping[str, Any]) -> dict[str, object]:
    """Runs all samples of an .npz through an engine, as the device program's ``infer`` does.

    Args:
        request: ``engine_folder``, ``inputs_npz`` (arrays named like the inputs), ``out_npz`` (written atomically:
            arrays named like the outputs) and ``batch``.

    Returns:
        ``samples``, ``outputs`` (their names) and ``engine_sha256``.
    """
    folder, inputs, out = Path(request["engine_folder"]), str(request["inputs_npz"]), str(request["out_npz"])
    try:
        # In a thread: the runtime may set the thread that opens the session to flush subnormals, for good.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(infer_file, folder, inputs, out, int(request["batch"])).result()
    except Failure as failure:
        raise from_failure(failure) from failure
