"""Engines of this project and peers' files on both runtimes: batch 1, 224 x 224, one thread, all in one run.

    compare.py [--nets resnet18 mobilenetv2] [--peers PYTHON] [--rounds 60] [--goals]

Rows: ONNX Runtime on the float file (what all ratios are against); the engines that this project builds (float and int8
on ONNX Runtime and OpenVINO, in the dialects of this machine's profile); and with --peers, the Python of an environment
that has NNCF and ONNX Runtime (see ``benchmarks/quantization/peers.sh``), the files that quantize_static and NNCF make
of the same float model and samples, each on both runtimes with the runtime's own settings for one thread. Weights are
random behind batch normalisation that has seen data; calibration is the same for all. Models take turns in shuffled
rounds; a round's figure is the best of five, and ratios are of figures of the same round.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from calibration.child import quantize_in_child
from targets.engines import engine
from targets.ondevice.openvino_module import import_openvino
from targets.ondevice.runner import open_runner
from targets.ondevice.session import import_runtime, read_spec
from targets.options import EngineOptions, OnnxRuntimeOptions, OpenVinoOptions, Precision
from targets.profile import load_profile

if TYPE_CHECKING:
    from numpy.typing import NDArray

HERE = Path(__file__).parent
PEER = HERE.parent / "quantization" / "peer.py"
WRITERS = {
    "resnet18": (HERE, "import resnet as net; net.write_resnet"),
    "mobilenetv2": (HERE.parent / "calibration", "import mobilenet as net; net.write_mobilenet"),
}
GOALS = {"resnet18": 3.5, "mobilenetv2": 2.3}
OF_THE_FASTEST_PEER = 0.97
PEER_METHODS = {"quantize_static": "ort-minmax", "NNCF": "nncf"}
ENGINES: tuple[EngineOptions, ...] = (OnnxRuntimeOptions(name="onnxruntime"), OpenVinoOptions(name="openvino"))
# NNCF reports its use to its makers; without that package it has nothing to do it with.
QUIET = """
import runpy, sys
sys.modules["openvino_telemetry"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BASE = "onnxruntime, float file"
BEST_OF = 5
Call = Callable[[], object]


class Row(NamedTuple):
    """Something to run.

    Attributes:
        call: One inference.
        ours: Whether this project built it.
        int8: Whether it is quantised.
    """

    call: Call
    ours: bool
    int8: bool


def main() -> None:
    """Prints one table a net; with --goals, ends with 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=[*WRITERS], choices=[*WRITERS])
    parser.add_argument("--peers", type=Path, help="Python of an environment with NNCF and onnxruntime")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--samples", type=int, default=32, help="to calibrate with")
    parser.add_argument("--cpu", type=int, help="run on this CPU only")
    parser.add_argument("--goals", action="store_true", help="end with 1 where a goal is missed")
    asked = parser.parse_args()
    if asked.cpu is not None:
        os.sched_setaffinity(0, {asked.cpu})
    met = []
    for net in asked.nets:
        with tempfile.TemporaryDirectory() as folder:
            met.append(compare(net, Path(folder), asked))
    if asked.goals and not all(met):
        sys.exit(1)


def compare(net: str, folder: Path, asked: argparse.Namespace) -> bool:
    """Makes all files of one net, measures them, prints; whether the goals are met."""
    model, samples = folder / "model.onnx", folder / "samples.npz"
    where, writer = WRITERS[net]
    code = f"{writer}(__import__('pathlib').Path({str(model)!r}))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=where, stderr=subprocess.DEVNULL)
    random = np.random.default_rng(0)
    np.savez(samples, x=random.standard_normal((asked.samples, 3, 224, 224), dtype=np.float32))
    feed = random.standard_normal((1, 3, 224, 224), dtype=np.float32)
    rows = {BASE: Row(on_onnxruntime(model, feed), ours=False, int8=False)}
    for options in ENGINES:
        name, scheme = options.name, scheme_here(options.name)
        rows[f"edgepress: {name} fp32"] = Row(built(model, options, "fp32", folder, feed), ours=True, int8=False)
        quantised = quantise(model, samples, scheme, folder)
        rows[f"edgepress: {name} int8"] = Row(built(quantised, options, "int8", folder, feed), ours=True, int8=True)
    if asked.peers is not None:
        rows["openvino, float file"] = Row(on_openvino(model, feed), ours=False, int8=False)
        for name, file in peer_files(model, samples, asked.peers, folder).items():
            for runtime, opened in (("onnxruntime", on_onnxruntime), ("openvino", on_openvino)):
                try:
                    rows[f"{runtime}, {name}"] = Row(opened(file, feed), ours=False, int8=True)
                except RuntimeError as error:  # OpenVINO refuses some files of quantize_static on CPUs with AMX
                    print(
                        f"{runtime} does not open the file of {name}: {(str(error).strip().splitlines() or [''])[-1]}"
                    )
    return show(net, rows, measure({name: row.call for name, row in rows.items()}, asked.rounds))


def scheme_here(name: str) -> str:
    """The dialect that the profile of this machine has for an engine."""
    host = load_profile("host")
    found = {each.engine.name: each.quantization.scheme for each in (host, *reversed(host.alternatives))}
    return found[name]


def vnni() -> bool:
    """Whether this CPU adds products of eight bits in 32."""
    return any("vnni" in feature for feature in load_profile("host").hardware.isa)


def quantise(model: Path, samples: Path, scheme: str, folder: Path) -> Path:
    """The Q/DQ file of one scheme."""
    (out := folder / scheme).mkdir(exist_ok=True)
    quantize_in_child(
        {
            "model": str(model),
            "samples": str(samples),
            "scheme": scheme,
            "method": "minmax",
            "algorithms": [],
            "threads": 1,
            "batch_size": 8,
            "out_folder": str(out),
        }
    )
    return out / "model.onnx"


def built(model: Path, options: EngineOptions, precision: Precision, folder: Path, feed: NDArray[Any]) -> Call:
    """One inference of the engine that this project builds, opened as a device opens it."""
    out = folder / f"{options.name}-{precision}"
    profile = load_profile("host").model_copy(update={"engine": options, "alternatives": ()})
    engine(options.name).build(model, profile, out, precision=precision)
    spec = read_spec(out)
    runner = open_runner(out, spec)
    given = {spec["inputs"][0]["name"]: feed}
    bound = runner.bind([given], runner.run(given))
    return lambda: bound.call(0)


def peer_files(model: Path, samples: Path, python: Path, folder: Path) -> dict[str, Path]:
    """What the peers make; one that fails is said and left out."""
    found = {}
    for name, method in PEER_METHODS.items():
        out = folder / f"{method}.onnx"
        command = [str(python), "-c", QUIET, str(PEER), method, str(model), str(samples), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            print(f"{name} failed: {(done.stderr.strip().splitlines() or ['without a word'])[-1][:200]}")
            continue
        found[name] = out
    return found


def on_onnxruntime(file: Path, feed: NDArray[Any]) -> Call:
    """The runtime's own session, fully optimised, with bound memory."""
    runtime = import_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, feed)
    binding.bind_output(session.get_outputs()[0].name)
    return lambda: session.run_with_iobinding(binding)


