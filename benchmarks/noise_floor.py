"""How often this machine sees a difference where there is none: the same engine twice, in several campaigns."""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.benchmarking.analysis import find_comparison
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from targets.devices import device
from targets.engines import engine
from targets.profile import load_profile

LAYERS = 6
CHANNELS = 32
NO_DIFFERENCE = {"same", "not shown"}


def main() -> None:
    """Prints ratio, interval and verdict of each campaign, and how many verdicts claim a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--campaigns", type=int, default=5)
    parser.add_argument("--budget-s", type=float, default=40.0)
    asked = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        entrants = twins(Path(folder))
        for seed in range(asked.campaigns):
            options = CampaignOptions(budget_s=asked.budget_s, seed=seed)
            found = run_campaign(entrants, device("local"), options, state=Path(folder, "state"))
            verdict = find_comparison(found, "second", "first")
            wrong += verdict["verdict"] not in NO_DIFFERENCE
            print(f"campaign {seed}: {line(found, verdict)}", flush=True)
    print(f"a difference was claimed in {wrong} of {asked.campaigns} campaigns of an engine against itself")


def line(found: dict[str, object], verdict: dict[str, object]) -> str:
    """One campaign, for people."""
    about, low_high, noise = found["campaign"], verdict["ci95"], found["noise"]
    assert isinstance(about, dict)
    assert isinstance(noise, dict)
    low, high = low_high if isinstance(low_high, list) else (math.nan, math.nan)
    floor = "unknown" if noise["floor_pct"] is None else f"{noise['floor_pct']:.1f} %"
    return (
        f"ratio {verdict['ratio']:.4f} [{low:.4f}, {high:.4f}], noise floor {floor}, {about['blocks']} blocks, "
        f"{about['repeated']['sentinel']} repeated, stop {about['stop']}, grade {grade(found)}: {verdict['verdict']}"
    )


def grade(found: dict[str, object]) -> str:
    """The campaign's quality grade."""
    quality = found["quality"]
    assert isinstance(quality, dict)
    return str(quality["grade"])


def twins(folder: Path) -> list[Entrant]:
    """One engine of some milliseconds under two names."""
    rng = np.random.default_rng(0)
    built = engine("onnxruntime").build(
        model(folder / "model.onnx", rng), load_profile("host"), folder / "engine", precision="fp32"
    )
    samples = folder / "samples.npz"
    np.savez(samples, x=rng.normal(size=(32, 3, 64, 64)).astype(np.float32))
    return [Entrant(name=name, folder=built.folder, samples=samples) for name in ("first", "second")]


def model(path: Path, rng: np.random.Generator) -> Path:
    """Convolutions of 32 channels on 64 x 64, then their mean."""
    nodes, constants, before = [], [], "x"
    for i in range(LAYERS):
        inputs = 3 if i == 0 else CHANNELS
        weights = (rng.normal(size=(CHANNELS, inputs, 3, 3)) / math.sqrt(9 * inputs)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{i}"))
        nodes.append(helper.make_node("Conv", [before, f"w{i}"], [f"c{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        before = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [before], ["y"]))
    graph = helper.make_graph(
        nodes,
        "noise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", CHANNELS, 1, 1])],
        constants,
    )
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    onnx.checker.check_model(built, full_check=True)
    onnx.save(built, str(path))
    return path


if __name__ == "__main__":
    main()
