"""x86-64 without VNNI: eight-bit weights saturate there and are caught; the seven-bit engine computes the same bits."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from targets.errors import DeviceError

pytestmark = pytest.mark.devices

SAMPLES = 48


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """Samples whose values all lie near the top of the quantised range, (48, 3, 16, 16)."""
    return np.random.default_rng(1).uniform(0.9, 1.0, (SAMPLES, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def loud(emulated: ModuleType, samples: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The net whose int8 products do not fit 16 bits in pairs, built for x86-64 with and without VNNI."""
    emulated.here()
    folder = tmp_path_factory.mktemp("loud")
    model = emulated.loud_net(folder / "net.onnx")
    return {name: emulated.int8_bundle(model, samples, name, folder / name) for name in ("x86-64-vnni", "x86-64-avx2")}


def test_the_mask_holds_in_the_device_program(emulated: ModuleType) -> None:
    """The device program runs under the mask, on the same runtime; a CPU that the mask does not know is refused."""
    masked, plain = emulated.without_vnni().facts(), emulated.here().facts()
    assert masked.runtime_version == plain.runtime_version
    assert masked.arch == plain.arch == "x86_64"
    with pytest.raises(DeviceError):
        emulated.without_vnni("no such CPU").facts()


def test_saturation_is_caught_by_verify(emulated: ModuleType, loud: dict[str, Path]) -> None:
    """A bundle built for VNNI verifies where there is VNNI, and nowhere else."""
    with emulated.here().session() as session:
        session.put(loud["x86-64-vnni"], "bundle")
        assert session.run(["verify", "bundle"], timeout_s=120).result["ok"] is True
    with emulated.without_vnni().session() as session:
        session.put(loud["x86-64-vnni"], "bundle")
        with pytest.raises(DeviceError, match="not what the bundle promises") as caught:
            session.run(["verify", "bundle"], timeout_s=120)
    assert "build for it" in caught.value.fix


def test_saturation_is_seen_by_a_measurement(
    emulated: ModuleType, loud: dict[str, Path], samples: np.ndarray, tmp_path: Path
) -> None:
    """A measurement that is given the expected outputs does not pass for one of the same engine."""
    expected = emulated.infer(emulated.here(), loud["x86-64-vnni"], samples[:4], tmp_path, batch=1)
    np.savez(tmp_path / "expected.npz", **{f"output.{name}": array for name, array in expected.items()})
    np.savez(tmp_path / "samples.npz", x=samples[:4])
    lengths = ["--warmup-s", "0.02", "--min-s", "0.02", "--min-iterations", "10"]
    command = ["measure", "bundle", "--samples", "samples.npz", "--expected", "expected.npz", *lengths]
    seen = {}
    for name, device in (("here", emulated.here()), ("without", emulated.without_vnni())):
        with device.session() as session:
            session.put(loud["x86-64-vnni"], "bundle")
            for file in ("samples.npz", "expected.npz"):
                session.put(tmp_path / file, file)
            seen[name] = session.run(command, timeout_s=120).result["outputs_ok"]
    assert seen == {"here": True, "without": False}


def test_saturation_is_large(emulated: ModuleType, loud: dict[str, Path], samples: np.ndarray, tmp_path: Path) -> None:
    """What differs is no rounding: outputs are off by a tenth of their range and more."""
    with_vnni = emulated.infer(emulated.here(), loud["x86-64-vnni"], samples, tmp_path)["y"]
    without = emulated.infer(emulated.without_vnni(), loud["x86-64-vnni"], samples, tmp_path)["y"]
    assert np.abs(with_vnni - without).max() > 0.1 * np.ptp(with_vnni)


def test_seven_bit_weights_compute_the_same_bits(
    emulated: ModuleType, loud: dict[str, Path], samples: np.ndarray, tmp_path: Path
) -> None:
    """The engine of the profile x86-64-avx2 gives the same bits with and without VNNI, and verifies on both."""
    bundle = loud["x86-64-avx2"]
    with_vnni = emulated.infer(emulated.here(), bundle, samples, tmp_path)
    without = emulated.infer(emulated.without_vnni(), bundle, samples, tmp_path)
    assert emulated.bits_different(with_vnni, without) == (SAMPLES * 10, 0)
    for device in (emulated.here(), emulated.without_vnni()):
        with device.session() as session:
            session.put(bundle, "bundle")
            assert session.run(["verify", "bundle"], timeout_s=120).result["ok"] is True


def test_a_residual_net_with_seven_bit_weights(emulated: ModuleType, tmp_path: Path) -> None:
    """A net with a shortcut and a depthwise convolution, weights of 7 bits: no bit differs without VNNI."""
    emulated.here()
    samples = np.random.default_rng(5).normal(size=(SAMPLES, 3, 16, 16)).astype(np.float32)
    model = emulated.residual_net(tmp_path / "net.onnx", 5)
    bundle = emulated.int8_bundle(model, samples, "x86-64-avx2", tmp_path / "built")
    one = emulated.infer(emulated.here(), bundle, samples, tmp_path)
    other = emulated.infer(emulated.without_vnni(), bundle, samples, tmp_path)
    assert emulated.bits_different(one, other) == (SAMPLES * 10, 0)
