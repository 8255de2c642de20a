"""What `Engine.build` takes over the runtime's own API doing the same: interleaved, in one process, real-size nets.

The runtime's side is what its documentation tells to do from an ONNX file: for ONNX Runtime a session that writes its
optimised model; for OpenVINO read, compile, export; for TensorRT-RTX parse and build, write the plan. Ours checks the
model, builds, inspects what was built, and writes hashes: the goal is less than 5 percent more. The second ratio is
against the same API whose result is as durable: its files hashed and synced to the disk.

Both run in this warm process (`Engine.build`; TensorRT-RTX starts a child even so), or with ``fresh`` each in a process
of its own: a Python that imports the runtime and calls it, and the limited child in which every run builds its engines.
In a run it is a fork of a process that loaded what it needs at the first call (`targets.forkserver`); ``first`` is a
child that loads everything itself, as the first of a run does. One ratio is that of processor time, which a busy
machine does not change.

    python benchmarks/engines/build_overhead.py [ROUNDS] [fresh] [onnxruntime|openvino|tensorrt-rtx ...] [NET ...]
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from types import MappingProxyType

sys.path.append(str(Path(__file__).parents[1] / "calibration"))

from encoder import write_encoder
from plain_api import APIS, durable

from targets.engines import engine
from targets.forkserver import fork_server
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.process import Limits, call_limited
from targets.profile import TargetProfile, load_profile

ROUNDS = 7
PLAIN = Path(__file__).with_name("plain_api.py")


def write_resnet(path: Path) -> None:
    """ResNet-18; torch is needed to write it, and not to build it."""
    from resnet import write_resnet

    write_resnet(path)


def write_mobilenet(path: Path) -> None:
    """MobileNetV2."""
    from mobilenet import write_mobilenet

    write_mobilenet(path)


NETS: dict[str, Callable[[Path], None]] = {
    "resnet18": write_resnet, "mobilenetv2": write_mobilenet, "encoder": write_encoder,
}  # fmt: skip
OPTIONS: dict[str, EngineOptions] = {
    "onnxruntime": OnnxRuntimeOptions(name="onnxruntime"),
    "openvino": OpenVinoOptions(name="openvino"),
    "tensorrt-rtx": TensorRtOptions(name="tensorrt-rtx", compute_capabilities=("8.6",)),
}


def main() -> None:
    """Prints median times and the median of the ratios of each round, for each engine and net."""
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else ROUNDS
    fresh = "fresh" in arguments
    with tempfile.TemporaryDirectory() as folder:
        for net, write in NETS.items():
            if NETS.keys() & set(arguments) and net not in arguments:
                continue
            model = Path(folder, f"{net}.onnx")
            write(model)
            for name in [name for name in arguments if name in OPTIONS] or OPTIONS:
                with fork_server() if fresh else nullcontext():
                    compare(name, model, Path(folder), rounds, fresh=fresh)


def compare(name: str, model: Path, folder: Path, rounds: int, *, fresh: bool) -> None:
    """One line; a round builds once with each, and which goes first alternates."""
    if not engine(name).available().ok:
        print(f"{name:14} not here: {engine(name).available().why}")
        return
    calls = in_processes(name) if fresh else sides(name)
    times: dict[str, list[float]] = {side: [] for side in calls}
    cpu: dict[str, list[float]] = {side: [] for side in calls}
    for number in range(rounds + 1):
        for side in sorted(calls, key=lambda side: (number + [*calls].index(side)) % len(calls)):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            start, used = time.perf_counter(), cpu_s()
            calls[side](model, out)
            times[side].append(time.perf_counter() - start)
            cpu[side].append(cpu_s() - used)
    api, own, kept = (times[side][1:] for side in ("api", "ours", "durable"))  # the first round loads libraries
    against = {
        "the API": ratios(own, api), "the API, hashed and synced": ratios(own, kept),
        "its CPU time": ratios(cpu["ours"][1:], cpu["durable"][1:]),
    }  # fmt: skip
    if "first" in times:
        against["the API, first of a run"] = ratios(times["first"][1:], api)
    told = "   ".join(
        f"{values[len(values) // 2]:.3f} ({values[0]:.3f} to {values[-1]:.3f}) of {what}"
        for what, values in against.items()
    )
    shown = ", ".join(f"{side} {statistics.median(values[1:]) * 1e3:.0f} ms" for side, values in times.items())
    kind = "fresh" if fresh else "warm"
    print(f"{name:14}{model.stem:13}{kind:6}{shown}: {told}", flush=True)


Side = Callable[[Path, Path], None]


def sides(name: str) -> dict[str, Side]:
    """What is compared, in this process."""
    return {"api": APIS[name], "ours": functools.partial(ours, name), "durable": durable(APIS[name])}


def in_processes(name: str) -> dict[str, Side]:
    """The same, each in a process of its own; ours in the child that a run starts."""
    alone: dict[str, Side] = {side: functools.partial(in_process, name, side) for side in ("api", "durable")}
    return {**alone, "ours": functools.partial(in_child, name), "first": functools.partial(in_new_child, name)}


def in_process(name: str, side: str, model: Path, out: Path) -> None:
    """A new Python that calls the runtime, and imports nothing else."""
    more = ["durable"] if side == "durable" else []
    subprocess.run([sys.executable, str(PLAIN), name, str(model), str(out), *more], check=True)


def in_new_child(name: str, model: Path, out: Path) -> None:
    """The same, in a child that has loaded nothing yet: one with variables of its own."""
    in_child(name, model, out, env={"EDGEPRESS_FIRST": "1"})


def in_child(name: str, model: Path, out: Path, env: Mapping[str, str] = MappingProxyType({})) -> None:
    """As `pipeline.stages.inference.build_engine` does it."""
    request = {
        "model": str(model), "out_folder": str(out), "precision": "fp32",
        "profile": profile(name).model_dump(mode="json"),
    }  # fmt: skip
    call_limited(
        "targets.engines.child:build_in_child", request, limits=Limits(timeout_s=3600.0), what=f"building {model.name}",
        env=env,
    )  # fmt: skip


def cpu_s() -> float:
    """Processor seconds of this process, of those below it, and of all that any of them waited for."""
    pending, ticks = [os.getpid()], 0
    while pending:
        pid = pending.pop()
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
            below = Path(f"/proc/{pid}/task").glob("*/children")
            pending += [int(child) for names in below for child in names.read_text(encoding="ascii").split()]
    return ticks / os.sysconf("SC_CLK_TCK")


def ratios(own: list[float], other: list[float]) -> list[float]:
    """Of each round, sorted."""
    return sorted(a / b for a, b in zip(own, other, strict=True))


def profile(name: str) -> TargetProfile:
    """The host, with that engine."""
    host = load_profile("host")
    hardware = host.hardware.model_copy(update={"compute_capability": "8.6"})
    return host.model_copy(update={"engine": OPTIONS[name], "hardware": hardware, "alternatives": ()})


def ours(name: str, model: Path, out: Path) -> None:
    """This project."""
    engine(name).build(model, profile(name), out, precision="fp32")


if __name__ == "__main__":
    main()
