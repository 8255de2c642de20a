"""What `Engine.build` takes over the runtime's own API doing the same: interleaved, in one process, real-size nets.

The runtime's side is what its documentation tells to do from an ONNX file: for ONNX Runtime a session that writes its
optimised model; for OpenVINO read, compile, export; for TensorRT-RTX parse and build, write the plan. Ours checks the
model, builds, inspects what was built, and writes hashes: the goal is less than 5 percent more. The second ratio is
against the same API whose result is as durable: its files hashed and synced to the disk.

    python benchmarks/engines/build_overhead.py [ROUNDS] [onnxruntime|openvino|tensorrt-rtx ...]
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "calibration"))

from mobilenet import write_mobilenet
from resnet import write_resnet

from targets.engines import engine
from targets.files import fsync_folder
from targets.ondevice.session import import_runtime
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, TensorRtOptions
from targets.profile import TargetProfile, load_profile

ROUNDS = 7
NETS: dict[str, Callable[[Path], None]] = {"resnet18": write_resnet, "mobilenetv2": write_mobilenet}
OPTIONS: dict[str, EngineOptions] = {
    "onnxruntime": OnnxRuntimeOptions(name="onnxruntime"),
    "openvino": OpenVinoOptions(name="openvino"),
    "tensorrt-rtx": TensorRtOptions(name="tensorrt-rtx", compute_capabilities=("8.6",)),
}


def main() -> None:
    """Prints median times and the median of the ratios of each round, for each engine and net."""
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        for net, write in NETS.items():
            model = Path(folder, f"{net}.onnx")
            write(model)
            for name in arguments or OPTIONS:
                compare(name, model, Path(folder), rounds)


def compare(name: str, model: Path, folder: Path, rounds: int) -> None:
    """One line; a round builds once with each, and which goes first alternates."""
    if not engine(name).available().ok:
        print(f"{name:14} not here: {engine(name).available().why}")
        return
    sides = {"api": APIS[name], "ours": ours, "durable": durable(APIS[name])}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side in sorted(sides, key=lambda side: (number + [*sides].index(side)) % len(sides)):
            out = folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            start = time.perf_counter()
            sides[side](model, out, profile(name))
            times[side].append(time.perf_counter() - start)
    api, own, kept = (times[side][1:] for side in ("api", "ours", "durable"))  # the first round loads libraries
    against = {"the API": ratios(own, api), "the API, hashed and synced": ratios(own, kept)}
    told = "   ".join(
        f"{values[len(values) // 2]:.3f} ({values[0]:.3f} to {values[-1]:.3f}) of {what}"
        for what, values in against.items()
    )
    middle = [statistics.median(values) for values in (api, kept, own)]
    shown = ", ".join(
        f"{side} {value * 1e3:.0f} ms" for side, value in zip(("api", "durable", "ours"), middle, strict=True)
    )
    print(f"{name:14}{model.stem:14}{shown}: {told}", flush=True)


def ratios(own: list[float], other: list[float]) -> list[float]:
    """Of each round, sorted."""
    return sorted(a / b for a, b in zip(own, other, strict=True))


def durable(api: Callable[[Path, Path, TargetProfile], None]) -> Callable[[Path, Path, TargetProfile], None]:
    """The API, and then what everyone needs who relies on its files: their hashes, and no loss with the power."""

    def run(model: Path, out: Path, target: TargetProfile) -> None:
        api(model, out, target)
        for path in out.iterdir():
            with path.open("rb") as stream:
                hashlib.file_digest(stream, "sha256")
                os.fsync(stream.fileno())
        fsync_folder(out)

    return run


def profile(name: str) -> TargetProfile:
    """The host, with that engine."""
    host = load_profile("host")
    hardware = host.hardware.model_copy(update={"compute_capability": "8.6"})
    return host.model_copy(update={"engine": OPTIONS[name], "hardware": hardware, "alternatives": ()})


def ours(model: Path, out: Path, target: TargetProfile) -> None:
    """This project."""
    engine(target.engine.name).build(model, target, out, precision="fp32")


def onnxruntime_api(model: Path, out: Path, target: TargetProfile) -> None:
    """A session that writes what it optimised."""
    runtime = import_runtime()
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = target.engine.threads
    settings.log_severity_level = 3
    out.mkdir()
    settings.optimized_model_filepath = str(out / "engine.onnx")
    runtime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])


def openvino_api(model: Path, out: Path, target: TargetProfile) -> None:
    """Read, compile, export."""
    from targets.ondevice.openvino_module import import_openvino

    openvino = import_openvino()
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": target.engine.threads})
    out.mkdir()
    (out / "engine.blob").write_bytes(compiled.export_model().getvalue())


def tensorrt_rtx_api(model: Path, out: Path, _target: TargetProfile) -> None:
    """Parse, build, write the plan."""
    import tensorrt_rtx as trt

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        raise RuntimeError(str(parser.get_error(0)))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    shapes = builder.create_optimization_profile()
    source = network.get_input(0)
    shapes.set_shape(source.name, *[(1, *source.shape[1:])] * 3)
    config.add_optimization_profile(shapes)
    out.mkdir()
    (out / "engine.plan").write_bytes(bytes(builder.build_serialized_network(network, config)))


APIS: dict[str, Callable[[Path, Path, TargetProfile], None]] = {
    "onnxruntime": onnxruntime_api,
    "openvino": openvino_api,
    "tensorrt-rtx": tensorrt_rtx_api,
}


if __name__ == "__main__":
    main()
