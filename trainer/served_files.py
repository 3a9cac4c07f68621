"""Files that are read in pieces by many robots: kept open, a few at a time. Owns the descriptors."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

from contracts.errors import WireError

MAX_OPEN = 8


class ServedFiles:
    """Reads ranges. What was served is served on when the file is deleted, until it falls out of the few."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, int] = OrderedDict()

    def read(self, path: Path, offset: int, length: int) -> bytes:
        """Exactly that range. Raises `WireError` where the file no longer has it."""
        try:
            data = os.pread(self._descriptor(path), length, offset)
        except OSError as error:
            raise WireError(f"{path.name} is no longer served", found=error.strerror) from error
        if len(data) != length:
            raise WireError(f"{path.name} is shorter than it was", expected=length, found=len(data))
        return data

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, path: Path) -> int:
        if path not in self._open:
            self._open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(path)
        if len(self._open) > MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return self._open[path]
