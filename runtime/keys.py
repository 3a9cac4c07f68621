"""A person's label at the end of an episode: s for success, f for failure, Enter. Never blocks."""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import TextIO

from runtime.board import Board

SUCCESS, FAILURE = 1, 2
_MEANING = {"s": SUCCESS, "f": FAILURE}


class Keys:
    """Asks when control wants a label (`board.label_wanted`) and posts the answer on the board."""

    def __init__(
        self,
        source: TextIO = sys.stdin,
        say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
    ) -> None:
        self._source, self._say = source, say
        self._asked = 0

    def __call__(self, board: Board) -> None:
        wanted = board.label_wanted
        if not wanted:
            return
        if wanted != self._asked:
            self._asked = wanted
            self._say("did it succeed? s or f, then Enter")
        while select.select([self._source], [], [], 0.0)[0]:
            line = self._source.readline()
            label = _MEANING.get(line.strip().lower()[:1])
            if label is not None:
                board.operator_label = label
                return
            if not line:
                return  # end of input: the episode stays without a label
            self._say("s or f, please")
