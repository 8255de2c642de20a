"""GPUs and NPUs by kernel files: results on them are bound to what is there and to what drives it."""

from __future__ import annotations

from pathlib import Path

from targets.ondevice.accelerators import accelerators

NVIDIA = {
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Feb 22\nGCC: 12\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA L4\nIRQ:   16\nGPU UUID: \t GPU-1\n",
}
JETSON = {
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
}
INTEL = {
    "sys/class/drm/card0/device/vendor": "0x8086\n",
    "sys/class/drm/card0/device/device": "0x46d1\n",
    "sys/class/accel/accel0/device/vendor": "0x8086\n",
    "sys/class/accel/accel0/device/device": "0x7d1d\n",
    "sys/class/drm/card1/device/vendor": "0x1234\n",
    "proc/sys/kernel/osrelease": "6.8.0\n",
}


def _tree(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(folder)


def test_each_kind_is_named_with_its_driver(tmp_path: Path) -> None:
    """Promise: the line holds GPU and driver of NVIDIA, board and release of a Jetson, devices and kernel of Intel."""
    found = accelerators(_tree(tmp_path / "n", NVIDIA))
    assert found == "NVRM version: NVIDIA UNIX x86_64 Kernel Module 550.54.14 Feb 22; NVIDIA L4"
    assert accelerators(_tree(tmp_path / "j", JETSON)).startswith("NVIDIA Jetson Orin Nano Developer Kit, # R36")
    assert accelerators(_tree(tmp_path / "i", INTEL)) == "Intel accel 0x7d1d, Intel drm 0x46d1, kernel 6.8.0"


def test_no_accelerator_is_an_empty_line(tmp_path: Path) -> None:
    """Promise: nothing is guessed where there is none, a virtual display among them, and garbage is no crash."""
    assert accelerators(_tree(tmp_path / "empty", {})) == ""
    display = {"sys/class/drm/card0/device/vendor": "0x1234", "proc/sys/kernel/osrelease": "6.8.0"}
    assert accelerators(_tree(tmp_path / "virtual", display)) == ""
    assert accelerators(_tree(tmp_path / "garbage", dict.fromkeys(NVIDIA, "\x01"))) == "\x01"


def test_another_gpu_or_driver_is_another_line(tmp_path: Path) -> None:
    """Promise: a swap of the GPU and an update of the driver are seen."""
    driver = {name: text.replace("550.54.14", "560.1") for name, text in NVIDIA.items()}
    gpu = {name: text.replace("NVIDIA L4", "NVIDIA T4") for name, text in NVIDIA.items()}
    lines = [accelerators(_tree(tmp_path / str(n), files)) for n, files in enumerate((NVIDIA, driver, gpu))]
    assert len(set(lines)) == 3
