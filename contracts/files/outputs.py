"""Whether a command may write where it was told to, asked before any work.

What is there already is replaced, or grown, only where it is what the command itself writes: a user's own
folder or file never is. Leaves nothing on the disk and knows no format: callers say what is theirs.
"""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from contracts.errors import ConfigError, some_of
from contracts.files.atomic import TEMPORARY_SUFFIX

_OTHER = "choose another name"
_EARLIER = ", or an earlier one of the kind,"
_SHOWN = 3
_HEAD_BYTES = 4096
_MAX_JSON_BYTES = 256 * 1024 * 1024

REPORT_FILES = ("index.html", "report.md", "before-after-*")
"""What `robot-trainer report` writes; `robot-run demo`, at whose end it runs, asks for it beforehand."""

Ours = Callable[[Path], bool]


def require_folder(folder: Path, what: str, ours: Ours | None = None) -> None:
    """`folder` may become `what` ("a model package"): it is new, empty, or `ours` says so, and it can be
    written. Raises `ConfigError` otherwise."""
    if not _exists(folder):
        require_room(folder)
        return
    expected = f"a new or an empty folder{_EARLIER if ours else ''} for {what}"
    if not folder.is_dir():
        raise ConfigError(_cant(folder), expected=expected, found="a file", remedy=_OTHER)
    names = _names(folder)
    if names and not (ours and ours(folder)):
        raise ConfigError(
            _cant(folder),
            expected=expected,
            found=f"a folder with {some_of(names, _SHOWN)}",
            remedy=f"{_OTHER}, or empty it yourself",
        )
    require_room(folder)


def require_file(path: Path, what: str, ours: Ours | None = None) -> None:
    """`path` may become the file `what` ("a report"): it is new, empty, or `ours` says so, and it can be
    written. Raises `ConfigError` otherwise."""
    if _exists(path):
        expected = f"a new file{_EARLIER if ours else ''} for {what}"
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no plain file"
            raise ConfigError(_cant(path), expected=expected, found=found, remedy=_OTHER)
        if path.stat().st_size and not (ours and ours(path)):
            raise ConfigError(
                _cant(path), expected=expected, found="a file with other content", remedy=_OTHER
            )
    _require_room(path.parent, path)


def require_room(folder: Path) -> None:
    """`folder` is there, or can be made, and files can be made in it, whatever it holds. Raises
    `ConfigError`."""
    _require_room(folder, folder)


def only(*patterns: str) -> Ours:
    """Whether a folder holds nothing but names like these (and what a killed writer of them left)."""
    wanted = (*patterns, f".*{TEMPORARY_SUFFIX}")
    return lambda folder: all(any(fnmatch(name, p) for p in wanted) for name in _names(folder))


def holding(*names: str) -> Ours:
    """Whether a folder holds one of these, whatever else there is."""
    return lambda folder: any((folder / name).exists() for name in names)


def beginning(*heads: bytes) -> Ours:
    """Whether a file begins so."""
    return lambda path: _head(path).startswith(heads)


def containing(mark: bytes) -> Ours:
    """Whether a file's first or last bytes hold this."""

    def ours(path: Path) -> bool:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, path.stat().st_size - _HEAD_BYTES))
            return mark in head or mark in file.read(_HEAD_BYTES)

    return ours


def json_with(*keys: str) -> Ours:
    """Whether a file is a JSON object with these keys, or a list or lines of such objects."""

    def ours(path: Path) -> bool:
        if path.stat().st_size > _MAX_JSON_BYTES:
            return False
        try:
            text = path.read_bytes().decode()
            try:
                tree: Any = json.loads(text)
            except ValueError:
                tree = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            return False
        rows = tree if isinstance(tree, list) else [tree]
        return bool(rows) and all(isinstance(r, dict) and r.keys() >= set(keys) for r in rows)

    return ours


def described(path: Path) -> str:
    """What is there, for the "found" of an error: "a file", "a folder with a, b, c and 4 more"."""
    try:
        if not path.exists():
            return "nothing of that name"
        if not path.is_dir():
            return "a file"
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return error.strerror or str(error)
    return f"a folder with {some_of(names, _SHOWN)}" if names else "an empty folder"


def _require_room(folder: Path, named: Path) -> None:
    """`named`: what the user asked to be written, for the message."""
    place = folder.absolute()
    try:
        while not place.exists():
            if place.is_symlink():
                raise ConfigError(
                    _cant(named), expected="a folder", found=f"a link to nothing at {place}"
                )
            place = place.parent
        if not place.is_dir():
            found = "a file" if place == folder.absolute() else f"a file at {place}"
            raise ConfigError(
                _cant(named), expected="a folder, or room for one", found=found, remedy=_OTHER
            )
        # Asking for permissions is not enough: root has them all, and /proc takes nothing all the same.
        with tempfile.TemporaryDirectory(dir=place, prefix=".entracte-", suffix=TEMPORARY_SUFFIX):
            pass
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return  # room may come; robot and trainer have answers of their own to a full disk
        raise ConfigError(
            _cant(named),
            expected="a place where files can be made",
            found=f"{getattr(error, 'strerror', None) or error} ({place})",
            remedy="choose another folder, or see who owns this one",
        ) from error


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:  # too long a name, a loop of links
        raise ConfigError(
            _cant(path), found=getattr(error, "strerror", None) or str(error), remedy=_OTHER
        ) from error


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ConfigError(
            _cant(folder), found=error.strerror, remedy="see who owns it, or " + _OTHER
        ) from error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _cant(path: Path) -> str:
    return f"{path} can't be written"
