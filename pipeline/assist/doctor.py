"""Examines the machine: is everything there that a run needs, and what would give it more?"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from targets import machine
from targets.errors import EdgepressError

MINIMUM_VERSIONS: Final = {
    "torch": (2, 10), "onnx": (1, 21), "onnx-ir": (0, 1), "onnxscript": (0, 5), "onnxruntime": (1, 24),
    "numpy": (1, 26), "lightning-fabric": (2, 5), "safetensors": (0, 5), "matplotlib": (3, 9),
}  # fmt: skip
EXTRAS: Final = {
    "openvino": ("engine OpenVINO", ("openvino",)),
    "tensorrt": ("engine TensorRT, for NVIDIA GPUs and Jetsons", ("tensorrt",)),
    "tensorrt-rtx": ("engine TensorRT-RTX, for NVIDIA GPUs", ("tensorrt-rtx",)),
    "search": ("edgepress search", ("optuna", "scipy")),
    "tensorboard": ("--tensorboard", ("tensorboard",)),
    "examples": ("image folders and the examples", ("pillow", "scikit-learn")),
}
"""Extra of the package: what it is for, and what it installs."""

PROGRAMS: Final = {"ssh": "devices over ssh", "adb": "Android devices"}
_FAST_INT8: Final = {"x86_64": ("avx512_vnni", "avx_vnni"), "aarch64": ("asimddp", "i8mm")}
"""What makes int8 fast on a CPU, by its kind; any of them."""

MINIMUM_FREE_BYTES: Final = 2 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        subject: What it is about.
        ok: Whether it is as a run needs it.
        text: What was found.
        fix: What to do when it is not ok, or to have more.
        note: Nothing is missing, but there is something to say or to install.
    """

    subject: str
    ok: bool
    text: str
    fix: str = ""
    note: bool = False


def examine() -> list[Finding]:
    """Everything there is to say about this machine; changes nothing but creating the store's folder."""
    return [
        _python(),
        *(_library(name, least) for name, least in MINIMUM_VERSIONS.items()),
        _profile(),
        _isa(),
        *_measuring(),
        *(_extra(extra, what, packages) for extra, (what, packages) in EXTRAS.items()),
        *(_program(name, what) for name, what in PROGRAMS.items()),
        _devices(),
        *_store(),
        _shadowing(),
    ]


def _python() -> Finding:
    text = ".".join(map(str, sys.version_info[:3]))
    return Finding(subject="python", ok=sys.version_info >= (3, 11), text=text, fix="install Python 3.11 or later")


def _library(name: str, least: tuple[int, int]) -> Finding:
    wanted = ".".join(map(str, least))
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(subject=name, ok=False, text="not installed", fix=f"pip install '{name}>={wanted}'")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2])
    return Finding(
        subject=name,
        ok=numbers >= least,
        text=version,
        fix=f"pip install '{name}>={wanted}' (older ones have known holes)",
    )


def _profile() -> Finding:
    from targets.profile import load_profile

    try:
        profile = load_profile("host")
    except EdgepressError as error:
        return Finding(subject="host", ok=False, text=error.why, fix=error.fix)
    return Finding(
        subject="host",
        ok=True,
        text=f"{machine.cpu_model()}; {profile.description}, scheme {profile.quantization.scheme}",
    )


def _isa() -> Finding:
    """What the CPU has for eight bits; without it float often ships, and rightly."""
    there, wanted = machine.cpu_features(), _FAST_INT8.get(machine.arch(), ())
    has = [name for name in ("avx2", *wanted) if name in there]
    text = f"{machine.arch()} with {' '.join(has) or 'no instructions for int8'}"
    if not wanted or any(name in there for name in wanted):
        return Finding(subject="cpu", ok=True, text=text)
    why = f"{text}, without {' or '.join(wanted)}: int8 is often no faster than float"
    return Finding(subject="cpu", ok=True, note=True, text=why, fix="measure on the device that counts: --device NAME")


def _measuring() -> list[Finding]:
    """What makes figures of this machine hard to trust."""
    from targets.ondevice.system import machine_facts

    facts = machine_facts()
    found = [Finding(subject="cores", ok=True, text=f"{facts.get('usable_cores')} usable")]
    governor = facts.get("governor")
    if governor and governor != "performance":
        found.append(
            Finding(
                subject="governor",
                ok=True,
                note=True,
                text=f"{governor}: clocks follow the load",
                fix="sudo cpupower frequency-set -g performance, while it is measured",
            )
        )
    if facts.get("virtualised"):
        text = "a virtual machine: others may use its CPU while it is measured"
        found.append(
            Finding(subject="virtual", ok=True, note=True, text=text, fix="trust ratios more than milliseconds")
        )
    return found


def _extra(extra: str, what: str, packages: tuple[str, ...]) -> Finding:
    """An optional part."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            fix = f"pip install 'edgepress[{extra}]'"
            return Finding(subject=f"[{extra}]", ok=True, note=True, text=f"{what}: not installed", fix=fix)
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    return Finding(subject=f"[{extra}]", ok=True, text=f"{what}: {text}")


def _program(name: str, what: str) -> Finding:
    package = {"ssh": "openssh-client", "adb": "adb"}[name]
    if path := shutil.which(name):
        return Finding(subject=name, ok=True, text=f"{what}: {path}")
    return Finding(subject=name, ok=True, note=True, text=f"{what}: not installed", fix=f"apt-get install {package}")


def _devices() -> Finding:
    """What is registered; nothing is asked of the devices."""
    from targets.devices.registry import Registry

    try:
        names = sorted(Registry().entries())
    except EdgepressError as error:
        return Finding(subject="devices", ok=False, text=f"{error.what}: {error.why}", fix=error.fix)
    if names:
        return Finding(subject="devices", ok=True, text=", ".join(names))
    fix = "edgepress devices add NAME --ssh USER@HOST"
    return Finding(subject="devices", ok=True, note=True, text="none is registered", fix=fix)


def _store() -> list[Finding]:
    from pipeline.store import Store, default_store_root

    root = default_store_root(os.environ)
    try:
        Store(root)
    except EdgepressError as error:
        return [Finding(subject="store", ok=False, text=f"{error.what}: {error.why}", fix=error.fix)]
    free = shutil.disk_usage(root).free
    return [
        Finding(subject="store", ok=True, text=str(root)),
        Finding(
            subject="disk",
            ok=free >= MINIMUM_FREE_BYTES,
            text=f"{free / 1e9:.1f} GB free at the store",
            fix="free some space, `edgepress cache gc --older-than 30`, or set EDGEPRESS_CACHE to another disk",
        ),
    ]


def _shadowing() -> Finding:
    import pipeline

    found = Path(str(pipeline.__file__)).resolve()
    expected = Path(__file__).resolve().parents[1] / "__init__.py"
    return Finding(
        subject="import",
        ok=found == expected,
        text=f"package `pipeline` is {found.parent}",
        fix="a folder or file called `pipeline` shadows ours; use the `edgepress` command, not `python -m`",
    )
