"""Computers that are not there: arm64 under qemu, x86-64 without VNNI; and small int8 bundles to run on them."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from targets.devices.base import MAX_ANSWER_BYTES, Device, RawAnswer, Session
from targets.engines import engine
from targets.engines.onnxruntime import is_tuned_here
from targets.ondevice_pack import FILE_NAME, pack
from targets.process import Limits, run_limited
from targets.profile import load_profile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Array = np.ndarray

REPOSITORY: Final = Path(__file__).resolve().parents[2]
ARM_CPUS: Final = ("cortex-a72", "cortex-a76", "i8mm")


def device_root() -> Path:
    """Where setup.sh puts its parts."""
    return Path(os.environ.get("EDGEPRESS_TEST_DEVICES") or REPOSITORY / ".devices")


def part(name: str) -> Path:
    """The folder of a part that setup.sh made; without it the test is skipped, with setup.sh's reason."""
    folder = device_root() / name
    if not (folder / "version").is_file():
        told = device_root() / f"{name}.skipped"
        why = told.read_text(encoding="utf-8").strip() if told.is_file() else "run `make test-devices`"
        pytest.skip(f"SKIPPED {name}: {why}")
    return folder


def arm64(cpu: str) -> EmulatedDevice:
    """An arm64 computer with that CPU, under qemu."""
    return EmulatedDevice([str(part("arm64") / f"python-{cpu}")])


def without_vnni(cpu: str = "avx2") -> EmulatedDevice:
    """This machine, as a CPU with AVX2 and without AVX-512 and VNNI; at native speed."""
    library = part("mask") / "cpuidmask.so"
    return EmulatedDevice(["env", f"LD_PRELOAD={library}", f"EDGEPRESS_CPU={cpu}", sys.executable])


def here() -> EmulatedDevice:
    """This machine as it is; skipped where it has no VNNI."""
    if not is_tuned_here(load_profile("x86-64-vnni")):
        pytest.skip(f"SKIPPED: this {platform.machine()} has no AVX-512 VNNI, the arithmetic to compare with")
    return EmulatedDevice([sys.executable])


@final
class EmulatedDevice(Device):
    """Runs the device program through another Python, for example one under an emulator."""

    name = "emulated"
    kind = "local"

    def __init__(self, python: Sequence[str]) -> None:
        self._python = list(python)

    @contextlib.contextmanager
    def _open(self, wait_s: float | None) -> Iterator[Session]:
        with tempfile.TemporaryDirectory(prefix="edgepress-") as folder:
            yield _EmulatedSession(self._python, Path(folder))


@final
class _EmulatedSession(Session):
    def __init__(self, python: list[str], folder: Path) -> None:
        self._argv = [*python, "-I", str(folder / FILE_NAME)]
        self._files = folder / "files"
        self._files.mkdir()
        (folder / FILE_NAME).write_bytes(pack())

    def _put(self, source: Path, name: str) -> None:
        (self._files / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, self._files / name)

    def _run(self, command: Sequence[str], timeout_s: float) -> RawAnswer:
        child = run_limited(
            [*self._argv, *command],
            limits=Limits(timeout_s=timeout_s),
            what=f"ondevice {command[0]}",
            cwd=self._files,
            stdout_limit_bytes=MAX_ANSWER_BYTES,
        )
        return RawAnswer(returncode=child.returncode, stdout=child.stdout, stderr=child.stderr, wall_s=child.wall_s)

    def _fetch(self, name: str, target: Path) -> None:
        shutil.copyfile(self._files / name, target)


