"""ResNet-20 on CIFAR-10 at a measured twofold speed-up: latency-aware pruning beside torch-pruning.

    python benchmarks/pruning/resnet20.py --data FOLDER --peer FOLDER/torch-pruning/bin/python --out FOLDER

``--data`` holds ``cifar10.npz`` and ``cifar10_resnet20_jpeg.safetensors`` (see examples/cifar10), ``--peer`` is the
environment that ``peers.sh`` makes. Every step leaves a file in ``--out`` and is not done twice. Both tools start from
the same weights, are brought to the same measured latency (ONNX Runtime, float, one thread, all engines interleaved),
and are fine-tuned by the same loop on the same images from the same teacher. torch-pruning cuts inner channels only:
with the padded shortcuts in, the nets it makes do not run. Its criterion is chosen on the validation split (training
images that are not trained on), and so is ours; the test split is read once, at the end.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "cifar10"))
import model as cifar

from pipeline.benchmarking.analysis import find_comparison
from pipeline.benchmarking.campaign import CampaignOptions, Entrant, run_campaign
from pipeline.data import Split
from pipeline.graph import trace
from pipeline.latency.design import design
from pipeline.latency.knapsack import Problem, solve, values_of
from pipeline.latency.layers import anatomy
from pipeline.latency.measure import measure_nets
from pipeline.latency.model import fit as fit_model
from pipeline.latency.model import held_out_errors, model_from_json, model_to_json
from pipeline.latency.nets import NetBuilder
from pipeline.pruning import (
    Evidence,
    all_criteria,
    apply_decisions,
    find_groups,
    normalized,
    prunable_groups,
    remove_lowest,
    width_choices,
)
from pipeline.training import TrainConfig, fit, predict
from targets.devices import device
from targets.profile import load_profile

TARGET = 0.5
SEEDS = (0, 1, 2)
TRAIN, HELD = 10_000, 5_000
CRITERIA = ("second_order",)
PEER_CRITERIA = ("l2", "taylor", "bn_scale")
TEMPERATURE, ALPHA = 4.0, 0.3
EXAMPLE = {"image": torch.zeros(2, 3, 32, 32)}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def main() -> None:
    """Runs what is not done yet, and prints the table."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.data, args.peer, args.out, args.epochs)
    table = bench.table()
    ours = bench.best("ours", [bench.ours(table, name) for name in CRITERIA])
    peer = bench.best("torch-pruning", [bench.peer(table, name) for name in PEER_CRITERIA])
    print(json.dumps({"ours": ours, "torch-pruning": peer}))
    speed = bench.speed({"ours": ours, "torch-pruning": peer})
    tested = {
        name: [bench.trained(name, chosen, seed, "test") for seed in SEEDS]
        for name, chosen in (("ours", ours), ("torch-pruning", peer))
    }
    dense = bench.dense_accuracy()
    differences = 100 * (np.array(tested["ours"]) - np.array(tested["torch-pruning"]))
    print(
        json.dumps(
            {
                "dense": dense,
                **tested,
                "points": differences.tolist(),
                "mean_points": differences.mean(),
                "speed": speed,
            },
            indent=1,
        )
    )


