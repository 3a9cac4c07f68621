"""Where an API key comes from and where it may go. Owns that it never shows."""

from __future__ import annotations

import ipaddress
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from contracts.errors import ConfigError


class Key:
    """An API key, or none (""). It prints as stars."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def __repr__(self) -> str:
        return "Key(***)" if self._secret else "Key(none)"

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._secret}"} if self._secret else {}

    def redact(self, text: str) -> str:
        """`text` without it: servers repeat keys in their errors."""
        return text.replace(self._secret, "***") if self._secret else text


def read_key(variable: str, file: str) -> Key:
    """From the environment variable of that name, or from a file that only its owner may read; none if
    neither is named. Raises `ConfigError`."""
    if variable and file:
        raise ConfigError("API key", expected="key_env or key_file", found="both")
    secret = ""
    if variable:
        secret = os.environ.get(variable, "").strip()
        if not secret:
            raise ConfigError(f"API key: environment variable {variable}", found="nothing in it")
    if file:
        secret = _from_file(Path(file))
    if not secret.isascii() or not all(c.isprintable() and c != " " for c in secret):
        raise ConfigError("API key", expected="one word of printable ASCII", found="something else")
    return Key(secret)


def _from_file(path: Path) -> str:
    try:
        # The open file is what is judged: the name may be another's by the next call.
        with path.open("rb") as opened:
            status = os.fstat(opened.fileno())
            mine = status.st_uid == os.getuid() and not status.st_mode & 0o077
            if not (mine and stat.S_ISREG(status.st_mode)):
                raise ConfigError(
                    f"API key file {path}",
                    expected="a file of yours that nobody else may read",
                    found=stat.filemode(status.st_mode),
                    remedy=f"chmod 600 {path}",
                )
            secret = opened.read(4096).decode("ascii", "replace").strip()
    except OSError as error:
        raise ConfigError(f"API key file {path}", found=error.strerror) from error
    if not secret:
        raise ConfigError(f"API key file {path}", found="nothing in it")
    return secret


def check_url(url: str, key: Key) -> str:
    """The base URL without its last slash. Raises `ConfigError` for one that can't be used, or that would
    carry a key over the network in the clear."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError(
            "url of the reward model 'endpoint'",
            expected="http(s)://host[:port]/v1, no user name in it",
            found=f"scheme '{parts.scheme}', host '{parts.hostname or ''}'",
        )
    if parts.scheme == "http" and key.headers() and not is_loopback(url):
        raise ConfigError(
            f"an API key over plain http to {parts.hostname}",
            expected="https, or a loopback address",
            remedy="use https or a tunnel (ssh -L)",
        )
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
