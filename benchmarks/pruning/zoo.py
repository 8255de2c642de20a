"""The zoo of architectures, pruned by half: ours beside Torch-Pruning. ``zoo.py [--peer PYTHON]``.

PYTHON: the interpreter of an environment that ``peers.sh`` made. Right is a net that lost parameters, runs, and
computes what the large net computes when nothing reads the removed channels. ``--onnx``: ours in ONNX Runtime as well.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.exporting import export_onnx
from pipeline.graph import flat_outputs, trace
from pipeline.pruning import Decisions, PruningGraph, apply_decisions, find_groups, mask_decisions

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "unit" / "pipeline" / "pruning" / "zoo"))
import architectures

TOLERANCE = 1e-9
NOT_IN_ONNX = {"ProjectedLstm"}  # ONNX's LSTM has no projection: the large net does not run there either


def half(graph: PruningGraph) -> Decisions:
    """Any half of every group's units."""
    rng = np.random.default_rng(0)
    return graph.decide({group.name: rng.permutation(group.size)[: group.size // 2] for group in graph})


def ours(name: str, *, onnx: bool) -> dict[str, Any]:
    """What became of one architecture; an exception here is a fault of ours, and ends the benchmark."""
    gm = trace(architectures.build(name).double(), architectures.inputs(name, 2, dtype=torch.float64))
    decisions = half(find_groups(gm))
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    worst = 0.0
    for batch in (1, 3):
        test = list(architectures.inputs(name, batch, seed=3, dtype=torch.float64).values())
        for found, wanted in zip(flat_outputs(small(*test)), flat_outputs(masked(*test)), strict=True):
            worst = max(worst, float((found - wanted).norm() / wanted.norm().clamp(min=1e-12)))
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in gm.parameters())
    right = worst < TOLERANCE and share < 1
    row = {"outcome": "right" if right else "computes something else", "parameters": share, "error": worst}
    return row | ({"onnx_error": in_onnxruntime(name, decisions)} if onnx and name not in NOT_IN_ONNX else {})


def in_onnxruntime(name: str, decisions: Decisions) -> float:
    """Relative error of the exported small net against the masked one, both in single precision."""
    import onnxruntime

    gm = trace(architectures.build(name), architectures.inputs(name, 2))
    small, masked = apply_decisions(gm, decisions), mask_decisions(gm, decisions)
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(small, architectures.inputs(name, 2), Path(folder), opset=20)
        session = onnxruntime.InferenceSession(Path(folder) / "model.onnx", providers=["CPUExecutionProvider"])
    test = architectures.inputs(name, 3, seed=3)
    answers = session.run(None, {given.name: test[given.name].numpy() for given in session.get_inputs()})
    wanted = flat_outputs(masked(*test.values()))
    return max(
        float((torch.from_numpy(f) - w).norm() / w.norm().clamp(min=1e-12))
        for f, w in zip(answers, wanted, strict=True)
    )


def main() -> None:
    """Prints a line an architecture, and the two counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--onnx", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    peer: dict[str, dict[str, Any]] = {}
    if options.peer:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "peer.json"
            script = Path(__file__).with_name("peer_zoo.py")
            subprocess.run([str(options.peer), str(script), str(out)], check=True, stderr=subprocess.DEVNULL)
            peer = json.loads(out.read_text(encoding="utf-8"))
    found = {}
    for name in architectures.ZOO:
        row = found[name] = ours(name, onnx=options.onnx)
        beside = peer.get(name, {})
        in_onnx = f" onnx {row['onnx_error']:.1e}" if "onnx_error" in row else ""
        told = f" | {beside['outcome']} {beside.get('parameters', 1.0):.2f}" if beside else ""
        print(f"{name:16} {row['outcome']} {row['parameters']:.2f} error {row['error']:.1e}{in_onnx}{told}", flush=True)
    for who, rows in (("edgepress", found), ("torch-pruning", peer)):
        if rows:
            print(who, "of", len(rows), dict(Counter(row["outcome"] for row in rows.values())))


if __name__ == "__main__":
    main()
