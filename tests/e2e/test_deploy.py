"""What examples/deploy shows works with a real bundle."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, imported; what it puts on the path is taken off again."""
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    spec = importlib.util.spec_from_file_location("deploy_service", DEPLOY / "service.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def ask(url: str, document: object) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=json.dumps(document).encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_the_service_gives_the_golden_answers(service: ModuleType, result: Any) -> None:  # noqa: ANN401
    """Promise: the stub serves a bundle's engine as it is, and answers nonsense with 400."""
    bundle = result.folder / "bundle"
    golden = np.load(bundle / "golden.npz")
    with ThreadPoolExecutor(1) as elsewhere:  # the runtime flushes subnormals for the thread that opens it
        engine = elsewhere.submit(service.Engine, bundle).result()
    names = [item["name"] for item in engine.spec["inputs"]]
    inputs = {name: next(golden[key] for key in golden.files if key.endswith(name)) for name in names}
    with service.server(engine, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            base = f"http://127.0.0.1:{serving.server_port}"
            status, answer = ask(f"{base}/infer", {name: array.tolist() for name, array in inputs.items()})
            assert status == 200
            name = engine.spec["outputs"][0]["name"]
            wanted = next(golden[key] for key in golden.files if key.endswith(name) and key not in inputs)
            np.testing.assert_allclose(np.asarray(answer[name]), wanted, rtol=1e-3, atol=1e-2)
            sample = {name: array[:1].tolist() for name, array in inputs.items()}
            wrong = {name: np.zeros((1, *[size + 1 for size in a.shape[1:]])).tolist() for name, a in inputs.items()}
            shapeless = [dict.fromkeys(sample, value) for value in (1, None, [], [[1], [1, 2]])]
            for nonsense in ({"nosuch": [1]}, {}, [1], None, wrong, *shapeless):
                assert ask(f"{base}/infer", nonsense)[0] == 400
            status, one = ask(f"{base}/infer", sample)
            np.testing.assert_allclose(one[name], answer[name][:1], rtol=1e-4, atol=1e-4)
            with urllib.request.urlopen(f"{base}/health", timeout=30) as health:
                assert json.load(health)["sha256"] == engine.spec["sha256"]
        finally:
            serving.shutdown()
            thread.join()


def test_the_fleet_makefile_builds_each_target_once(tmp_path: Path) -> None:
    """Promise: one bundle a target, verified; a second call makes nothing again; signing asks for a key."""
    fake = tmp_path / "edgepress"
    fake.write_text(
        '#!/bin/sh\necho "$@" >> calls\n[ "$1" = run ] || exit 0\n'
        "mkdir -p out/net/$4 && touch out/net/$4/bundle.tar.gz\n",
        encoding="utf-8",
    )
    fake.chmod(0o755)
    (tmp_path / "net").mkdir()
    command = ["make", "-f", DEPLOY / "Makefile", f"EDGEPRESS={fake}", "RECIPE=net", "TARGETS=host raspberry-pi-5"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    calls = (tmp_path / "calls").read_text(encoding="utf-8").splitlines()
    assert sum(call.startswith("run ") for call in calls) == 2
    assert "run net --target raspberry-pi-5 --out out --set benchmark.measure=false" in calls
    assert sum(call.startswith("verify ") for call in calls) == 4
    unsigned = subprocess.run([*command, "sign"], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert unsigned.returncode != 0
    assert "KEY=" in unsigned.stderr
