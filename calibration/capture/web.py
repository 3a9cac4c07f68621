"""A capture's page: what the terminal says, and pictures, for who stands at the arm with a browser.

Shows and takes no orders: whatever a browser asks, nothing moves and nothing is written. Served on loopback
(`ssh -L` brings it elsewhere), with the doors and headers of the operator's page.
"""

from __future__ import annotations

import contextlib
import html
import json
import threading
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from calibration.capture.shown import WANTED, Shown
from contracts.errors import EntracteError
from runtime.operator.pages import STYLE, Jpeg, PageHandler, PageServer, jpeg
from runtime.operator.section import OperatorSection

FOLDER = Path(__file__).parent / "page"
_SHARED = STYLE.parent
FILES = {
    "/capture.js": (FOLDER, "text/javascript"),
    "/capture.css": (FOLDER, "text/css"),
    "/pictures.js": (_SHARED, "text/javascript"),
    "/page.css": (_SHARED, "text/css"),
    "/icon.svg": (_SHARED, "image/svg+xml"),
}
PICTURE_RATE_HZ = 5.0
PICTURE_WIDTH = 640
_WATCHED_S = 2.0
"""A page asks twice a second: one that did not for so long is closed."""


class Server(PageServer):
    """`shown`: by the thread that captures. `about`: what doesn't change."""

    remedy = "give another --page-port (0: any)"
    other_name = "open it as localhost, and use the same port number on both ends of ssh -L"

    def __init__(self, shown: Shown, about: dict[str, Any], port: int) -> None:
        self.shown, self.about = shown, about
        self.looked_s = -_WATCHED_S
        """When a page asked last (monotonic)."""
        self.told = threading.Event()
        """Set once a page has heard that the capture has ended."""
        self._lock = threading.Lock()
        self._newest: dict[str, Jpeg] = {}
        super().__init__(OperatorSection(web_port=port), Handler)

    def pictures(self, after: Mapping[str, int]) -> dict[str, Jpeg]:
        """By camera, the newest picture if it is another than number `after`; each is encoded once."""
        found = {}
        for name, known in after.items():
            frame = self.shown.frames.get(name)
            if frame is None or frame.number == known:
                continue
            with self._lock:
                newest = self._newest.get(name)
                if newest is None or newest.number != frame.number:
                    newest = Jpeg(frame.number, jpeg(frame.rgb, PICTURE_WIDTH))
                    self._newest[name] = newest
            found[name] = newest
        return found


class Handler(PageHandler):
    """One connection to the capture's page."""

    server: Server

    def show(self, path: str, query: dict[str, list[str]]) -> None:
        server = self.server
        if path == "/":
            about = html.escape(json.dumps(server.about))
            page = (FOLDER / "index.html").read_text().replace("{{about}}", about)
            self.send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")
        elif path in FILES:
            folder, kind = FILES[path]
            self.send(HTTPStatus.OK, (folder / path[1:]).read_bytes(), kind)
        elif path == "/status":
            server.looked_s = time.monotonic()
            found = server.shown.look()
            self.answer(HTTPStatus.OK, found)
            if found["ended"]:
                server.told.set()
        elif path == "/pictures":
            after = self.asked_after(query, server.about["cameras"])
            if after is not None:
                self.send_pictures(server.pictures(after))
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "no such page"})


@contextlib.contextmanager
def served(shown: Shown, about: Mapping[str, Any], port: int = 0) -> Iterator[str]:
    """The page's address while the block lasts, and a moment longer where somebody looks: they hear how it
    ended. `about`: "title" and "cameras", names. Raises `EntracteError` where the port can't be had."""
    known = {"picture_rate_hz": PICTURE_RATE_HZ, "wanted": WANTED, **about}
    server = Server(shown, known, port)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield server.url
    except EntracteError as error:
        shown.say(f"ended: {error}")
        raise
    finally:
        shown.ended = True
        if time.monotonic() - server.looked_s < _WATCHED_S:
            server.told.wait(_WATCHED_S)
        server.shutdown()
        server.server_close()
