"""JPEGs of the newest pictures for the page: each encoded once, whoever looks, and no oftener than asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from contracts.errors import EntracteError
from runtime.operator.pages import Jpeg, jpeg
from runtime.operator.status import Looker


class Pictures:
    """Called from the threads of several viewers. A viewer that asks seldom skips pictures; how many were
    skipped by all of them together is counted."""

    def __init__(self, looker: Looker, rate_hz: float, width: int) -> None:
        self._looker, self._period_s, self._width = looker, 1.0 / rate_hz, width
        self._lock = threading.Lock()
        self._newest: dict[str, tuple[Jpeg, float]] = {}
        self.skipped = self.encoded = 0

    def next(self, after: Mapping[str, int], patience_s: float) -> dict[str, Jpeg]:
        """By camera, the newest picture if it is another than number `after`; one is waited for so long."""
        give_up_s = time.monotonic() + patience_s
        while True:
            found: dict[str, Jpeg] = {}
            for camera, known in after.items():
                jpeg = self._encode(camera)
                if jpeg is not None and jpeg.number != known:
                    found[camera] = jpeg
                    if 0 < known < jpeg.number:
                        with self._lock:
                            self.skipped += jpeg.number - known - 1
            if found or time.monotonic() > give_up_s:
                return found
            time.sleep(min(0.02, self._period_s))

    def _encode(self, camera: str) -> Jpeg | None:
        slots = self._looker.slots(camera)
        if slots is None or slots.pictures == 0:
            return None
        with self._lock:
            now_s = time.monotonic()
            known = self._newest.get(camera)
            if known and (known[0].number == slots.pictures or now_s - known[1] < self._period_s):
                return known[0]
            try:
                frame = slots.newest(now_s)
            except EntracteError:
                return known[0] if known else None
            if frame is None:
                return None
            found = Jpeg(frame.number, jpeg(frame.rgb, self._width))
            self._newest[camera] = (found, now_s)
            self.encoded += 1
            return found
