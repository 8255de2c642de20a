"""Tiny models that show what a device can do, and the question to the device."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.benchmarking.peaks import (
    DISPATCH,
    SCHEMA,
    Calibration,
    calibration_id,
    evaluate,
    read_calibration,
    write_calibration,
)
from pipeline.benchmarking.roofline import nearest_kinds
from targets.files import disk_guard, sha256_bytes, write_atomic

if TYPE_CHECKING:
    import onnx

    from targets.devices.base import Session

_TIMEOUT_S: Final = 120.0
_PLAIN: Final = "matmul.f32"
_CHAIN: Final = 4  # convolutions in a row: entering and leaving the runtime's own layout counts for little then
_DISPATCH: Final = (16, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One model to time.

    Attributes:
        name: Unique.
        kind: What it shows: ``conv3x3.f32``, ``matmul.u8s8``, ...; ``dispatch`` for the chains of empty nodes.
        operations: Of one run; a multiply-accumulate is two. For ``dispatch``: the number of nodes.
        inputs: ``{name, dtype, shape}`` of each input.
        optimization: How the runtime opens it: ``all``, or ``disabled`` where it would remove the nodes.
        model: The ONNX file's bytes.
    """

    name: str
    kind: str
    operations: int
    inputs: tuple[Mapping[str, Any], ...]
    optimization: str
    model: bytes


def make_probes() -> list[Probe]:
    """All probes, the ones that matter most first: a slow device may not get to the last ones."""
    from pipeline.benchmarking import probe_models as models

    probes = [_dispatch(count, models.identities(count)) for count in _DISPATCH]
    shapes = ((64, 28), (128, 14), (256, 7))
    for weights, kernels in (("f32", (3, 1)), ("u8s8", (3, 1)), ("s8s8", (3, 1))):
        for kernel in kernels:
            for channels, side in shapes if weights != "s8s8" else shapes[:1]:
                probes.append(_convolution(channels, side, kernel, weights, groups=1))
    probes += [_convolution(128, 28, 3, weights, groups=128) for weights in ("f32", "u8s8")]
    probes += [_product(size, pair) for pair in ("f32", "u8s8", "u8u8", "s8s8") for size in (256, 512)]
    return probes


def _dispatch(count: int, model: onnx.ModelProto) -> Probe:
    inputs = ({"name": "x", "dtype": "float32", "shape": [1]},)
    return Probe(
        name=f"dispatch-{count}", kind=DISPATCH, operations=count, inputs=inputs, optimization="disabled",
        model=model.SerializeToString(deterministic=True),
    )  # fmt: skip


def _convolution(channels: int, side: int, kernel: int, weights: str, *, groups: int) -> Probe:
    from pipeline.benchmarking import probe_models as models

    shape = [1, channels, side, side]
    macs = _CHAIN * math.prod(shape) * channels // groups * kernel**2
    kind = "depthwise" if groups > 1 else f"conv{kernel}x{kernel}"
    model = models.convolutions(channels, side, kernel, weights, groups=groups, count=_CHAIN)
    return Probe(
        name=f"{kind}-{weights}-{channels}x{side}", kind=f"{kind}.{weights}", operations=2 * macs,
        inputs=({"name": "x", "dtype": "float32", "shape": shape},), optimization="all",
        model=model.SerializeToString(deterministic=True),
    )  # fmt: skip


def _product(size: int, pair: str) -> Probe:
    from pipeline.benchmarking import probe_models as models

    dtype = {"f32": "float32", "u8s8": "uint8", "u8u8": "uint8", "s8s8": "int8"}[pair]
    return Probe(
        name=f"matmul-{pair}-{size}", kind=f"matmul.{pair}", operations=2 * size**3,
        inputs=({"name": "x", "dtype": dtype, "shape": [size, size]},), optimization="all",
        model=models.product(size, pair).SerializeToString(deterministic=True),
    )  # fmt: skip


def write_probes(folder: Path, probes: Sequence[Probe], options: Mapping[str, object]) -> None:
    """``probes.json`` and the models, into an empty folder; ``options`` as in engine.json."""
    rows = []
    for probe in probes:
        file = f"{probe.name}.onnx"
        write_atomic(folder / file, probe.model)
        rows.append({
            "name": probe.name, "file": file, "sha256": sha256_bytes(probe.model), "inputs": list(probe.inputs),
            "optimization": probe.optimization,
        })  # fmt: skip
    document = {"schema": SCHEMA, "options": dict(options), "probes": rows}
    write_atomic(folder / "probes.json", json.dumps(document, indent=1, sort_keys=True).encode())


def calibrate_device(
    session: Session,
    *,
    options: Mapping[str, object],
    affinity: str = "default",
    state: Path | None = None,
    clock: Callable[[], float] = time.time,
    kinds: Collection[str] | None = None,
) -> Calibration:
    """What the device can do: as remembered in ``state``, or measured now (about 10 s) and remembered.

    Args:
        session: The device, held.
        options: How the engine in question is opened, as in its engine.json; the number of threads counts.
        affinity: The CPUs to use, as for ``measure``.
        state: A private folder; None remembers nothing.
        clock: Seconds since 1970.
        kinds: Measure no more than what these need, which is not remembered then (2 to 4 s).

    Raises:
        DeviceError: The device's answer is not usable, or no probe runs there.
    """
    facts = session.facts()
    threads = int(str(options["threads"]))
    identity = calibration_id(facts.fingerprint, facts.runtime_version or "", options, affinity)
    known = read_calibration(state, identity, clock()) if state is not None else None
    if known is not None:
        return known
    probes = make_probes()
    if kinds is not None:
        probes = [probe for probe in probes if probe.kind in {DISPATCH, *_stand_ins(kinds, probes)}]
    with disk_guard("writing the probe models"), tempfile.TemporaryDirectory(prefix="edgepress-probes-") as scratch:
        write_probes(Path(scratch), probes, options)
        session.put(Path(scratch), "probes")
    command = ["calibrate", "probes", "--threads", str(threads), "--affinity", affinity]
    answer = session.run(command, timeout_s=_TIMEOUT_S).result
    found = evaluate(probes, answer, identity=identity, affinity=affinity, threads=threads, utc_s=clock())
    if state is not None and kinds is None:
        write_calibration(state, found)
    return found


def _stand_ins(kinds: Collection[str], probes: Sequence[Probe]) -> set[str]:
    """For each kind the nearest one that a probe shows; one that every runtime has where nothing is multiplied."""
    there = {probe.kind for probe in probes}
    found = (next((other for other in nearest_kinds(kind) if other in there), None) for kind in kinds)
    return {kind for kind in found if kind is not None} or {_PLAIN}
