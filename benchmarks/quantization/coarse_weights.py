"""What coarse weights (one scale a tensor, or 4 bits) lose, and how much of it learning gives back.

    coarse_weights.py NET... [--samples 512] [--test-samples 2000] [--steps 600] [--rate 0.005]

NET is a folder as for `compare.py`. Each row: output SNR, agreement with the float model and top-1 on the test samples;
the share given back is of the loss against 8 bits with a scale a channel, in agreement and in noise amplitude.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import torch
from compare import first, read

from calibration.collect import collect
from calibration.fidelity import Fidelity, Judge
from calibration.qat import DistillationSettings, QuantizedStudent
from calibration.qdq import quantize_model
from calibration.rounding import learn_rounding
from calibration.samples import CalibrationSet
from pipeline.data import Split
from pipeline.training import TrainConfig, predict
from pipeline.training.quantized import train_quantized
from targets.scheme import scheme

FINE = scheme("ort-x86")
COARSE = {
    "one scale a tensor": replace(FINE, per_channel_weights=False),
    "4 bits": replace(FINE, weight_bits=4),  # type: ignore[arg-type]
}
METHOD = "percentile"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One net: samples that may be seen, samples that choose the best step, and the judge on test samples."""

    net: Path
    seen: CalibrationSet
    held: CalibrationSet
    judge: Judge
    folder: Path
    steps: int
    rate: float

    def rows(self) -> None:
        """Prints all rows."""
        table = collect(self.net / "model.onnx", self.seen, threads=1)
        fine = self.folder / "fine.onnx"
        quantize_model(self.net / "model.onnx", table, FINE, METHOD, fine)
        goal = self.say("8 bits, a scale a channel", fine, 0.0)
        for name, coarse in COARSE.items():
            plain = self.folder / "coarse.onnx"
            quantize_model(self.net / "model.onnx", table, coarse, METHOD, plain)
            lost = self.say(name, plain, 0.0)
            for title, (path, seconds) in self.learned(plain).items():
                found = self.say(f"{name}, {title}", path, seconds)
                print(f"    given back: {given_back(goal, lost, found)}", flush=True)

    def learned(self, plain: Path) -> dict[str, tuple[Path, float]]:
        """Learned rounding, and training on top of it, with the seconds they took."""
        model, rounded, trained = self.net / "model.onnx", plain.with_name("r.onnx"), plain.with_name("t.onnx")
        begin = time.monotonic()
        learn_rounding(model, plain, self.seen, rounded, threads=1, learn_biases=True, learn_scales=True)
        middle = time.monotonic()
        config = TrainConfig(
            epochs=max(1, round(self.steps * 32 / len(self.seen))), batch_size=32, optimizer="adam",
            learning_rate=self.rate, weight_decay=0.0, seed=0, threads=1, keep="best",
        )  # fmt: skip
        seen = Split(inputs=self.seen.rows(0, len(self.seen)), labels=None)
        settings = DistillationSettings()
        train_quantized(model, rounded, seen, trained, config, settings, scale_ratio=0.2, score=self.score)
        return {
            "learned rounding": (rounded, middle - begin),
            "learned rounding and training": (trained, time.monotonic() - begin),
        }

    def score(self, student: QuantizedStudent) -> float:
        """Output SNR on the held-back samples, in amplitude; chooses the epoch."""
        held = Split(inputs=self.held.rows(0, len(self.held)), labels=None).bound(student.inputs)
        tensors = {name: torch.from_numpy(array) for name, array in held.inputs.items()}
        exact = student.exact(tensors)[0].numpy()
        noise = predict(student, held, threads=1)[0] - exact
        return float(np.sqrt(np.square(exact).sum() / np.square(noise).sum()))

    def say(self, name: str, path: Path, seconds: float) -> Fidelity:
        """One row."""
        found = self.judge(path)
        print(
            f"{self.net.name}: {name}: {found.snr_db:.2f} dB, agreement {found.agreement:.4f}, "
            f"top-1 {found.accuracy:.4f}, {seconds:.0f} s",
            flush=True,
        )
        return found


def given_back(goal: Fidelity, lost: Fidelity, found: Fidelity) -> str:
    """Shares of the loss, in agreement and in amplitude of the noise."""
    assert goal.agreement is not None
    assert lost.agreement is not None
    assert found.agreement is not None
    gap = goal.agreement - lost.agreement
    agreement = f"{100 * (found.agreement - lost.agreement) / gap:.0f} %" if gap > 0 else "nothing was lost"
    noise = [10 ** (-one.snr_db / 20) for one in (goal, lost, found)]
    return f"agreement {agreement}, noise amplitude {100 * (noise[1] - noise[2]) / (noise[1] - noise[0]):.0f} %"


def main() -> None:
    """Prints the rows of each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--test-samples", type=int, default=2_000)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rate", type=float, default=0.005)
    asked = parser.parse_args()
    for net in asked.nets:
        samples = CalibrationSet(first(read(net / "calibration.npz"), asked.samples, spread=True), batch_size=32)
        test = first(read(net / "test.npz"), asked.test_samples)
        labels = np.asarray(test.pop("labels"))
        seen, held = samples.split(5)
        judge = Judge(net / "model.onnx", CalibrationSet(test, batch_size=100), labels=labels, threads=1)
        with tempfile.TemporaryDirectory() as folder:
            Bench(
                net=net, seen=seen, held=held, judge=judge, folder=Path(folder), steps=asked.steps, rate=asked.rate
            ).rows()


if __name__ == "__main__":
    main()
