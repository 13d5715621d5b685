"""Headless Chromium over the pipe of its DevTools protocol: pages measured, clicked and seen."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def found() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Chromium:
    """One browser with one tab; a context manager."""

    def __init__(self, profile: Path) -> None:
        (command, self._write), (self._read, answer) = os.pipe(), os.pipe()
        high = [os.dup2(fd, 64 + k) for k, fd in enumerate((command, answer))]

        def as_3_and_4() -> None:  # where Chromium looks for them
            for fd, number in zip(high, (3, 4), strict=True):
                os.dup2(fd, number)

        options = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            [str(found()), *options, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=as_3_and_4,
            pass_fds=(3, 4),
            stderr=subprocess.DEVNULL,
        )
        for fd in (command, answer, *high):
            os.close(fd)
        self._numbers, self._buffer = itertools.count(1), b""
        targets = self._call("Target.getTargets", session="")["targetInfos"]
        page = next(each["targetId"] for each in targets if each["type"] == "page")
        attach = {"targetId": page, "flatten": True}
        self._session = self._call("Target.attachToTarget", attach, session="")["sessionId"]
        self._call("Page.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._write)  # which ends it
        self._process.wait(timeout=30)
        os.close(self._read)

    def open(self, page: Path, width: int, dark: bool = False, scripts: bool = True) -> None:
        """Load a file in a window of a width in CSS pixels."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", {"features": [scheme]})
        self._call("Emulation.setScriptExecutionDisabled", {"value": not scripts})
        self._call("Network.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self._call("Network.emulateNetworkConditions", offline)
        self._call("Page.navigate", {"url": page.resolve().as_uri()})
        self._until("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        wanted = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self._call("Runtime.evaluate", wanted)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page, or of the window."""
        shot = self._call("Page.captureScreenshot", {"captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(shot["data"]))

    def _call(
        self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        number = next(self._numbers)
        asked: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session is None:
            asked["sessionId"] = self._session
        os.write(self._write, json.dumps(asked).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == number:
                assert "error" not in heard, heard["error"]
                result: dict[str, Any] = heard["result"]
                return result

    def _until(self, event: str) -> None:
        while self._hear().get("method") != event:
            pass

    def _hear(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            more = os.read(self._read, 1 << 16)
            assert more, "Chromium has ended"
            self._buffer += more
        line, self._buffer = self._buffer.split(b"\0", 1)
        heard: dict[str, Any] = json.loads(line)
        return heard


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """A browser, where the machine has one."""
    if found() is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the path")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