class Bench:
    """The steps, each kept as a file."""

    def __init__(self, data: Path, peer: Path, out: Path, epochs: int) -> None:
        self.data, self.peer_python, self.out, self.epochs = data, peer, out, epochs
        self.profile = load_profile("host").choices()[""]
        self.dense = cifar.resnet20()
        self.dense.load_state_dict(load_file(data / "cifar10_resnet20_jpeg.safetensors"))
        self.graph = trace(self.dense.eval(), EXAMPLE)
        self.groups = find_groups(self.graph)
        self._splits: dict[str, Split] = {}

    def split(self, name: str) -> Split:
        """``train`` (with the teacher's logits beside the label), ``validation`` or ``test``."""
        if name not in self._splits:
            self._splits[name] = self._load(name)
        return self._splits[name]

    def _load(self, name: str) -> Split:
        path = self.out / f"{name}.npz"
        if not path.exists():
            with np.load(self.data / "cifar10.npz", allow_pickle=False) as archive:
                jpeg, offsets, labels, split = (archive[key] for key in ("jpeg", "offsets", "label", "split"))
            train, test = np.flatnonzero(split == 0), np.flatnonzero(split == 1)
            rows = {"train": train[:TRAIN], "validation": train[-HELD:], "test": test}[name]
            x = np.stack([_decode(jpeg, offsets, row) for row in rows])
            y = labels[rows].astype(np.float32)[:, None]
            if name == "train":
                (logits,) = predict(self.graph, Split(inputs={"image": x}, labels=None), threads=1)
                y = np.concatenate([y, logits.astype(np.float32)], axis=1)
            np.savez(path, x=x.astype(np.float16), y=y)
        with np.load(path) as stored:
            return Split(inputs={"image": stored["x"].astype(np.float32)}, labels=stored["y"])

    def dense_accuracy(self) -> float:
        """Of the dense net on the test split."""
        return accuracy(self.graph, self.split("test"))

    def builder(self, scratch: Path) -> NetBuilder:
        """Makes float engines."""
        scratch.mkdir(parents=True, exist_ok=True)
        return NetBuilder(
            gm=self.graph, graph=self.groups, example={"image": EXAMPLE["image"][:1]},
            samples={"image": self.split("validation").inputs["image"][:16]},
            profile=self.profile, precision="fp32", opset=20, scratch=scratch,
        )  # fmt: skip

    def table(self) -> Any:  # noqa: ANN401
        """The latency model, measured once."""
        path = self.out / "table.json"
        if not path.exists():
            begin, cpu = time.monotonic(), time.process_time()
            choices = {
                g.name: width_choices(g, self.profile.pruning.channel_alignment) for g in prunable_groups(self.groups)
            }
            shape, nets = anatomy(self.graph, self.groups, choices), design(choices, 12, seed=0)
            builder = self.builder(self.out / f"table-{time.time_ns()}")
            engines = builder.build_all(nets, lambda _i: None)
            with device("local").session() as session:
                times, kinds = measure_nets(
                    session, engines, nets, builder.samples_npz, affinity="default", seed=0, on_done=lambda _d, _n: None
                )
            held = np.abs(held_out_errors(shape, times, kinds))
            document = {
                "model": model_to_json(fit_model(shape, times, kinds)), "wall_s": time.monotonic() - begin,
                "cpu_s": time.process_time() - cpu, "held_out_mean": held.mean(), "held_out_worst": held.max(),
            }  # fmt: skip
            write(path, document)
        document = json.loads(path.read_text())
        print({key: value for key, value in document.items() if key != "model"}, flush=True)
        return model_from_json(document["model"])

    def latency_ratio(self, gm: torch.fx.GraphModule, key: str) -> float:
        """Measured latency over the dense net's, interleaved in one campaign."""
        return float(self.campaign({key: gm})[key]["ratio"])

    def campaign(self, nets: dict[str, torch.fx.GraphModule]) -> dict[str, dict[str, Any]]:
        """Latency of each net, and its ratio to the dense net with the 95 % interval."""
        builder = self.builder(self.out / f"campaign-{time.time_ns()}")
        folders = {"dense": builder.build_graph(self.graph, "dense")}
        folders |= {name: builder.build_graph(gm, f"net{index}") for index, (name, gm) in enumerate(nets.items())}
        entrants = [Entrant(name=name, folder=folder, samples=builder.samples_npz) for name, folder in folders.items()]
        found = run_campaign(entrants, device("local"), CampaignOptions(budget_s=12.0 * len(entrants)))
        compared = {name: find_comparison(found, name, "dense") for name in nets}
        return {
            name: {
                "latency_ms": found["results"][name]["latency_ms"]["value"],
                "dense_ms": found["results"]["dense"]["latency_ms"]["value"],
                "ratio": compared[name]["ratio"],
                "ci95": compared[name]["ci95"],
            }
            for name in nets
        }

    def ours(self, model: Any, criterion: str) -> dict[str, Any]:  # noqa: ANN401
        """Widths by the knapsack, corrected by up to three measurements."""
        path = self.out / f"ours-{criterion}.json"
        if path.exists():
            return json.loads(path.read_text())
        train = self.split("train")
        few = train.take(np.random.default_rng(0).permutation(len(train))[:256])
        evidence = Evidence(samples=few, loss=hard_loss)
        scores = all_criteria()[criterion].score(self.graph, self.groups.groups, evidence)
        problem = Problem(
            choices=model.anatomy.choices, values=values_of(model.anatomy.choices, normalized(scores, "none")),
            meetings=[layer.groups for layer in model.anatomy.layers], cost=model.predict_ms,
        )  # fmt: skip
        whole, correction, rounds = model.predict_ms(model.anatomy.whole), 1.0, []
        for _ in range(3):
            widths = solve(problem, TARGET * whole / correction)
            assert widths is not None
            decisions = remove_lowest(self.groups, scores, widths)
            measured = self.latency_ratio(apply_decisions(self.graph, decisions), "ours")
            predicted = correction * model.predict_ms(widths) / whole
            rounds.append({"widths": widths, "predicted": predicted, "measured": measured})
            print(criterion, rounds[-1], flush=True)
            if abs(measured / TARGET - 1) <= 0.025:
                break
            correction *= measured / predicted
        best = min(rounds, key=lambda item: abs(item["measured"] / TARGET - 1))
        decisions = remove_lowest(self.groups, scores, best["widths"])
        found = {"kind": "ours", "criterion": criterion, "decisions": decisions.to_json(), **best, "rounds": rounds}
        write(path, found)
        return found

    def peer(self, model: Any, criterion: str) -> dict[str, Any] | None:  # noqa: ANN401
        """torch-pruning at the least ratio whose net is as fast: local, inner channels only."""
        path = self.out / f"peer-{criterion}.json"
        if path.exists():
            return json.loads(path.read_text())
        whole, best = model.predict_ms(model.anatomy.whole), None
        low, high = 0.65, 0.85
        for _ in range(4):
            ratio = (low + high) / 2
            net = self.peer_net(criterion, ratio)
            measured = self.peer_ratio(net)
            print("torch-pruning", criterion, ratio, measured, flush=True)
            if best is None or abs(measured / TARGET - 1) < abs(best["measured"] / TARGET - 1):
                best = {
                    "kind": "torch-pruning",
                    "criterion": criterion,
                    "ratio": ratio,
                    "measured": measured,
                    "weights": str(net),
                }
            if abs(measured / TARGET - 1) <= 0.03:
                break
            low, high = (ratio, high) if measured > TARGET else (low, ratio)
        del whole
        write(path, best)
        return best

    def peer_net(self, criterion: str, ratio: float) -> Path:
        """Weights of the net that torch-pruning makes."""
        path = self.out / f"peer-{criterion}-{ratio:.4f}.safetensors"
        if not path.exists():
            few = self.split("train").take(np.random.default_rng(0).permutation(TRAIN)[:256])
            assert few.labels is not None
            images = self.out / "peer-samples.safetensors"
            save_file(
                {"x": torch.from_numpy(few.inputs["image"]), "y": torch.from_numpy(few.labels[:, 0]).long()}, images
            )
            subprocess.run(
                [
                    self.peer_python,
                    Path(__file__).with_name("peer_resnet20.py"),
                    self.data / "cifar10_resnet20_jpeg.safetensors",
                    images,
                    criterion,
                    str(ratio),
                    path,
                ],
                check=True,
            )
        return path

    def peer_ratio(self, weights: Path) -> float:
        """Measured; nets of one shape are measured once, whichever channels they keep."""
        shapes = [list(value.shape) for name, value in sorted(load_file(weights).items()) if "conv" in name]
        known = self.out / "peer-latencies.json"
        found = json.loads(known.read_text()) if known.exists() else {}
        key = json.dumps(shapes)
        if key not in found:
            found[key] = self.latency_ratio(self.peer_graph(weights), "torch-pruning")
            write(known, found)
        return float(found[key])

    def peer_graph(self, weights: Path) -> torch.fx.GraphModule:
        """The peer's net, traced."""
        return trace(inner_resnet20(load_file(weights)).eval(), EXAMPLE)

    def net(self, chosen: dict[str, Any]) -> torch.fx.GraphModule:
        """The pruned, untrained net of either tool."""
        from pipeline.pruning import Decisions

        if chosen["kind"] == "ours":
            return apply_decisions(self.graph, Decisions.from_json(chosen["decisions"]))
        return self.peer_graph(Path(chosen["weights"]))

    def trained(self, name: str, chosen: dict[str, Any], seed: int, split: str) -> float:
        """Accuracy after the equal fine-tuning."""
        path = self.out / f"trained-{name}-{chosen['criterion']}-{seed}.safetensors"
        result = self.out / f"score-{name}-{chosen['criterion']}-{seed}-{split}.json"
        if result.exists():
            return float(json.loads(result.read_text())["accuracy"])
        gm = self.net(chosen)
        if path.exists():
            gm.load_state_dict(load_file(path))
        else:
            begin = time.process_time()
            config = TrainConfig(
                epochs=self.epochs,
                batch_size=128,
                optimizer="sgd",
                learning_rate=0.05,
                weight_decay=5e-4,
                seed=seed,
                threads=1,
            )
            fit(
                gm,
                self.split("train"),
                distillation_loss,
                config,
                validate=lambda _gm: 0.0,
                on_epoch=lambda r: print(name, chosen["criterion"], seed, r, time.process_time() - begin, flush=True),
            )
            save_file({key: value.contiguous() for key, value in gm.state_dict().items()}, path)
        found = accuracy(gm, self.split(split))
        write(result, {"accuracy": found})
        return found

    def best(self, name: str, every: list[dict[str, Any] | None]) -> dict[str, Any]:
        """The net that is best on the validation split after fine-tuning with the first seed."""
        scores = [(self.trained(name, chosen, SEEDS[0], "validation"), chosen) for chosen in every if chosen]
        print(name, [(score, chosen["criterion"]) for score, chosen in scores], flush=True)
        return max(scores, key=lambda pair: pair[0])[1]

    def speed(self, chosen: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Both nets and the dense one in one campaign."""
        path = self.out / "speed.json"
        if not path.exists():
            write(path, self.campaign({name: self.net(item) for name, item in chosen.items()}))
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def inner_resnet20(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A ResNet-20 whose blocks have the inner widths of these weights."""
    net = cifar.resnet20()
    for name, block in net.named_modules():
        if isinstance(block, cifar.BasicBlock):
            width = weights[f"{name}.conv1.weight"].shape[0]
            first, second = block.conv1, block.conv2
            block.conv1 = torch.nn.Conv2d(first.in_channels, width, 3, first.stride, 1, bias=False)
            block.bn1 = torch.nn.BatchNorm2d(width)
            block.conv2 = torch.nn.Conv2d(width, second.out_channels, 3, 1, 1, bias=False)
    net.load_state_dict(weights)
    return net


def hard_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
    """Cross-entropy with the labels."""
    return torch.nn.functional.cross_entropy(outputs[0], labels[:, 0].long())


def distillation_loss(_inputs: Any, labels: torch.Tensor, outputs: Any) -> torch.Tensor:  # noqa: ANN401
    """Labels and the dense net's logits, as Hinton et al., arXiv 1503.02531."""
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(outputs[0] / TEMPERATURE, 1), torch.log_softmax(labels[:, 1:] / TEMPERATURE, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    return ALPHA * hard_loss(outputs, labels) + (1 - ALPHA) * TEMPERATURE**2 * soft


def accuracy(gm: torch.fx.GraphModule, split: Split) -> float:
    """Top-1."""
    (logits,) = predict(gm, split, threads=1)
    assert split.labels is not None
    return float((logits.argmax(1) == split.labels[:, 0]).mean())


def _decode(jpeg: np.ndarray, offsets: np.ndarray, row: int) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg[offsets[row] : offsets[row + 1]].tobytes())) as image:
        pixels = np.asarray(image, dtype=np.float32) / 255.0
    return np.ascontiguousarray(((pixels - MEAN) / STD).transpose(2, 0, 1))


def write(path: Path, document: object) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1, default=float))
    temporary.replace(path)


if __name__ == "__main__":
    main()
