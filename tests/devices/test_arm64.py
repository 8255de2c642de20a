"""int8 on arm64 computes what it computes on x86-64 with VNNI, bit for bit: the device program under qemu."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.devices

CPUS = ("cortex-a72", "cortex-a76", "i8mm")  # Armv8.0, with dot product, with 8-bit matrix product
SAMPLES = 96
Built = tuple[Path, np.ndarray]


def _built(emulated: ModuleType, folder: Path, net: str, seed: int, profile: str) -> Built:
    samples = np.random.default_rng(seed).normal(size=(SAMPLES, 3, 16, 16)).astype(np.float32)
    model = getattr(emulated, net)(folder / f"{net}-{seed}.onnx", seed)
    return emulated.int8_bundle(model, samples, profile, folder / f"{net}-{seed}-{profile}"), samples


@pytest.fixture(scope="module")
def chains(emulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Built]:
    """Bundles of nets without a sum of two branches: two for the Pi, one for x86-64 with VNNI; and their samples."""
    emulated.here()
    folder = tmp_path_factory.mktemp("chains")
    wanted = ((0, "raspberry-pi-5"), (1, "raspberry-pi-5"), (0, "x86-64-vnni"))
    return [_built(emulated, folder, "chain_net", seed, profile) for seed, profile in wanted]


@pytest.fixture(scope="module")
def residual(emulated: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A bundle of a net with a shortcut, for the Pi, and its samples."""
    emulated.here()
    return _built(emulated, tmp_path_factory.mktemp("residual"), "residual_net", 0, "raspberry-pi-5")


@pytest.mark.parametrize("cpu", CPUS)
def test_says_that_it_is_emulated_arm64(emulated: ModuleType, cpu: str) -> None:
    """The device program runs there, says aarch64 with this CPU's features, and that its times mean nothing."""
    facts = emulated.arm64(cpu).facts()
    assert facts.arch == "aarch64"
    assert facts.emulated is True
    assert facts.runtime_version
    features = set(facts.raw["isa"])
    assert "asimd" in features
    assert ("asimddp" in features) == (cpu != "cortex-a72")
    assert ("i8mm" in features) == (cpu == "i8mm")


@pytest.mark.parametrize("cpu", CPUS)
def test_computes_the_same_bits(emulated: ModuleType, chains: list[Built], cpu: str, tmp_path: Path) -> None:
    """Every output of every sample has the bits that x86-64 with VNNI computes: bundles of either profile."""
    for bundle, samples in chains:
        wanted = emulated.infer(emulated.here(), bundle, samples, tmp_path)
        got = emulated.infer(emulated.arm64(cpu), bundle, samples, tmp_path)
        assert emulated.bits_different(wanted, got) == (SAMPLES * 10, 0), bundle


@pytest.mark.parametrize("cpu", CPUS)
def test_a_sum_of_branches_differs_by_a_step_at_most(
    emulated: ModuleType, residual: Built, cpu: str, tmp_path: Path
) -> None:
    """Where onnxruntime adds two branches it rounds ties otherwise on arm64: few outputs, by no more than a step."""
    bundle, samples = residual
    wanted = emulated.infer(emulated.here(), bundle, samples, tmp_path)
    got = emulated.infer(emulated.arm64(cpu), bundle, samples, tmp_path)
    values, unlike = emulated.bits_different(wanted, got)
    assert unlike <= 0.01 * values
    step = np.diff(np.unique(wanted["y"])).min()  # outputs lie on a grid
    assert np.abs(wanted["y"] - got["y"]).max() <= 1.01 * step


@pytest.mark.parametrize(("profile", "cpu"), [("raspberry-pi-4", "cortex-a72"), ("raspberry-pi-5", "cortex-a76")])
def test_verifies_there(emulated: ModuleType, profile: str, cpu: str, tmp_path: Path) -> None:
    """A bundle that was made here for a Pi verifies on a CPU like that Pi's, hashes and golden outputs."""
    emulated.here()
    bundles = [_built(emulated, tmp_path, net, 0, profile)[0] for net in ("chain_net", "residual_net")]
    with emulated.arm64(cpu).session() as session:
        for index, bundle in enumerate(bundles):
            session.put(bundle, f"bundle{index}")
            assert session.run(["verify", f"bundle{index}"], timeout_s=300).result["ok"] is True


def test_the_comparison_sees_one_bit(emulated: ModuleType) -> None:
    """Two arrays that differ in one bit of one value are found to, a zero of the other sign included."""
    one = np.array([[0.0, 1.0, 2.0]], np.float32)
    for other in (np.nextafter(one, np.float32(9)), np.array([[-0.0, 1.0, 2.0]], np.float32)):
        assert emulated.bits_different({"y": one}, {"y": one}) == (3, 0)
        assert (
            emulated.bits_different({"y": one}, {"y": other})[1] == (one.view(np.int32) != other.view(np.int32)).sum()
        )


def test_the_cifar10_example(emulated: ModuleType, repository: Path) -> None:
    """The int8 engine of the CIFAR-10 example, on its own samples: no bit differs between arm64 and x86-64 VNNI."""
    bundle = os.environ.get("EDGEPRESS_CIFAR_BUNDLE")
    if not bundle:
        pytest.skip("SKIPPED: set EDGEPRESS_CIFAR_BUNDLE to the bundle of examples/cifar10 for raspberry-pi-5")
    emulated.part("arm64")
    emulated.here()
    script = repository / "benchmarks/arm64_parity.py"
    done = subprocess.run([sys.executable, str(script), bundle], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 values in 0 samples differ") == len(CPUS)
