"""What the keys of a profile say together that cannot be: every fault at once, also where some keys are wrong alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from targets.contradictions_engine import Choice, engine_faults
from targets.contradictions_precision import precision_faults, scheme_faults
from targets.errors import Fault
from targets.options import EngineOptions, TensorRtOptions
from targets.sections import DeviceSection, Hardware, Quantization

_X86_FEATURES: Final = frozenset({
    "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
    "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
})  # fmt: skip
_ARM_FEATURES: Final = frozenset({
    "fp", "asimd", "asimdhp", "fphp", "asimddp", "asimdrdm", "i8mm", "bf16", "sve", "sve2", "sme", "atomics",
})  # fmt: skip
_MISSPELT: Final = {
    "sse4.2": "sse4_2", "sse42": "sse4_2", "avx512": "avx512f", "vnni": "avx512_vnni", "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni", "avx-vnni": "avx_vnni", "avx512bf16": "avx512_bf16", "avx512_f16": "avx512_fp16",
    "amx": "amx_int8", "neon": "asimd", "dotprod": "asimddp", "sdot": "asimddp", "fp16": "asimdhp", "matmul": "i8mm",
}  # fmt: skip
# Jetsons with a DLA: Xavier (7.2) and Orin (8.7), two cores at most.
# https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-with-dla.html
_DLA_CAPABILITIES: Final = frozenset({"7.2", "8.7"})
_MOST_DLA_CORES: Final = 2
_DECISIVE: Final = frozenset({
    "name", "providers", "device", "compute_capabilities", "arch", "isa", "compute_capability", "dla_cores", "scheme",
    "precisions", "connection",
})  # fmt: skip
"""Keys that others depend on: a table in which one is wrong is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The tables of a profile that are valid by themselves; None for the others."""

    hardware: Hardware | None
    choices: tuple[Choice, ...]
    device: DeviceSection | None


def contradictions(tables: Mapping[str, Any]) -> list[Fault]:
    """Every contradiction between the tables of a profile; tables that are wrong by themselves are left out.

    Args:
        tables: A profile as its file says it, with what it extends beneath.
    """
    parts = _parts(tables)
    faults = [
        *_hardware_faults(parts.hardware),
        *_device_faults(parts.device, parts.hardware),
        *_label_faults(parts.choices),
    ]
    for choice in parts.choices:
        faults += engine_faults(choice, parts.hardware)
        faults += scheme_faults(choice, parts.hardware)
        faults += precision_faults(choice, parts.hardware)
        faults += _thread_faults(choice, parts)
    return list(dict.fromkeys(faults))


def _parts(tables: Mapping[str, Any]) -> _Parts:
    listed = tables.get("alternatives")
    others = [item if isinstance(item, dict) else {} for item in listed] if isinstance(listed, list) else []
    return _Parts(
        hardware=_part(Hardware, tables.get("hardware")),
        choices=(_choice("", tables), *(_choice(f"alternatives.{i}.", item) for i, item in enumerate(others))),
        device=_part(DeviceSection, tables.get("device", {})),
    )


def _choice(prefix: str, tables: Mapping[str, Any]) -> Choice:
    label = tables.get("label", "") if prefix else ""
    return Choice(
        prefix=prefix,
        label=label if isinstance(label, str) else "",
        engine=_part(EngineOptions, tables.get("engine")),
        quantization=_part(Quantization, tables.get("quantization")),
    )


def _part(kind: Any, table: object) -> Any:  # noqa: ANN401 - the kind may be a union, which has no type of its own
    """The table; where a key is wrong that no other key depends on, the table as if that key were not there."""
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        if not isinstance(table, dict):
            return None
        wrong = {part for item in error.errors() for part in item["loc"] if part in table}
    if wrong & _DECISIVE:
        return None
    try:
        return adapter.validate_json(json.dumps({key: table[key] for key in table if key not in wrong}, default=str))
    except ValidationError:
        return None


def _hardware_faults(hardware: Hardware | None) -> Iterator[Fault]:
    if hardware is None:
        return
    foreign = _ARM_FEATURES if hardware.arch == "x86_64" else _X86_FEATURES
    for index, name in enumerate(hardware.isa):
        where = f"hardware.isa.{index}"
        if name in hardware.isa[:index]:
            yield Fault(where=where, what=f"{name!r} is there twice", fix="name each CPU feature once")
        elif name in foreign:
            fix = "name features of that architecture, or correct hardware.arch"
            yield Fault(where=where, what=f"no {hardware.arch} CPU has {name!r}", fix=fix)
        elif name in _MISSPELT:
            what = f"/proc/cpuinfo calls no CPU feature {name!r}"
            yield Fault(where=where, what=what, fix=f"write {_MISSPELT[name]!r}")
    capability = hardware.compute_capability
    if hardware.dla_cores and (hardware.arch == "x86_64" or capability not in {*_DLA_CAPABILITIES, None}):
        what = f"{hardware.dla_cores} DLA cores beside compute capability {capability} on {hardware.arch}"
        fix = "leave dla_cores out: only Jetson Xavier (7.2) and Orin (8.7) have a DLA"
        yield Fault(where="hardware.dla_cores", what=what, fix=fix)
    elif hardware.dla_cores > _MOST_DLA_CORES:
        what = f"{hardware.dla_cores} DLA cores are more than any Jetson has"
        yield Fault(where="hardware.dla_cores", what=what, fix=f"write at most {_MOST_DLA_CORES}")


def _device_faults(device: DeviceSection | None, hardware: Hardware | None) -> Iterator[Fault]:
    if device is None:
        return
    if device.connection == "local" and device.login:
        what = f"{device.login!r} is no way to reach this machine"
        yield Fault(where="device.login", what=what, fix='set connection to "ssh" or "adb", or leave login out')
    if device.connection == "adb" and "@" in device.login:
        fix = 'write the serial number that `adb devices` shows, or set connection to "ssh"'
        yield Fault(where="device.login", what=f"adb knows no users: {device.login!r}", fix=fix)
    for part in device.affinity.split(",") if device.affinity[:1].isdigit() else ():
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            fix = f"write {last}-{first}"
            yield Fault(where="device.affinity", what=f"{part!r} ends before it begins", fix=fix)
    highest, cpus = max(_listed(device.affinity) or {0}), hardware.cpus if hardware else None
    if cpus is not None and highest >= cpus:
        what = f"it names CPU {highest}; the machine has {cpus}, counted from 0"
        yield Fault(where="device.affinity", what=what, fix=f"name CPUs 0 to {cpus - 1}, or correct hardware.cpus")


def _label_faults(choices: tuple[Choice, ...]) -> Iterator[Fault]:
    """Candidates are called by label and precision: no two may come out the same."""
    seen: dict[str, str] = {}
    for choice in choices[1:]:
        name = choice.label or (choice.engine.name if choice.engine else "")
        where = f"{choice.prefix}label"
        if name == "dense" or name.endswith("-dense"):
            what = f"{name!r} sounds like the uncompressed reference, which is called dense"
            yield Fault(where=where, what=what, fix="choose another label")
        elif name and name in seen:
            what = f"{name!r} is already the label of {seen[name]}"
            yield Fault(where=where, what=what, fix="give each alternative a `label` of its own")
        elif name:
            seen[name] = choice.prefix.removesuffix(".")
    for index, choice in enumerate(choices[1:], start=1):
        twin = next((other for other in choices[:index] if _same(other, choice)), None)
        if twin is not None:
            what = f"it is the same as {twin.prefix.removesuffix('.') or 'the first choice'}"
            fix = "remove it, or change its engine or precisions"
            yield Fault(where=choice.prefix.removesuffix("."), what=what, fix=fix)


def _same(one: Choice, other: Choice) -> bool:
    whole = one.engine is not None and one.quantization is not None
    return whole and one.engine == other.engine and one.quantization == other.quantization


def _thread_faults(choice: Choice, parts: _Parts) -> Iterator[Fault]:
    if choice.engine is None or isinstance(choice.engine, TensorRtOptions):
        return
    threads, where = choice.engine.threads, f"{choice.prefix}engine.threads"
    cpus = parts.hardware.cpus if parts.hardware else None
    if cpus is not None and threads > cpus:
        what = f"{threads} threads on {cpus} CPUs wait for each other"
        yield Fault(where=where, what=what, fix=f"write at most {cpus}, or correct hardware.cpus")
    allowed = _listed(parts.device.affinity) if parts.device else None
    if allowed is None:
        return
    if threads > len(allowed):
        what = f"{threads} threads on the {len(allowed)} CPUs of device.affinity wait for each other"
        yield Fault(where=where, what=what, fix="use as many threads as the affinity has CPUs, or name more CPUs")


def _listed(affinity: str) -> frozenset[int] | None:
    """The CPUs of a list, None where it is a word or one of its ranges is reversed."""
    if not affinity[:1].isdigit():
        return None
    found: set[int] = set()
    for part in affinity.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            return None
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
