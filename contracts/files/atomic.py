"""Files that are whole or not there: temporary file, fsync, rename, fsync of the directory.

Owns durability of single files and capped reads. Does not lock; does not know any format.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError

TEMPORARY_SUFFIX = ".tmp"
MAX_JSON_BYTES = 16 * 1024 * 1024


class FileError(EntracteError):
    """A file that is missing, too large or not what its name says."""


@contextmanager
def replacing(path: Path, *, sync_directory: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the directory of `path`; on success it becomes `path`, durably.

    If the body raises, `path` keeps its old content and the temporary file is removed. With
    `sync_directory=False` the rename itself may be lost in a power cut until `sync` is called: for a
    batch of files whose directories are synced once, before the file that commits them.
    """
    temporary = temporary_for(path)
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync_directory:
        sync(path.parent)


def temporary_for(path: Path) -> Path:
    """A new name beside `path` (whose folder is made if need be), found by `remove_leftovers`."""
    make_directory(path.parent)
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def write_bytes(path: Path, data: bytes, *, sync_directory: bool = True) -> None:
    """Replace `path` by `data` atomically and durably."""
    with replacing(path, sync_directory=sync_directory) as temporary:
        temporary.write_bytes(data)


def append_line(path: Path, line: bytes, *, synced: bool = False) -> None:
    """Add `line` to `path`, whole or not at all. Raises `OSError` where the disk does not take it.
    `synced`: it survives a power cut when this returns."""
    new = not path.exists()
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if file.write(line + b"\n") != len(line) + 1:
                raise OSError(errno.ENOSPC, f"disk did not take a line of {path.name}")
            if synced:
                os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
    if new and synced:
        sync(path.parent)


def write_json(path: Path, value: Any, *, sync_directory: bool = True) -> None:
    """Replace `path` by `value` as JSON atomically. Raises `FileError` for NaN and foreign types."""
    write_bytes(path, json_bytes(path.name, value), sync_directory=sync_directory)


def json_bytes(what: str, value: Any) -> bytes:
    """`value` as strict JSON (no NaN, no infinity). Raises `FileError` naming `what`."""
    try:
        return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise FileError(
            f"{what} is not JSON", found=str(error), remedy="use only finite plain values"
        ) from error


def read_bytes(path: Path, max_bytes: int) -> bytes:
    """Content of `path`. Raises `FileError` if it is absent or larger than `max_bytes`."""
    try:
        with path.open("rb") as file:
            # Not read(max_bytes): that would take as much memory before it knows how much there is.
            data = file.read(min(os.fstat(file.fileno()).st_size, max_bytes) + 1)
            while len(data) <= max_bytes and (more := file.read(1 << 16)):
                data += more
    except FileNotFoundError as error:
        raise FileError("file is missing", expected=path) from error
    if len(data) > max_bytes:
        raise FileError(f"{path} is too large", expected=f"<= {max_bytes} bytes")
    return data


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parsed JSON of `path`. Raises `FileError` if absent, too large or malformed."""
    data = read_bytes(path, max_bytes)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not JSON", found=str(error)) from error


def make_directory(path: Path) -> None:
    """Create `path` and its parents so that they survive a power cut."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(root: Path) -> int:
    """Delete temporary files that a killed process left under `root`; returns how many.

    Only for the one process that may write there: a live writer's file would go too.
    """
    count = 0
    for path in root.rglob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)
        count += 1
    return count
