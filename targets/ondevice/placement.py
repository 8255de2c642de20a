"""Which provider runs how many nodes of an ONNX Runtime engine: counted on the device, from one profiled inference."""

from __future__ import annotations

import collections
import os
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import read_inputs
from .failure import BAD_INPUT, DEVICE, Failure
from .layers import read_profile
from .session import Options, import_runtime, one_sample_feeds, open_session, runtime_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def placement(folder: Path, spec: Mapping[str, Any], samples: str = "") -> dict[str, Any]:
    """Facts that only the device knows of its engine.

    Args:
        folder: The engine folder.
        spec: Its engine.json, already checked.
        samples: An .npz of real samples, of which the first is run; zeros where there is none.

    Returns:
        ``providers`` (those of the session, in their order), ``nodes`` (provider to number of nodes; what a provider
        has compiled counts as one), ``operators`` (provider to operator to number) and ``runtime_version``.

    Raises:
        Failure: It is of another runtime, or the samples do not fit (3), or the runtime is missing, lacks a provider,
            or refuses or fails the engine (6).
    """
    if spec.get("engine", "onnxruntime") != "onnxruntime":
        what, why = "this engine has no execution providers", "it is one of {}".format(spec["engine"])
        raise Failure(BAD_INPUT, what, why, "ask for the placement of an engine of onnxruntime")
    runtime = import_runtime()
    feed: Mapping[str, np.ndarray] = (
        one_sample_feeds({name: array[:1] for name, array in read_inputs(samples).items()}, spec)[0]
        if samples
        else {item["name"]: _sample(item) for item in spec["inputs"]}
    )
    with tempfile.TemporaryDirectory(prefix="edgepress-") as private:

        def configure(settings: Options) -> None:
            settings.enable_profiling = True
            settings.profile_file_prefix = os.path.join(private, "profile")  # noqa: PTH118

        session = open_session(folder, spec, configure=configure)
        try:
            session.run(None, feed)
            events = read_profile(session.end_profiling())
        except runtime_errors() as error:
            raise Failure(
                DEVICE,
                "the engine failed while its nodes were counted",
                " ".join(str(error).split())[:500],
                "run `verify` on the bundle on this device",
            ) from error
    kinds: dict[str, collections.Counter[str]] = {}
    for provider, _, op in {(event["provider"], event["index"], event["op"]) for event in events}:
        kinds.setdefault(provider, collections.Counter())[op] += 1
    return {
        "runtime_version": str(runtime.__version__),
        "providers": list(session.get_providers()),
        "nodes": {provider: sum(counts.values()) for provider, counts in sorted(kinds.items())},
        "operators": {provider: dict(sorted(counts.items())) for provider, counts in sorted(kinds.items())},
    }


def _sample(item: Mapping[str, Any]) -> np.ndarray:
    return np.zeros([size if isinstance(size, int) else 1 for size in item["shape"]], np.dtype(item["dtype"]))