def infer(device: Device, folder: Path, samples: Array, scratch: Path, *, batch: int = 16) -> dict[str, Array]:
    """Outputs of an engine folder on a device, by name."""
    inputs, out = scratch / "inputs.npz", scratch / "outputs.npz"
    np.savez(inputs, x=samples)
    with device.session() as session:
        session.put(folder, "engine")
        session.put(inputs, "inputs.npz")
        command = ["infer", "engine", "--inputs", "inputs.npz", "--out", "result.npz", "--batch", str(batch)]
        session.run(command, timeout_s=600, fetch=out)
    with np.load(out, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def bits_different(one: Mapping[str, Array], other: Mapping[str, Array]) -> tuple[int, int]:
    """How many values there are, and how many of them differ in any bit."""
    assert sorted(one) == sorted(other)
    assert one
    pairs = [(one[name], other[name]) for name in one]
    assert all(a.dtype == b.dtype and a.shape == b.shape and a.size for a, b in pairs)
    unlike = sum(int((_bits(a) != _bits(b)).any(axis=-1).sum()) for a, b in pairs)
    return sum(a.size for a, _ in pairs), unlike


def _bits(array: Array) -> Array:
    return np.ascontiguousarray(array)[..., None].view(np.uint8)


def residual_net(path: Path, seed: int) -> Path:
    """A small float net with convolutions (one depthwise), a shortcut, pooling and a classifier.

    Weights are spread as training leaves them: He-scaled, with channels of different size and a few large values.
    """
    rng = np.random.default_rng(seed)

    def kernel(*shape: int) -> Array:
        spread = rng.standard_t(4, size=shape) * np.exp(rng.normal(0, 0.4, (shape[0], *[1] * (len(shape) - 1))))
        return (spread / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    constants = {
        "stem.weight": kernel(16, 3, 3, 3),
        "stem.bias": rng.normal(0, 0.1, 16).astype(np.float32),
        "depth.weight": kernel(16, 1, 3, 3),
        "depth.bias": rng.normal(0, 0.1, 16).astype(np.float32),
        "point.weight": kernel(16, 16, 1, 1),
        "point.bias": rng.normal(0, 0.1, 16).astype(np.float32),
        "down.weight": kernel(24, 16, 3, 3),
        "down.bias": rng.normal(0, 0.1, 24).astype(np.float32),
        "head.weight": kernel(10, 24),
        "head.bias": rng.normal(0, 0.1, 10).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "stem.weight", "stem.bias"], ["a"], "stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"], "stem_relu"),
        helper.make_node("Conv", ["b", "depth.weight", "depth.bias"], ["c"], "depth", pads=[1] * 4, group=16),
        helper.make_node("Relu", ["c"], ["d"], "depth_relu"),
        helper.make_node("Conv", ["d", "point.weight", "point.bias"], ["e"], "point"),
        helper.make_node("Add", ["e", "b"], ["f"], "add"),
        helper.make_node("Relu", ["f"], ["g"], "add_relu"),
        helper.make_node("Conv", ["g", "down.weight", "down.bias"], ["h"], "down", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["h"], ["i"], "down_relu"),
        helper.make_node("GlobalAveragePool", ["i"], ["j"], "pool"),
        helper.make_node("Flatten", ["j"], ["k"], "flatten"),
        helper.make_node("Gemm", ["k", "head.weight", "head.bias"], ["y"], "head", transB=1),
    ]
    return _save(path, nodes, constants)


def chain_net(path: Path, seed: int) -> Path:
    """`residual_net` without its shortcut: every step but the sum of two branches."""
    model = onnx.load(str(residual_net(path, seed)))
    add = next(node for node in model.graph.node if node.op_type == "Add")
    model.graph.node.remove(add)
    next(node for node in model.graph.node if node.name == "add_relu").input[0] = add.input[0]
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def loud_net(path: Path) -> Path:
    """A float net whose int8 form needs more than 16 bits for two products: all weights of a kind, all inputs large."""
    rng = np.random.default_rng(3)
    signs = np.where(np.arange(16) % 2, 1.0, -1.0)[:, None, None, None]
    constants = {
        "loud.weight": (signs * rng.uniform(0.8, 1.0, (16, 3, 3, 3))).astype(np.float32),
        "loud.bias": np.zeros(16, np.float32),
        "head.weight": rng.uniform(-1, 1, (10, 16)).astype(np.float32),
        "head.bias": np.zeros(10, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "loud.weight", "loud.bias"], ["a"], "loud", pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], "pool"),
        helper.make_node("Flatten", ["b"], ["c"], "flatten"),
        helper.make_node("Gemm", ["c", "head.weight", "head.bias"], ["y"], "head", transB=1),
    ]
    return _save(path, nodes, constants)


def _save(path: Path, nodes: list[onnx.NodeProto], constants: Mapping[str, Array]) -> Path:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def int8_bundle(model: Path, samples: Array, profile_name: str, out: Path) -> Path:
    """The bundle of the float ``model`` in int8 for a profile, as the pipeline makes it; returns its folder."""
    from calibration.child import quantize_in_child
    from pipeline.bundling.assemble import assemble_bundle
    from pipeline.stages.bundle import GOLDEN_RTOL, GOLDEN_SAMPLES, golden_atol

    profile = load_profile(profile_name)
    scratch = out / "work"
    (scratch / "int8").mkdir(parents=True)
    np.savez(scratch / "samples.npz", x=samples)
    request = {
        "model": str(model), "samples": str(scratch / "samples.npz"), "scheme": profile.quantization.scheme,
        "method": "minmax", "threads": 1, "batch_size": 32, "out_folder": str(scratch / "int8"),
    }  # fmt: skip
    quantize_in_child(request)
    build = engine("onnxruntime").build(scratch / "int8/model.onnx", profile, scratch / "engine", precision="int8")
    golden = samples[:GOLDEN_SAMPLES]
    answers = infer(EmulatedDevice([sys.executable]), build.folder, golden, scratch, batch=1)
    assemble_bundle(
        out / "bundle",
        build_folder=build.folder,
        golden_inputs={"x": golden},
        golden_outputs=answers,
        rtol=GOLDEN_RTOL,
        atol={name: golden_atol(array, "int8") for name, array in answers.items()},
        manifest_fields={"name": "net", "target": profile_name, "precision": "int8"},
    )
    return out / "bundle"
