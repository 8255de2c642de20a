"""The tables of a target profile: what a profile may say, each table checked by itself."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from targets.options import ComputeCapability, EngineOptions, Precision, Section

Arch = Literal["x86_64", "aarch64"]
Connection = Literal["local", "ssh", "adb"]
DeviceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
AFFINITY: Final = r"^(default|big|little|[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?){0,63})$"
LOGIN: Final = r"^([A-Za-z0-9_][A-Za-z0-9._@:-]{0,199})?$"
LOCAL: Final = "local"


class Hardware(Section):
    """The machine class.

    Attributes:
        arch: Instruction set architecture, as ``uname -m`` says it.
        isa: CPU features the engine may rely on, as /proc/cpuinfo spells them.
        cpus: CPUs that the machine has, as its system counts them.
        memory_mb: Memory that the engine and its runtime may use, in MiB.
        storage_mb: Size that the engine file may have, in MiB.
        compute_capability: Of its NVIDIA GPU, such as ``8.7``.
        dla_cores: Deep-learning accelerators beside that GPU.
    """

    arch: Arch
    isa: tuple[str, ...] = ()
    cpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    memory_mb: Annotated[int, Field(gt=0)] | None = None
    storage_mb: Annotated[int, Field(gt=0)] | None = None
    compute_capability: ComputeCapability | None = None
    dla_cores: Annotated[int, Field(ge=0, le=8)] = 0


class Quantization(Section):
    """What the target's int8 arithmetic wants.

    Attributes:
        scheme: Name of a dialect in `targets.scheme`.
        precisions: Precisions worth building, one candidate each.
        float_type: What stays float in an int8 model is of that type, its scales too.
    """

    scheme: str
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    float_type: Literal["fp32", "fp16"] = "fp32"


class Pruning(Section):
    """What widths pay.

    Attributes:
        channel_alignment: Channel counts that fill the vector units are multiples of this.
    """

    channel_alignment: Annotated[int, Field(ge=1, le=256)] = 8


class DeviceSection(Section):
    """Where the target is measured, and within which limits.

    Attributes:
        name: ``local`` is the machine that runs edgepress; any other name is a device that ``edgepress devices add``
            has registered.
        connection: How such a machine is usually reached; a hint for ``edgepress devices add``, nothing else.
        login: An example of its address, for people: ``user@host`` (ssh), a serial number (adb).
        affinity: CPUs that the engine may use: ``default``, ``big``, ``little``, or a list such as ``0,2-3``.
        memory_limit_mb: Address space that a measured process may have, in MiB.
    """

    name: DeviceName = LOCAL
    connection: Connection = "local"
    login: Annotated[str, Field(pattern=LOGIN)] = ""
    affinity: Annotated[str, Field(pattern=AFFINITY)] = "default"
    memory_limit_mb: Annotated[int, Field(gt=0)] | None = None


class Detect(Section):
    """One row of a detecting profile: the first row whose demands this machine meets names the profile to follow."""

    arch: Arch
    isa: tuple[str, ...] = ()
    like: str


class Alternative(Section):
    """Another engine worth trying on the same machine; measured against the first.

    Attributes:
        label: Its candidates are called ``label-int8`` and so on; the engine's name when empty.
        engine: The engine.
        quantization: What it wants.
    """

    label: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9-]{0,31})?$")] = ""
    engine: EngineOptions
    quantization: Quantization
