"""A real browser for tests: headless Chromium, driven over its DevTools protocol through two pipes.

https://chromedevtools.github.io/devtools-protocol/ (`--remote-debugging-pipe`: JSON messages that end in NUL,
read on descriptor 3 and written on 4). Needs nothing installed but the browser.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--mute-audio",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class BrowserError(AssertionError):
    """The page or the browser said no."""


class Browser:
    """One page. `with Browser() as page: page.open(url)`."""

    def __init__(self) -> None:
        assert BROWSER is not None
        self._profile = tempfile.TemporaryDirectory(prefix="entracte-browser-")
        there_in, self._out = os.pipe()
        self._in, there_out = os.pipe()

        def arrange() -> None:
            """Chromium wants exactly descriptors 3 and 4, which either pipe may have by chance."""
            pipes = [fcntl.fcntl(file, fcntl.F_DUPFD, 64) for file in (there_in, there_out)]
            for file, wanted in zip(pipes, (3, 4), strict=True):
                os.dup2(file, wanted)

        self.process = subprocess.Popen(
            [BROWSER, *_FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=arrange,  # noqa: PLW1509 system calls only
            start_new_session=True,
        )
        os.close(there_in)
        os.close(there_out)
        self._number, self._text = 0, b""
        self.errors: list[str] = []
        self._session = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, BrowserError):
            self._session = ""
            self.call("Browser.close")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(3.0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._in)
        os.close(self._out)
        with contextlib.suppress(OSError):
            self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        give_up_s = time.monotonic() + 30.0
        while True:
            found = self._read(give_up_s)
            if found.get("id") == self._number:
                if "error" in found:
                    raise BrowserError(f"{method}: {found['error']['message']}")
                return dict(found["result"])
            self._note(found)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are waited for."""
        found = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in found:
            raise BrowserError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def until(self, script: str, timeout_s: float = 15.0) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not self.run(script):
            if time.monotonic() > give_up_s:
                raise BrowserError(f"never came true: {script}")
            time.sleep(0.03)

    def click(self, selector: str) -> None:
        """With the mouse, in its middle: what covers or disables it stops the click, as for a person."""
        self.hold(selector, 0.0)

    def hold(self, selector: str, seconds: float) -> None:
        """Press the mouse on it for so long."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
        time.sleep(seconds)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)

    def key(self, key: str, code: int) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text
            )

    def look(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """A screenshot of the whole window as PNG."""
        scheme = "dark" if dark else "light"
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        time.sleep(0.5)
        data = self.call("Page.captureScreenshot", format="png")["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def _read(self, give_up_s: float) -> dict[str, Any]:
        while b"\0" not in self._text:
            ready = select.select([self._in], [], [], max(0.0, give_up_s - time.monotonic()))[0]
            data = os.read(self._in, 1 << 20) if ready else b""
            if not data:
                raise BrowserError("the browser does not answer")
            self._text += data
        line, self._text = self._text.split(b"\0", 1)
        return dict(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
