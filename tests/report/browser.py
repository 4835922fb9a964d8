"""Chromium by its DevTools protocol over a pipe: a page at a width, light or dark, what its console said, a picture of it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@dataclass(frozen=True)
class Seen:
    """widths: of the window and of what the page needs. faults: errors and warnings of the console. requests: beyond the page."""

    inner: int
    scroll: int
    faults: tuple[str, ...]
    requests: tuple[str, ...]
    picture: bytes


class Browser:
    """One tab of a headless Chromium."""

    def __init__(self, reading: FileIO, writing: FileIO) -> None:
        self._reading, self._writing = reading, writing
        self._number = 0
        self._left = b""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> Any:
        """Send a command and wait for its answer; events that come before it are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._writing.write(json.dumps(message).encode() + b"\0")
        while (found := self._next()).get("id") != self._number:
            self._events.append(found)
        assert "error" not in found, found
        return found["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            more = self._reading.read(1 << 16)
            assert more, "the browser has ended"
            self._left += more
        line, _, self._left = self._left.partition(b"\0")
        found: dict[str, Any] = json.loads(line)
        return found

    def look(self, page: Path, width: int, *, dark: bool = False) -> Seen:
        """Open a file."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self._events):
            self._events.append(self._next())
        inner = self.value("window.innerWidth")
        scroll = self.value("document.documentElement.scrollWidth")
        height = self.value("document.documentElement.scrollHeight")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        said = [
            e
            for e in self._events
            if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]
        asked = [e["params"]["request"]["url"] for e in self._events if e.get("method") == "Network.requestWillBeSent"]
        beyond = tuple(url for url in asked if url != page.resolve().as_uri() and not url.startswith("data:"))
        return Seen(inner, scroll, tuple(json.dumps(e["params"]) for e in said), beyond, base64.b64decode(shot["data"]))

    def value(self, expression: str) -> Any:
        """What an expression of the page yields."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]


@contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium of its own, with a profile that is thrown away."""
    assert CHROMIUM is not None
    from_it, its_writing = os.pipe()
    its_reading, to_it = os.pipe()

    def connect() -> None:
        reading, writing = os.dup(its_reading), os.dup(its_writing)  # 3 and 4 may be in use themselves
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={profile}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False, preexec_fn=connect,
        )  # fmt: skip
        os.close(its_writing)
        os.close(its_reading)
        with os.fdopen(from_it, "rb", 0) as reading, os.fdopen(to_it, "wb", 0) as writing:
            try:
                yield Browser(reading, writing)
            finally:
                process.kill()
                process.wait()
