"""The operator's page, served by a process of its own: `python -m runtime.operator.web --run-dir <dir>`.

Reads the board, the window and the pictures in shared memory, and gives commands at its desk; nothing that a
browser does or leaves undone reaches control in another way. On SIGTERM it still tells every viewer how the
run ended.
"""

from __future__ import annotations

import html
import json
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError
from contracts.files import atomic
from runtime.board import Board
from runtime.operator.attend import PAGE_FILE, PageFile
from runtime.operator.commands import Command
from runtime.operator.hub import STOPPING, Hub
from runtime.operator.pages import HEADERS, PageHandler, PageServer
from runtime.operator.status import SIGNALS_S, last_words
from runtime.operator.turns import Sent
from runtime.run import Run
from runtime.system.side_process import run_beside

FOLDER = Path(__file__).parent / "page"
FILES = {
    "/page.js": "text/javascript",
    "/pictures.js": "text/javascript",
    "/page.css": "text/css",
    "/icon.svg": "image/svg+xml",
}
PICTURE_S = 2.0
_SAYS = "heard_s (robot_s of the newest event), page (its own id) and number (larger each time) go with it"
LONGEST_ID, LARGEST_NUMBER = 64, 2**53


class Server(PageServer):
    """Where a handler finds the hub."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        super().__init__(hub.run.config.operator, Handler, hub.run.page_key_path)


class Handler(PageHandler):
    """One connection to the operator's page."""

    server: Server

    def show(self, path: str, query: dict[str, list[str]]) -> None:
        if path == "/":
            self._index()
        elif path in FILES:
            self.send(HTTPStatus.OK, (FOLDER / path[1:]).read_bytes(), FILES[path])
        elif path == "/events":
            self._events()
        elif path == "/status":
            self.answer(HTTPStatus.OK, self.server.hub.looker.look())
        elif path == "/pictures":
            hub = self.server.hub
            after = self.asked_after(query, hub.run.config.cameras)
            if after is not None:
                self.send_pictures(hub.pictures.next(after, PICTURE_S))
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        if not self.enters({}):
            return
        body = self.body()
        if body is None:
            return
        if not self.server.doors.may_change(self.headers):  # type: ignore[arg-type]
            self.answer(HTTPStatus.FORBIDDEN, {"error": "not from this page; load it again"})
            return
        act: dict[str, Callable[[dict[str, Any]], None]] = {
            "/command": self._command,
            "/jog": self._jog,
        }
        if self.path not in act:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "no such action"})
            return
        try:
            act[self.path](body)
        except EntracteError as error:
            self.answer(HTTPStatus.CONFLICT, {"error": str(error)})

    # -- inside

    def _command(self, body: dict[str, Any]) -> None:
        name = str(body.get("command", "")).upper()
        if name not in Command.__members__:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": f"no command {name.lower()!r}"})
            return
        command, sent = Command[name], _sent(body)
        if sent is None and command not in STOPPING:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": _SAYS})
            return
        self.answer(HTTPStatus.OK, {"answer": self.server.hub.ask(command, sent)})

    def _jog(self, body: dict[str, Any]) -> None:
        shares = body.get("shares")
        if not isinstance(shares, list) or not all(
            isinstance(share, (int, float)) and -1 <= share <= 1 for share in shares
        ):
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "shares: a list of numbers from -1 to 1"})
            return
        sent = _sent(body)
        if sent is None:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": _SAYS})
            return
        found = self.server.hub.jog(tuple(float(share) for share in shares), sent)
        self.answer(HTTPStatus.OK, {"answer": found})

    def _index(self) -> None:
        key = self.server.doors.page_key
        about = html.escape(json.dumps(self.server.hub.looker.about() | {"key": key}))
        page = (FOLDER / "index.html").read_text().replace("{{about}}", about)
        self.send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")

    def _events(self) -> None:
        hub = self.server.hub
        viewer = hub.feed.join()
        if viewer is None:
            self.answer(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many viewers"})
            return
        try:
            self.send_response(HTTPStatus.OK)
            for name, value in HEADERS.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            event: bytes | None = hub.event("status", SIGNALS_S)
            while event is None or not event.startswith(b"event: ended"):
                if event is not None:
                    self.wfile.write(event)
                event = viewer.next(1.0)
            self.wfile.write(event)
        except OSError:
            pass  # it went away, or read nothing for SEND_TIMEOUT_S
        finally:
            hub.feed.leave(viewer)


def _sent(body: dict[str, Any]) -> Sent | None:
    """None: it does not say."""
    heard_s, page, number = (body.get(name) for name in ("heard_s", "page", "number"))
    if not (isinstance(heard_s, (int, float)) and abs(heard_s) < 1e12):
        return None
    if not (isinstance(page, str) and 0 < len(page) <= LONGEST_ID):
        return None
    if not (isinstance(number, int) and 0 <= number <= LARGEST_NUMBER):
        return None
    return Sent(float(heard_s), page, number)


def serve(run: Run, board: Board, stop: threading.Event) -> bool:
    """Until `stop`; False: one of its threads died before. Raises `EntracteError` where the address can't be
    had."""
    hub = Hub(run, board)
    server = Server(hub)
    atomic.write_bytes(Path(run.run_dir) / PAGE_FILE, msgspec.json.encode(PageFile(server.url)))
    lost = threading.Event()

    def work(job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            if not stop.is_set():  # a page that looks live and isn't is worse than none
                lost.set()
                stop.set()

    jobs: list[Callable[[], None]] = [lambda: server.serve_forever(0.1), hub.forever]
    threads = [threading.Thread(target=work, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait()
    if lost.is_set():
        return False
    _wait_for_last_words(run)
    hub.stop.set()
    threads[1].join(1.0)
    time.sleep(0.3)  # the last event is on its way
    server.shutdown()
    hub.close()
    return True


def _wait_for_last_words(run: Run) -> None:
    """Control has left by now; its reason may still be on its way to disk."""
    give_up_s = time.monotonic() + 0.2
    while not last_words(run) and time.monotonic() < give_up_s:
        time.sleep(0.02)


if __name__ == "__main__":
    sys.exit(run_beside("operator", "runtime.operator.web", serve, niceness=5))
