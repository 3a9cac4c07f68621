"""Paths as a command is told again in a report or a card: so that it can be typed again where it was typed,
and without this machine's folders.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def typed(words: Sequence[object]) -> str:
    """The command of these words. Of an absolute path what follows the current folder, or its name alone
    behind ".../": reports and packages travel."""
    return shlex.join(_word(word) for word in words)


def _word(word: object) -> str:
    if not isinstance(word, Path) or not word.is_absolute():
        return str(word)
    try:
        return str(word.relative_to(Path.cwd()))
    except ValueError:
        return f".../{word.name}"
