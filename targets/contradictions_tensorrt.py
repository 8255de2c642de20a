"""What the options of TensorRT and TensorRT-RTX say against each other or against the hardware: the one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from targets.errors import Fault
from targets.options import TensorRtOptions
from targets.sections import Hardware

# TensorRT-RTX 1.7.1 itself says which GPUs it builds for and runs on: these, 12.1 and later, and 7.5 where it is named.
_RTX: Final = frozenset({(8, 0), (8, 6), (8, 9), (12, 0)})
_RTX_NAMED: Final = (7, 5)
_RTX_LATER: Final = (12, 0)
_RTX_FIX: Final = "it runs on 7.5 (where named), 8.0, 8.6, 8.9, 12.0 and later"
_AMPERE: Final = (8, 0)


def version(capability: str) -> tuple[int, int]:
    """``8.7`` as numbers, which compare."""
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def rtx_runs(capability: str, *, named: bool) -> bool:
    """Whether TensorRT-RTX builds for a GPU and runs there.

    Args:
        capability: Its compute capability, such as ``8.6``.
        named: Whether the profile names it among ``compute_capabilities``.
    """
    numbers = version(capability)
    return numbers in _RTX or numbers > _RTX_LATER or (named and numbers == _RTX_NAMED)


def tensorrt_faults(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    """Everything about the options alone, and against the hardware where that is known.

    Args:
        engine: The options of one engine.
        at: The path of their table, for messages.
        hardware: The target's.
    """
    yield from _batch(engine, at)
    yield from _memory(engine, at, hardware)
    yield from _dla(engine, at, hardware)
    yield from _portability(engine, at, hardware)
    yield from _capabilities(engine, at, hardware)
    yield from _sparsity(engine, at, hardware)


def _batch(engine: TensorRtOptions, at: str) -> Iterator[Fault]:
    least, usual, most = engine.batch
    if not least <= usual <= most:
        what = f"{list(engine.batch)} is not smallest, usual, largest"
        yield Fault(where=f"{at}.batch", what=what, fix=f"write {sorted(engine.batch)}")


def _memory(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    if hardware is not None and hardware.memory_mb is not None and engine.workspace_mb > hardware.memory_mb:
        what = (
            f"{engine.workspace_mb} MiB of scratch memory are more than the {hardware.memory_mb} of hardware.memory_mb"
        )
        yield Fault(where=f"{at}.workspace_mb", what=what, fix=f"write at most {hardware.memory_mb // 2}")


def _dla(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    if engine.device == "gpu":
        if engine.dla_core:
            yield Fault(
                where=f"{at}.dla_core", what=f'DLA core {engine.dla_core} beside device = "gpu"',
                fix='write device = "dla", or leave dla_core out',
            )  # fmt: skip
        return
    if engine.name == "tensorrt-rtx":
        what = "TensorRT-RTX drives no DLA"
        yield Fault(where=f"{at}.device", what=what, fix='write name = "tensorrt", or device = "gpu"')
    elif hardware is not None and not hardware.dla_cores:
        fix = 'write device = "gpu", or say in hardware.dla_cores how many it has'
        yield Fault(where=f"{at}.device", what="the hardware has no DLA (hardware.dla_cores is 0)", fix=fix)
    elif hardware is not None and engine.dla_core >= hardware.dla_cores:
        what = f"there is no DLA core {engine.dla_core}: the hardware has {hardware.dla_cores}, counted from 0"
        yield Fault(where=f"{at}.dla_core", what=what, fix=f"write 0 to {hardware.dla_cores - 1}")
    if len(set(engine.batch)) > 1:
        what = f"batch sizes {list(engine.batch)}: a DLA takes one fixed size"
        yield Fault(
            where=f"{at}.batch", what=what, fix=f"write [{engine.batch[1]}, {engine.batch[1]}, {engine.batch[1]}]"
        )


def _portability(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    for key in ("version_compatible", "hardware_compatible"):
        if getattr(engine, key) and engine.name == "tensorrt-rtx":
            what = "TensorRT-RTX does not build so"
            yield Fault(
                where=f"{at}.{key}", what=what, fix="leave it out: compute_capabilities say which GPUs may load it"
            )
    capability = hardware.compute_capability if hardware else None
    if engine.hardware_compatible and capability is not None and version(capability) < _AMPERE:
        what = f"engines for other GPUs exist from compute capability 8.0 on; this is {capability}"
        yield Fault(where=f"{at}.hardware_compatible", what=what, fix="leave it out")


def _sparsity(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    """Sparse tensor cores came with Ampere (NVIDIA A100 Tensor Core GPU Architecture, 2020)."""
    capability = hardware.compute_capability if hardware else None
    if not engine.sparsity:
        return
    if engine.device == "dla":
        what = "edgepress builds sparse engines for GPUs, not for a DLA"
        yield Fault(where=f"{at}.sparsity", what=what, fix='leave it out, or write device = "gpu"')
    elif capability is not None and version(capability) < _AMPERE:
        what = f"sparse tensor cores exist from compute capability 8.0 on; this is {capability}"
        yield Fault(where=f"{at}.sparsity", what=what, fix="leave it out")


def _capabilities(engine: TensorRtOptions, at: str, hardware: Hardware | None) -> Iterator[Fault]:
    where, named = f"{at}.compute_capabilities", engine.compute_capabilities
    own = hardware.compute_capability if hardware else None
    if engine.name == "tensorrt":
        if named:
            what = "TensorRT builds on the device, for the GPU that is there"
            yield Fault(where=where, what=what, fix='leave it out, or write name = "tensorrt-rtx"')
        return
    for index, name in enumerate(named):
        if not rtx_runs(name, named=True):
            what = f"TensorRT-RTX has nothing for compute capability {name}"
            yield Fault(where=f"{where}.{index}", what=what, fix=_RTX_FIX)
        elif name in named[:index]:
            yield Fault(where=f"{where}.{index}", what=f"{name} is there twice", fix="name each GPU once")
    if own is None:
        if not named and hardware is not None:
            what = "it is empty, and so is hardware.compute_capability: a build ahead of time needs to know the GPUs"
            yield Fault(where=where, what=what, fix='name them, such as ["8.6", "8.9"]')
        return
    if not rtx_runs(own, named=own in named):
        what = f"TensorRT-RTX does not run on compute capability {own}"
        yield Fault(where="hardware.compute_capability", what=what, fix=f'{_RTX_FIX}; elsewhere name = "tensorrt"')
    elif named and own not in named:
        what = f"the engine would not be built for the target's own GPU ({own})"
        yield Fault(where=where, what=what, fix=f'add "{own}"')