def on_openvino(file: Path, feed: NDArray[Any]) -> Call:
    """The runtime's own request, compiled for this shape, its settings for latency."""
    runtime = import_openvino()
    core = runtime.Core()
    model = core.read_model(str(file))
    model.reshape(list(feed.shape))
    compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1})
    request = compiled.create_infer_request()
    request.set_input_tensor(runtime.Tensor(feed, shared_memory=True))
    return lambda: request.infer(share_outputs=True)


def measure(calls: dict[str, Call], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Seconds of one inference in each round, all in turn."""
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(BEST_OF):
            call()
    for _ in range(rounds):
        for name in random.permutation([*calls]).tolist():
            call, best = calls[name], float("inf")
            call()
            for _ in range(BEST_OF):
                begin = time.perf_counter()
                call()
                best = min(best, time.perf_counter() - begin)
            found[name].append(best)
    return {name: np.array(values) for name, values in found.items()}


def show(net: str, rows: dict[str, Row], times: dict[str, NDArray[np.float64]]) -> bool:
    """The table and the verdict."""
    print(f"\n{net}, 224 x 224, batch 1, one thread, {len(times[BASE])} rounds\n")
    print("| | ms | times as fast as onnxruntime fp32 (quartiles) |")
    print("|---|---:|---:|")
    faster = {name: float(np.median(times[BASE] / values)) for name, values in times.items()}
    for name in sorted(times, key=lambda name: faster[name]):
        low, high = np.quantile(times[BASE] / times[name], [0.25, 0.75])
        print(f"| {name} | {1e3 * np.median(times[name]):.2f} | {faster[name]:.2f} ({low:.2f} to {high:.2f}) |")
    chosen = max((name for name in rows if rows[name].ours), key=lambda name: faster[name])
    met = faster[chosen] >= GOALS[net] or not vnni()
    told = "met" if faster[chosen] >= GOALS[net] else "MISSED" if vnni() else "of CPUs with VNNI, which this is not"
    print(f"\nchosen: {chosen}; {faster[chosen]:.2f} times, goal {GOALS[net]}: {told}")
    peers = [name for name in rows if rows[name].int8 and not rows[name].ours]
    if peers:
        fastest = max(peers, key=lambda name: faster[name])
        share = float(np.median(times[fastest] / times[chosen]))
        verdict = "met" if share >= OF_THE_FASTEST_PEER else "MISSED"
        print(f"of the speed of the fastest peer ({fastest}): {share:.3f}, goal {OF_THE_FASTEST_PEER}: {verdict}")
        met = met and share >= OF_THE_FASTEST_PEER
    return met


if __name__ == "__main__":
    main()
