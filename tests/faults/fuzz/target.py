"""What a fuzzer needs to know of one decoder: inputs to begin with, how to change them, and what to feed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tests.faults.fuzz.mutation import Mutator

Feed: TypeAlias = Callable[[bytes], None]
"""Decodes one input as the product would; only an `EntracteError` may come out."""


@dataclass(frozen=True)
class Target:
    """`open` is given an empty folder in memory and yields the feed. `share`: how many of a run's messages
    are this decoder's, against the others'. `grows_mib`: what the decoder's own caps let it hold."""

    name: str
    seeds: Callable[[], list[bytes]]
    mutate: Mutator
    open: Callable[[Path], AbstractContextManager[Feed]]
    share: float = 1.0
    grows_mib: int = 64


def memory_folder() -> str | None:
    """Where to put scratch files: syncing them costs nothing there. None: the machine has no such place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def plain(feed: Feed) -> Callable[[Path], AbstractContextManager[Feed]]:
    """An `open` for a decoder without files and state."""
    from contextlib import nullcontext

    return lambda _folder: nullcontext(feed)
