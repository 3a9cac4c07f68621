"""Who takes which episode of an evaluation that several workers share: a file an episode, made by its taker.

Nobody takes an episode twice and nobody waits; whoever sees to it that none is lost can look who had it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


class Claims:
    """`who`: the name under which this worker takes episodes, and nobody else. `folder` exists."""

    def __init__(self, folder: Path, who: str) -> None:
        # Named before it is there: a claim without a name would be nobody's if its worker died. Written once:
        # every claim is this very file.
        self._folder, self._draft = folder, folder / f".{who}"
        self._draft.write_text(who)

    def take(self, index: int) -> bool:
        """Whether that episode is this worker's from now on: False where another one has it."""
        try:
            os.link(self._draft, self._folder / str(index))
        except FileExistsError:
            return False
        return True


def held_by(folder: Path, who: str) -> set[int]:
    """The episodes that this worker took."""
    return {index for index in claimed(folder) if (folder / str(index)).read_text() == who}


def claimed(folder: Path) -> set[int]:
    """The episodes that anybody took."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()}


def release(folder: Path, index: int) -> None:
    """Anybody may take that episode again."""
    with contextlib.suppress(FileNotFoundError):
        (folder / str(index)).unlink()
