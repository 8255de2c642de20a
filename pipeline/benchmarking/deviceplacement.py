"""Asks the device which provider runs the nodes of an ONNX Runtime engine; one that only falls back is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, final

from pipeline.benchmarking.staging import inspection_of
from targets.engines.onnxoperators import COMPUTE
from targets.errors import DeviceError, DeviceLost, InputError
from targets.ondevice.providers import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.benchmarking.staging import Staged
    from targets.devices.base import Session
    from targets.engines.base import EngineBuild

TIMEOUT_S: Final = 3600.0
"""Providers that compile may time many kernels."""

_FIX: Final = "check that the device is sound and runs the program that was sent to it, then run the same command again"
_PUT_IN: Final = frozenset({"Cast", "MemcpyFromHost", "MemcpyToHost", "ReorderInput", "ReorderOutput", "Transpose"})
"""Operators that the runtime puts between providers, and that compute nothing."""


@final
class NotPlacedThere(DeviceError):
    """The device cannot run this engine, or runs all of its compute elsewhere than asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedThere:
    """Where the nodes of an engine run on the device.

    Attributes:
        runtime_version: Of the runtime there.
        providers: Those of the session, in their order.
        nodes: Nodes by provider; what a provider has compiled counts as one.
        compute: Convolutions and matrix products among them, by provider.
        operators: Nodes by provider and operator.
        warnings: What is not as it was asked for.
    """

    runtime_version: str
    providers: tuple[str, ...]
    nodes: Mapping[str, int]
    compute: Mapping[str, int]
    operators: Mapping[str, Mapping[str, int]]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What benchmark.json says of it."""
        return asdict(self) | {"providers": list(self.providers), "warnings": list(self.warnings)}


def placed_there(item: Staged, session: Session) -> PlacedThere | None:
    """Has the device count an engine's nodes, where nobody has seen them or another provider than the CPU's is asked.

    Args:
        item: The engine, already sent.
        session: The device; it gets the samples.

    Returns:
        None for every other engine: what was inspected is what runs.

    Raises:
        InputError: The engine was not inspected.
        NotPlacedThere: The device cannot run it, or runs all of its compute elsewhere than asked for.
        DeviceError: It gives no valid answer.
        DeviceLost: It stopped answering.
        EnvironmentFailure: It has no room, or not enough memory.
    """
    if item.build.engine != "onnxruntime":
        return None
    inspection, asked = inspection_of(item.build), _asked(item.build)
    if not asked or (asked == [CPU] and not inspection.get("inspected")):
        return None
    session.put(item.samples, item.samples_name)
    command = ["placement", item.folder, "--samples", item.samples_name]
    try:
        answer = session.run(command, timeout_s=TIMEOUT_S).result
    except DeviceLost:
        raise
    except (DeviceError, InputError) as error:
        raise NotPlacedThere(error.what, error.why, error.fix) from error
    return _judged(item.name, asked[0], inspection, answer)


def _asked(build: EngineBuild) -> list[str]:
    providers = build.options.get("providers")
    return [str(name) for name in providers] if isinstance(providers, list | tuple) else []


def _judged(name: str, first: str, inspection: Mapping[str, Any], answer: Mapping[str, Any]) -> PlacedThere:
    operators = _operators(answer)
    compute = {on: sum(count for kind, count in kinds.items() if kind in COMPUTE) for on, kinds in operators.items()}
    elsewhere = {on: count for on, count in compute.items() if on != first and count}
    asked_for = (inspection.get("compute") or {}).get("total", 0)
    total = max(asked_for, sum(compute.values()))
    where = ", ".join(f"{count} on {on}" for on, count in elsewhere.items())
    compiled = set(operators.get(first, ())) - _PUT_IN - set(inspection.get("nodes") or ())
    seen = sum(elsewhere.values())
    if seen and not compute.get(first) and (not compiled or seen >= asked_for > 0):
        raise NotPlacedThere(
            f"{name} does not run where it was to",
            f"all {total} convolutions and matrix products fell back from {first}: {where}",
            "check the provider's own log on the device, or take it out of the profile",
        )
    line = f"{seen} of {total} convolutions and matrix products do not run on {first}: {where}"
    return PlacedThere(
        runtime_version=str(answer["runtime_version"]),
        providers=tuple(answer["providers"]),
        nodes={on: sum(kinds.values()) for on, kinds in operators.items()},
        compute=compute,
        operators=operators,
        warnings=(line,) if seen else (),
    )


def _operators(answer: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The counts of an answer, once all that is used of it is known to be what it must be."""
    operators, providers = answer.get("operators"), answer.get("providers")
    right = {
        "operators": isinstance(operators, dict) and any(operators.values()) and all(map(_counts, operators.values())),
        "providers": isinstance(providers, list) and all(isinstance(name, str) for name in providers),
        "runtime_version": isinstance(answer.get("runtime_version"), str),
    }
    if wrong := [key for key, ok in right.items() if not ok]:
        raise DeviceError("the device gave no valid answer", f"placement: {', '.join(wrong)} missing or wrong", _FIX)
    return {str(on): dict(kinds) for on, kinds in sorted((operators or {}).items())}


def _counts(kinds: object) -> bool:
    return isinstance(kinds, dict) and all(type(count) is int and count > 0 for count in kinds.values())
