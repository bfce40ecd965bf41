"""A headless Chromium, spoken to over its debugging pipe: nothing to install but the browser itself."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class Chromium:
    """One page in one browser.

    Attributes:
        requests: the addresses that the page asked for.
        complaints: what the browser logged as errors, such as blocked contents.
    """

    def __init__(self) -> None:
        program = next((found for name in NAMES if (found := shutil.which(name))), None)
        assert program, "no Chromium: apt-get install chromium"
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._count = 0
        self._waiting = b""
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = (
            *(
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                "--disable-background-networking",
            ),
            *("--no-first-run", "--remote-debugging-pipe", f"--user-data-dir={self._home.name}", "about:blank"),
        )
        self._process = subprocess.Popen(
            [program, *options],
            preexec_fn=lambda: _as_three_and_four(theirs_in, theirs_out),
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)
        self._home.cleanup()

    def open(self, address: str, width: int, height: int = 900, scheme: str = "light") -> None:
        """Opens an address in a window of this size, and waits until everything is loaded."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=address)
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol; its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._waiting:
            read = os.read(self._in, 1 << 20)
            assert read, "Chromium has ended"
            self._waiting += read
        first, _, self._waiting = self._waiting.partition(b"\0")
        message = json.loads(first)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.complaints.append(message["params"]["entry"]["text"])
        return dict(message)


def _as_three_and_four(reads: int, writes: int) -> None:
    """The descriptors where the browser expects its debugging pipe; through high ones, in case these are 3 or 4."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in (reads, writes)]
    for descriptor, wanted in zip(high, (3, 4), strict=True):
        os.dup2(descriptor, wanted)
