"""What every page of a robot is served with: doors that are asked first, the same headers, whole answers.

Knows no run and nothing of what is shown: that is the operator's page (`runtime.operator.web`), or a
capture's (`calibration.capture.web`).
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from contracts.errors import EntracteError
from runtime.operator.doors import COOKIE, Doors, in_url
from runtime.operator.listener import Listener, TimedHandler
from runtime.operator.section import OperatorSection

STYLE = Path(__file__).parent / "page" / "page.css"
MAX_BODY = 4096
QUALITY = 75
"""Of JPEGs that are only looked at."""
_NUMBER = re.compile(r"[0-9]{1,15}")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Jpeg:
    """`number`: of the picture in its camera's count."""

    number: int
    data: bytes


class PageServer(Listener):
    """Listens where `section` says. `doors`: who may come in; `url`: to open in a browser."""

    remedy = "set operator.web_port to a free one (0: any)"
    other_name = "add it to operator.web_hosts"
    """What helps who asks for the page under a name that it isn't served under."""

    def __init__(
        self, section: OperatorSection, handler: type[PageHandler], key_file: Path | None = None
    ) -> None:
        """`key_file`: where the page's key is kept; none for a page that changes nothing. Raises
        `EntracteError` where the address can't be had, `ConfigError` for a token that is none."""
        try:
            super().__init__((section.web_address, section.web_port), handler)
        except OSError as error:
            raise EntracteError(
                f"the page can't be served on {section.web_address}:{section.web_port}",
                found=error.strerror,
                remedy=self.remedy,
            ) from error
        try:
            self.doors = Doors(section, self.server_port, key_file)
        except BaseException:
            self.server_close()
            raise
        self.url = f"http://{in_url(section.web_address)}:{self.server_port}/"


class PageHandler(TimedHandler, ABC):
    """One connection. Every request passes the doors first; nothing is changed but by what a page adds."""

    server_version = "entracte"
    sys_version = ""
    server: PageServer

    @abstractmethod
    def show(self, path: str, query: dict[str, list[str]]) -> None:
        """Answer a request that came in."""

    def do_GET(self) -> None:
        try:
            url = urlsplit(self.path)
        except ValueError:
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "no such address"})
            return
        query = parse_qs(url.query)
        if self.enters(query):
            self.show(url.path, query)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: a line for every picture would fill the log."""

    def enters(self, query: dict[str, list[str]]) -> bool:
        """Whether this request may go on; else it was answered."""
        doors = self.server.doors
        if not doors.knows_host(self.headers):  # type: ignore[arg-type]
            self.answer(
                HTTPStatus.MISDIRECTED_REQUEST,
                {"error": f"this name is not the robot's; {self.server.other_name}"},
            )
            self.close_connection = True
            return False
        given = query.get("token", [""])[0]
        if given and doors.is_token(given):
            cookie = f"{COOKIE}={given}; HttpOnly; SameSite=Strict; Path=/"
            self.send(
                HTTPStatus.SEE_OTHER, b"", "text/plain", Location="/", **{"Set-Cookie": cookie}
            )
            return False
        if not doors.may_enter(self.headers):  # type: ignore[arg-type]
            self.answer(HTTPStatus.FORBIDDEN, {"error": "open this page with ?token=..."})
            self.close_connection = True
            return False
        return True

    def body(self) -> dict[str, Any] | None:
        """The JSON object that came along; None: it was none, and that was answered."""
        try:
            length = int(self.headers.get("Content-Length", "0"))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY:
            self.close_connection = True
            self.answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too long"})
            return None
        try:
            found = json.loads(self.rfile.read(length) or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            self.answer(HTTPStatus.BAD_REQUEST, {"error": "expected a JSON object"})
            return None
        return found

    def asked_after(
        self, query: dict[str, list[str]], cameras: Collection[str]
    ) -> dict[str, int] | None:
        """By camera, the picture that a viewer has; None: that was no such question, and was answered."""
        given = {name: values[0] for name, values in query.items()}
        numbers = {name: int(text) for name, text in given.items() if _NUMBER.fullmatch(text)}
        if given and numbers.keys() == given.keys() and numbers.keys() <= set(cameras):
            return numbers
        self.answer(HTTPStatus.NOT_FOUND, {"error": "no such camera"})
        return None

    def send_pictures(self, found: Mapping[str, Jpeg]) -> None:
        """Of all cameras as one body: a browser has six connections for all its windows, and a STOP needs
        one. `X-Pictures` says whose they are and how long."""
        if not found:
            self.send(HTTPStatus.NO_CONTENT, b"", "image/jpeg")
            return
        listed = json.dumps([[name, one.number, len(one.data)] for name, one in found.items()])
        data = b"".join(one.data for one in found.values())
        self.send(HTTPStatus.OK, data, "application/octet-stream", **{"X-Pictures": listed})

    def answer(self, status: HTTPStatus, answer: dict[str, Any]) -> None:
        self.send(status, json.dumps(answer).encode(), "application/json")

    def send(self, status: HTTPStatus, data: bytes, kind: str, **more: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def jpeg(rgb: np.ndarray, width: int) -> bytes:
    """Of uint8[H,W,3], at most so many pixels across."""
    import cv2

    from contracts.images import encode_jpeg

    height, across = rgb.shape[:2]
    if across > width:
        size = (width, max(1, round(height * width / across)))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(rgb, QUALITY)
