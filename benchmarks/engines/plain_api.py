"""What each runtime's documentation tells to do to make an engine of an ONNX file, with nothing of this project.

python plain_api.py onnxruntime|openvino|tensorrt-rtx MODEL OUT [durable]
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
THREADS = 1
Api = Callable[[Path, Path], None]


def onnxruntime_api(model: Path, out: Path) -> None:
    """A session that writes what it optimised."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = THREADS
    settings.log_severity_level = 3
    out.mkdir()
    settings.optimized_model_filepath = str(out / "engine.onnx")
    onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])


def openvino_api(model: Path, out: Path) -> None:
    """Read, compile, export."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # no reports of this run
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_NUM_THREADS": THREADS})
    out.mkdir()
    (out / "engine.blob").write_bytes(compiled.export_model().getvalue())


def tensorrt_rtx_api(model: Path, out: Path) -> None:
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


APIS: dict[str, Api] = {
    "onnxruntime": onnxruntime_api,
    "openvino": openvino_api,
    "tensorrt-rtx": tensorrt_rtx_api,
}


def durable(api: Api) -> Api:
    """The API, and then what everyone needs who relies on its files: their hashes, and no loss with the power."""

    def run(model: Path, out: Path) -> None:
        api(model, out)
        for path in out.iterdir():
            with path.open("rb") as stream:
                hashlib.file_digest(stream, "sha256")
                os.fsync(stream.fileno())
        descriptor = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(descriptor)
        os.close(descriptor)

    return run


if __name__ == "__main__":
    name, model, out, *more = sys.argv[1:]
    (durable(APIS[name]) if more else APIS[name])(Path(model), Path(out))
