"""A headless Chromium over its DevTools pipe, with nothing but the standard library."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, final

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
_TIMEOUT_S = 60.0


def chromium() -> str | None:
    """The browser's program; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@final
class Page(AbstractContextManager["Page"]):
    """A browser with one page.

    Args:
        profile: An empty folder for what the browser keeps.
        width: Of the viewport, in CSS pixels.
        scheme: ``light`` or ``dark``.
        media: ``screen`` or ``print``.
    """

    def __init__(self, profile: Path, *, width: int, scheme: str = "light", media: str = "screen") -> None:
        self._profile, self._width, self._scheme, self._media = profile, width, scheme, media
        self.events: list[dict[str, Any]] = []
        self._number, self._rest, self._session = 0, b"", ""

    def __enter__(self) -> Page:
        program = chromium()
        assert program is not None
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        high = f"a, b = os.dup2({theirs_read}, 90), os.dup2({theirs_write}, 91)"  # neither may be 3 or 4 by chance
        plumbing = f"import os, sys; {high}; os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[1], sys.argv[1:])"
        command = [program, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(  # the pipe's ends are descriptors 3 and 4 there
            [sys.executable, "-I", "-c", plumbing, *command],
            pass_fds=(theirs_read, theirs_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self._read, self._write = ours_read, ours_write
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        features = [{"name": "prefers-color-scheme", "value": self._scheme}]
        self.call("Emulation.setEmulatedMedia", media=self._media, features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=self._width, height=900, deviceScaleFactor=1, mobile=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def open(self, path: Path) -> None:
        """Loads a file, and everything that it asks for."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        self._wait(lambda message: message.get("method") == "Page.loadEventFired")

    def ask(self, expression: str) -> Any:  # noqa: ANN401 - whatever the page says
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Everything that was fetched."""
        return [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]

    def complaints(self) -> list[dict[str, Any]]:
        """What the console would show: messages, violations of the policy, errors."""
        kinds = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [event for event in self.events if event.get("method") in kinds]

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """One command of the protocol, answered."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda found: found.get("id") == message["id"])
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while True:
            while b"\0" in self._rest:
                line, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(line)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    found: dict[str, Any] = message
                    return found
            assert select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0], "the browser is silent"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser is gone"
            self._rest += part
