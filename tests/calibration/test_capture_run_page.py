"""A capture's page: real requests to it, and a real capture on the bench in a real browser."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from calibration.capture import web
from calibration.capture.shown import Shown
from calibration.capture.web import PICTURE_WIDTH, served
from contracts.errors import EntracteError
from contracts.images import decode_jpeg
from runtime.cameras import Frame
from tests.calibration.test_capture_run import BENCH, BOARD, run
from tests.runtime.operator.chromium import BROWSER, Browser

ABOUT = {
    "title": "</script><b>wrist",
    "cameras": ["wrist", "side"],
    "stands": 5,
    "lens_only": False,
}


def ask(
    url: str, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    where = urlsplit(url)
    assert where.hostname and where.port
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.headers)
    connection.close()
    return found


def test_it_shows_what_is_said_and_seen_and_takes_no_orders() -> None:
    shown = Shown()
    with served(shown, ABOUT) as url:
        assert urlsplit(url).hostname == "127.0.0.1"
        status, page, headers = ask(url, "/")
        assert status == 200 and b"<b>wrist" not in page  # a folder's name is no markup
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        for path in ("/capture.js", "/pictures.js", "/page.css", "/capture.css", "/icon.svg"):
            assert ask(url, path)[0] == 200, path
        for path in ("/page.js", "/../live.py", "/capture.js/", "/pictures", "/pictures?front=0"):
            assert ask(url, path)[0] == 404, path
        status, told, _ = ask(url, "/status", Host="evil.example")
        assert (
            status == 421 and b"same port number on both ends" in told
        )  # no key of this robot's helps
        assert ask(url, "/pictures?wrist=0", Host="evil.example")[0] == 421
        for method in ("POST", "PUT", "DELETE"):
            assert ask(url, "/status", method)[0] == 501

        assert ask(url, "/pictures?wrist=0&side=0")[0] == 204
        rgb = np.full((720, 1280, 3), 90, np.uint8)
        shown.frames = {"wrist": Frame(rgb, None, 1.0, 1.0, 7), "side": None}
        status, data, headers = ask(url, "/pictures?wrist=0&side=0")
        assert status == 200 and json.loads(headers["X-Pictures"]) == [["wrist", 7, len(data)]]
        assert decode_jpeg(data).shape == (360, PICTURE_WIDTH, 3)
        assert ask(url, "/pictures?wrist=7&side=0")[0] == 204

        shown.say("stand 000 taken")
        found = json.loads(ask(url, "/status")[1])
        assert found["lines"] == ["stand 000 taken"] and not found["ended"]
        port = urlsplit(url).port
        with pytest.raises(EntracteError, match="another --page-port"), served(shown, ABOUT, port):
            pass
    assert shown.ended


def test_who_looks_on_hears_that_it_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_WATCHED_S", 120.0)  # who looks is not given up on a slow machine
    shown = Shown()
    heard: list[dict[str, object]] = []
    looks = threading.Event()

    def listen(url: str) -> None:
        try:
            while not heard or not heard[-1]["ended"]:
                heard.append(json.loads(ask(url, "/status")[1]))
                looks.set()
        finally:
            looks.set()

    with pytest.raises(EntracteError, match="the arm is gone"), served(shown, ABOUT) as url:
        viewer = threading.Thread(target=listen, args=(url,), daemon=True)
        viewer.start()
        assert looks.wait(60.0) and heard
        raise EntracteError("the arm is gone")
    viewer.join(60.0)
    assert heard[-1]["ended"] and heard[-1]["lines"] == ["ended: the arm is gone"]


@pytest.fixture
def page() -> Iterator[Browser]:
    """There before the capture begins: a browser takes seconds to start, and what was shown goes by."""
    with Browser() as found:
        yield found


# Whatever was shown, however briefly.
KEEP = """window.shown = {};
for (const name of ["stands", "next", "progress", "state", "missing"]) {
  const element = document.getElementById(name), kept = window.shown[name] = [element.textContent];
  new MutationObserver(() => kept.push(element.textContent)).observe(
    element, {childList: true, characterData: true, subtree: true});
}"""


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`capture --auto --page` on the bench."""
    board = tmp_path / "board"
    assert run("board", "--output", board, *BOARD).exit_code == 0
    command = [
        *(sys.executable, "-m", "calibration.app", "capture", "--config", str(BENCH)),
        *("--camera", "wrist", "--mount", "hand", "--board", str(board / "board.json")),
        *("--auto", "--stands", "8", "--page", "--output", str(tmp_path / "wrist")),
    ]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=said, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("the capture's page: http://127.0.0.1:"), line
    return line.split(": ", 1)[1].strip()


def test_a_port_that_is_taken_is_told_before_any_device_is_opened(tmp_path: Path) -> None:
    board = tmp_path / "board"
    assert run("board", "--output", board, *BOARD).exit_code == 0
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run(
            *("capture", "--camera", "wrist", "--mount", "hand", "--output", tmp_path / "out"),
            *("--board", board / "board.json", "--page-port", str(taken.getsockname()[1])),
            *("--set", "arm.kind=none"),
        )
    assert isinstance(said.exception, EntracteError), said.output
    assert "the page can't be served on 127.0.0.1" in str(said.exception)


@pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
def test_a_browser_is_guided_through_a_capture(
    page: Browser, capture: subprocess.Popen[str], tmp_path: Path
) -> None:
    looks = Path(os.environ.get("ENTRACTE_SCREENSHOTS", tmp_path / "screenshots"))
    page.open(_url(capture))
    page.run(KEEP)

    def until(script: str) -> None:
        page.until(script, timeout_s=300.0)

    def shows(element: str, words: str) -> None:
        until(f"window.shown[{element!r}].some((text) => text.includes({words!r}))")

    until("document.querySelectorAll('img[data-picture]').length === 1")
    shows("stands", " of 8")
    shows("next", "joints")  # blindly, before there is a result
    shows("progress", "want 5")  # and with one
    shows("next", "as the camera looks:")
    painted = (
        "(() => {const c = document.querySelector('.frame canvas'); return c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)})()"
    )
    until(painted)
    for scheme, width, height in (
        ("light", 1280, 1000),
        ("dark", 1280, 1000),
        ("phone", 390, 844),
    ):
        page.look(looks / f"capture-{scheme}.png", width, height, dark=scheme == "dark")
        assert page.run("document.documentElement.scrollWidth") <= width, scheme
    shows("state", "ended")
    shows("stands", "8 of 8")
    shows("missing", "8 stands, fewer than 10")
    assert page.errors == []
    assert capture.wait(60) == 1
