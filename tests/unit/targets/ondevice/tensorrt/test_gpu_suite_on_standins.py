"""The tests that need a GPU, run on the stand-ins: they work, and so do building and running on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[5]


def test_the_gpu_suite_works(environment: dict[str, str], tmp_path: Path) -> None:
    """Where module and driver answer, the suite builds here, inspects, runs, measures, and writes rows to the page."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [environment["PYTHONPATH"], str(_ROOT), sysconfig.get_paths()["purelib"]]
    (tmp_path / "venv" / "lib" / version / "site-packages" / "standins.pth").write_text("\n".join(places) + "\n")
    page = tmp_path / "gpu.md"
    page.write_text((_ROOT / "docs" / "gpu.md").read_text(encoding="utf-8"), encoding="utf-8")
    settings = {**os.environ, "LD_LIBRARY_PATH": environment["LD_LIBRARY_PATH"], "EDGEPRESS_GPU_PAGE": str(page)}
    done = subprocess.run(
        [str(python), "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", "tests/gpu",
         "-k", "residual-int8 or delivered"],
        capture_output=True, check=False, timeout=250, env=settings, cwd=_ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode()
    assert re.search(r"\b2 passed, 2 skipped", done.stdout.decode()), done.stdout.decode()
    [row] = [line for line in page.read_text().splitlines() if "Stand-in Orin" in line]
    assert re.match(
        r"\| 20\d\d-\d\d-\d\d \| Stand-in Orin \(8\.7\), CUDA 12\.6 \| tensorrt 10\.3\.0 \| residual \|", row
    )
    assert row.endswith("| True |")
