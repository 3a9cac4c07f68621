"""Who may come in: under which names the page is asked for, who has the token, which requests are its own.

Pure rules over headers. A page elsewhere in the same browser can send requests here; it can neither read ours
nor set our header, and a name that it points at this machine (DNS rebinding) is not one of ours.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path

from contracts.errors import ConfigError
from runtime.operator.section import OperatorSection, is_loopback

PAGE_HEADER = "X-Entracte-Page"
COOKIE = "entracte_token"
MIN_TOKEN = 16
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


def read_token(section: OperatorSection) -> str:
    """The token of the file, "" without one. Raises `ConfigError`."""
    if not section.token_file:
        return ""
    try:
        token = Path(section.token_file).read_text().strip()
    except OSError as error:
        raise ConfigError(f"can't read {section.token_file}", found=error.strerror) from error
    if len(token) < MIN_TOKEN or not token.isascii() or not token.isalnum():
        raise ConfigError(
            f"the token in {section.token_file}",
            expected=f"{MIN_TOKEN} letters and digits or more",
            found=f"{len(token)} characters",
            remedy="write one with: openssl rand -hex 16",
        )
    return token


def in_url(name: str) -> str:
    """A name or address as it stands in a URL and in the Host header: IPv6 in brackets, without its zone."""
    if ":" not in name or name.startswith("["):
        return name
    return f"[{name.partition('%')[0]}]"


def keep_key(path: Path) -> str:
    """The key in that file, which only its owner can read; a new one where there is none yet."""
    with contextlib.suppress(OSError):
        return path.read_text()
    key, new = secrets.token_urlsafe(24), path.with_suffix(".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(file, "w") as writer:
        writer.write(key)
    new.replace(path)  # whole or not there
    return key


class Doors:
    """The rules for one server on `port`."""

    def __init__(self, section: OperatorSection, port: int, key_file: Path | None) -> None:
        self.token = read_token(section)
        self.page_key = secrets.token_urlsafe(24) if key_file is None else keep_key(key_file)
        """What the page sends with each request that changes something. With a file the same for the whole
        run: a page that is open goes on working when this process is started again."""
        names = {in_url(name) for name in (*section.web_hosts, section.web_address)}
        if is_loopback(section.web_address):
            names |= set(_LOCAL)
        self._hosts = {name.lower() for name in names} | {f"{n.lower()}:{port}" for n in names}

    def knows_host(self, headers: Mapping[str, str]) -> bool:
        return headers.get("Host", "").lower() in self._hosts

    def may_enter(self, headers: Mapping[str, str]) -> bool:
        if not self.token:
            return True
        try:
            morsel = SimpleCookie(headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and self.is_token(morsel.value)

    def is_token(self, value: str) -> bool:
        return bool(self.token) and hmac.compare_digest(value.encode(), self.token.encode())

    def may_change(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that changes something comes from our page."""
        key = headers.get(PAGE_HEADER, "")
        origin = headers.get("Origin", "")
        ours = not origin or origin.lower().removeprefix("http://") in self._hosts
        return ours and hmac.compare_digest(key.encode(), self.page_key.encode())
