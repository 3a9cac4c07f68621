"""JSON files of a run folder as they are found: what is absent or damaged is said, never fatal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from contracts.files import atomic

MAX_LINES_BYTES = 256 * 1024 * 1024


def tree(path: Path, missing: list[str], what: str) -> dict[str, Any] | None:
    """A JSON object, or None. `what`: the sentence for `missing` where there is no such file, "": none."""
    try:
        found = atomic.read_json(path)
    except EntracteError as error:
        if path.exists():
            missing.append(f"{path.name} can't be read: {error}.")
        elif what:
            missing.append(f"{what}.")
        return None
    return found if isinstance(found, dict) else None


def lines(path: Path, missing: list[str], what: str) -> Iterator[dict[str, Any]]:
    """JSON objects, one a line; a cut-off line is skipped."""
    try:
        data = atomic.read_bytes(path, MAX_LINES_BYTES)
    except EntracteError:
        if what:
            missing.append(f"{what}.")
        return
    for line in data.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def number(value: Any) -> float:
    """NaN for what is none."""
    return float(value) if isinstance(value, int | float) else math.nan
