"""A small inference service around a bundle: whatever its engine, with numpy and that engine's runtime only.

    python3 service.py BUNDLE --port 8080
    curl -s localhost:8080/health
    curl -s localhost:8080/infer -d '{"x": [[0.0, ...]]}'

It listens on loopback; put it behind whatever does TLS and access control where you are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

MAX_REQUEST_BYTES = 16 << 20


class Engine:
    """A bundle's engine, opened once; one inference at a time, as it was measured."""

    def __init__(self, bundle: Path) -> None:
        sys.path.insert(0, str(bundle / "ondevice.pyz"))
        from ondevice.runner import load_runtime, open_runner  # type: ignore[import-not-found]
        from ondevice.session import read_spec  # type: ignore[import-not-found]

        self.spec = read_spec(bundle)
        load_runtime(self.spec)
        self._runner, self._lock = open_runner(bundle, self.spec), Lock()

    def infer(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Outputs by name, for inputs by name: lists with a first axis of samples."""
        wanted = {item["name"]: item["dtype"] for item in self.spec["inputs"]}
        if rows.keys() != wanted.keys():
            raise ValueError(f"the inputs are {', '.join(wanted)}; got {', '.join(rows) or 'none'}")
        feed = {name: np.ascontiguousarray(rows[name], dtype=wanted[name]) for name in wanted}
        with self._lock:
            outputs = self._runner.run(feed)
        names = [item["name"] for item in self.spec["outputs"]]
        return {name: output.tolist() for name, output in zip(names, outputs, strict=True)}


def server(engine: Engine, port: int) -> ThreadingHTTPServer:
    """A server on loopback; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"engine": engine.spec["engine"], "sha256": engine.spec["sha256"]}
            self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND, known)

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if self.path != "/infer" or not 0 < size <= MAX_REQUEST_BYTES:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": "POST a JSON object of inputs to /infer"})
                return
            try:
                self._answer(HTTPStatus.OK, engine.infer(json.loads(self.rfile.read(size))))
            except (ValueError, TypeError, AttributeError) as error:
                self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})

        def _answer(self, status: HTTPStatus, document: dict[str, Any]) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class's name
            del format, arguments  # a line a request is too much for an SD card

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main() -> None:
    """Verifies the bundle, then serves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    subprocess.run([sys.executable, options.bundle / "ondevice.pyz", "verify"], check=True, cwd=options.bundle)
    with server(Engine(options.bundle), options.port) as serving:
        sys.stdout.write(f"serving {options.bundle} on http://127.0.0.1:{serving.server_port}\n")
        serving.serve_forever()


if __name__ == "__main__":
    main()
