"""metrics.jsonl: one JSON object a line, appended as things happen. Readers skip a torn last line."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from contracts.files import atomic


class Metrics:
    """Appends records; safe from several threads. Every record has "kind" and "unix_s". A line that the disk
    does not take is counted in `lost` and nothing more: the work goes on."""

    def __init__(self, path: Path) -> None:
        atomic.make_directory(path.parent)
        self._path = path
        self._lock = threading.Lock()
        self.lost = 0
        if path.exists() and path.stat().st_size:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    # Cut off by a kill in the middle of a write: close that line, readers skip it.
                    file.write(b"\n")

    def add(self, kind: str, **fields: Any) -> bool:
        """Whether the record was written."""
        record = {"kind": kind, "unix_s": time.time(), **_plain(fields)}
        try:
            with self._lock:
                atomic.append_line(self._path, json.dumps(record, allow_nan=False).encode())
        except OSError:
            self.lost += 1
            return False
        return True

    def sync(self) -> None:
        """What was added so far survives a power cut."""
        with self._path.open("a") as file:  # no lock: who adds must not wait for the disk
            os.fsync(file.fileno())

    def add_missing_iteration(self, iteration: int, record: dict[str, Any]) -> None:
        """Add an iteration's record unless the file has it (a kill came between state and metrics)."""
        if not record:
            return
        written = records_of(self._path, "iteration") if self._path.exists() else iter(())
        if not any(r["iteration"] == iteration for r in written):
            self.add("iteration", **record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole records of a metrics file."""
    with path.open("rb") as file:
        return list(_records(file))


def records_of(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The whole records of one kind, one after the other: of a year's file, no more is held in memory."""
    named = json.dumps(kind).encode()
    with path.open("rb") as file:
        found = _records(line for line in file if named in line)
        yield from (record for record in found if record["kind"] == kind)


def last_of(path: Path, kind: str) -> dict[str, Any]:
    """The last whole record of that kind; {} where there is none."""
    last: dict[str, Any] = {}
    for record in records_of(path, kind) if path.exists() else ():
        last = record
    return last


def _records(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and isinstance(record.get("kind"), str):
            yield record


def _plain(value: Any) -> Any:
    """JSON has no NaN: None stands for a figure that there isn't."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
