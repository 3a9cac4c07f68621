"""The operator's page, served by a process of its own: `python -m runtime.operator.web --run-dir <dir>`.

Reads the board, the window and the pictures in shared memory, and gives commands at its desk; nothing that a
browser does or leaves undone reaches control in another way. On SIGTERM it still tells every viewer how the
run ended.
"""

from __future__ import annotations

import html
import json
import re
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from contracts.errors import EntracteError
from contracts.files import atomic
from runtime.board import Board
from runtime.operator.attend import PAGE_FILE, PageFile
from runtime.operator.commands import Command
from runtime.operator.doors import COOKIE, Doors, in_url
from runtime.operator.hub import Hub
from runtime.operator.listener import Listener, TimedHandler
from runtime.operator.status import SIGNALS_S, last_words
from runtime.run import Run
from runtime.side_process import run_beside

FOLDER = Path(__file__).parent / "page"
FILES = {"/page.js": "text/javascript", "/page.css": "text/css", "/icon.svg": "image/svg+xml"}
MAX_BODY = 4096
PICTURE_S = 2.0
_NUMBER = re.compile(r"[0-9]{1,15}")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server(Listener):
    """Where a handler finds the hub."""

    def __init__(self, address: tuple[str, int], hub: Hub) -> None:
        self.hub = hub
        super().__init__(address, Handler)


class Handler(TimedHandler):
    """One connection. Every request passes the doors first."""

    server_version = "entracte"
    sys_version = ""
    server: Server

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError:
            self._json(HTTPStatus.BAD_REQUEST, {"error": "no such address"})
            return
        query = parse_qs(url.query)
        if not self._enters(query):
            return
        path = url.path
        if path == "/":
            self._index()
        elif path in FILES:
            self._send(HTTPStatus.OK, (FOLDER / path[1:]).read_bytes(), FILES[path])
        elif path == "/events":
            self._events()
        elif path == "/status":
            self._json(HTTPStatus.OK, self.server.hub.looker.look())
        elif path == "/pictures":
            self._pictures({name: values[0] for name, values in query.items()})
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such page"})

    def do_POST(self) -> None:
        if not self._enters({}):
            return
        doors = self.server.hub.doors
        assert doors is not None
        body = self._body()
        if body is None:
            return
        if not doors.may_change(self.headers):  # type: ignore[arg-type]
            self._json(HTTPStatus.FORBIDDEN, {"error": "not from this page; load it again"})
            return
        act: dict[str, Callable[[dict[str, Any]], None]] = {
            "/command": self._command,
            "/jog": self._jog,
        }
        if self.path not in act:
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such action"})
            return
        try:
            act[self.path](body)
        except EntracteError as error:
            self._json(HTTPStatus.CONFLICT, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a line for every picture would fill the log."""

    # -- inside

    def _enters(self, query: dict[str, list[str]]) -> bool:
        doors = self.server.hub.doors
        assert doors is not None
        if not doors.knows_host(self.headers):  # type: ignore[arg-type]
            self._json(
                HTTPStatus.MISDIRECTED_REQUEST,
                {"error": "this name is not the robot's; add it to operator.web_hosts"},
            )
            self.close_connection = True
            return False
        given = query.get("token", [""])[0]
        if given and doors.is_token(given):
            cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
            self._send(
                HTTPStatus.SEE_OTHER, b"", "text/plain", Location="/", **{"Set-Cookie": cookie}
            )
            return False
        if not doors.may_enter(self.headers):  # type: ignore[arg-type]
            self._json(HTTPStatus.FORBIDDEN, {"error": "open this page with ?token=..."})
            self.close_connection = True
            return False
        return True

    def _body(self) -> dict[str, Any] | None:
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True
            self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too long"})
            return None
        try:
            found = json.loads(self.rfile.read(length) or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self._json(HTTPStatus.BAD_REQUEST, {"error": "expected a JSON object"})
            return None
        return found

    def _command(self, body: dict[str, Any]) -> None:
        name = str(body.get("command", "")).upper()
        if name not in Command.__members__:
            self._json(HTTPStatus.BAD_REQUEST, {"error": f"no command {name.lower()!r}"})
            return
        self._json(HTTPStatus.OK, {"answer": self.server.hub.ask(Command[name])})

    def _jog(self, body: dict[str, Any]) -> None:
        shares = body.get("shares")
        if not isinstance(shares, list) or not all(
            isinstance(share, (int, float)) and -1 <= share <= 1 for share in shares
        ):
            self._json(HTTPStatus.BAD_REQUEST, {"error": "shares: a list of numbers from -1 to 1"})
            return
        self.server.hub.jog(tuple(float(share) for share in shares))
        self._json(HTTPStatus.OK, {"answer": "done"})

    def _index(self) -> None:
        hub = self.server.hub
        assert hub.doors is not None
        about = html.escape(json.dumps(hub.looker.about() | {"key": hub.doors.page_key}))
        page = (FOLDER / "index.html").read_text().replace("{{about}}", about)
        self._send(HTTPStatus.OK, page.encode(), "text/html; charset=utf-8")

    def _pictures(self, after: dict[str, str]) -> None:
        """The next picture of each camera that has one, as one body: a browser has six connections for all
        its windows, and a STOP needs one. `X-Pictures` says whose they are and how long."""
        hub = self.server.hub
        numbers = {name: int(text) for name, text in after.items() if _NUMBER.fullmatch(text)}
        if (
            not after
            or numbers.keys() != after.keys()
            or after.keys() - hub.run.config.cameras.keys()
        ):
            self._json(HTTPStatus.NOT_FOUND, {"error": "no such camera"})
            return
        found = hub.pictures.next(numbers, PICTURE_S)
        if not found:
            self._send(HTTPStatus.NO_CONTENT, b"", "image/jpeg")
            return
        listed = json.dumps([[name, one.number, len(one.data)] for name, one in found.items()])
        data = b"".join(one.data for one in found.values())
        self._send(HTTPStatus.OK, data, "application/octet-stream", **{"X-Pictures": listed})

    def _events(self) -> None:
        hub = self.server.hub
        viewer = hub.feed.join()
        if viewer is None:
            self._json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "too many viewers"})
            return
        try:
            self.send_response(HTTPStatus.OK)
            for name, value in _HEADERS.items():
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

    def _json(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json")

    def _send(self, status: HTTPStatus, data: bytes, kind: str, **more: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def serve(run: Run, board: Board, stop: threading.Event) -> bool:
    """Until `stop`; False: one of its threads died before. Raises `EntracteError` where the address can't be
    had."""
    section = run.config.operator
    hub = Hub(run, board)
    try:
        server = Server((section.web_address, section.web_port), hub)
    except OSError as error:
        raise EntracteError(
            f"the operator's page can't be served on {section.web_address}:{section.web_port}",
            found=error.strerror,
            remedy="set operator.web_port to a free one (0: any)",
        ) from error
    port = int(server.server_address[1])
    hub.doors = Doors(section, port, run.page_key_path)
    url = f"http://{in_url(section.web_address)}:{port}/"
    atomic.write_bytes(Path(run.run_dir) / PAGE_FILE, msgspec.json.encode(PageFile(url)))
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
