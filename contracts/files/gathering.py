"""Puts together what several robots on the bench have left: rows of truth, recorded episodes.

Who ran which episode, and in which order they are wanted, the caller knows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contracts.files.dataset_copy import copy_episode, open_like
from contracts.files.dataset_format import INFO_PATH
from contracts.files.dataset_reader import DatasetReader


def truth_rows(path: Path) -> list[dict[str, Any]]:
    """The episodes' truth as the bench wrote it; none without a file. Half a line of a bench that was killed
    is left out. Raises `OSError`."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def recorded(root: Path) -> dict[int, int]:
    """`episode_seq` -> its place in the data set at `root`; nothing where none was begun. Raises
    `EntracteError` for one that can't be read: it is not empty."""
    found: dict[int, int] = {}
    if (root / INFO_PATH).exists():
        part = DatasetReader(root)
        for place in range(part.num_episodes):
            found[int(part.meta(place)["extra"]["start"]["episode_seq"])] = place
    return found


def gather(root: Path, wanted: Sequence[tuple[Path, int]]) -> Iterator[int]:
    """Append these episodes, (data set, place) each, to the data set at `root`, made where there is none;
    yields how many it has taken over, after each. Raises `DatasetError` or `OSError`: what came before stays.
    """
    parts = {part: DatasetReader(part) for part in dict.fromkeys(part for part, _ in wanted)}
    if not parts:
        return
    with open_like(root, next(iter(parts.values()))) as writer:
        for count, (part, place) in enumerate(wanted, 1):
            copy_episode(writer, parts[part], place)
            yield count
