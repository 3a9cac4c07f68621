"""Frames that askers have sent, kept while their episodes go on: each frame once, in bounded memory.

Owns no socket and no model. Frames are named by their content, so a wrong name can only miss.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from contracts.errors import WireError
from contracts.frames import Video
from contracts.reward_service import Ask

Views = Mapping[str, np.ndarray]
Key = tuple[bytes, str]
"""Asker and the asker's name of the session."""


MAX_SESSIONS = 1024


class Sessions:
    """At most `max_bytes` of pictures in all and a quarter of that a session, the longest unused go first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[Key, _Session] = OrderedDict()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: Key, ids: Sequence[bytes], pictures: Mapping[str, np.ndarray]) -> None:
        """Keep K frames, uint8[K, H, W, 3] a camera."""
        session = self._kept.setdefault(key, _Session())
        self._kept.move_to_end(key)
        before = session.nbytes
        for row, name in enumerate(ids):
            session.add(name, {camera: array[row] for camera, array in pictures.items()})
        session.shrink(self._max_bytes // 4)
        self.nbytes += session.nbytes - before
        while len(self._kept) > 1 and (
            self.nbytes > self._max_bytes or len(self._kept) > MAX_SESSIONS
        ):
            _, oldest = self._kept.popitem(last=False)
            self.nbytes -= oldest.nbytes

    def video(self, key: Key, ask: Ask) -> Video | tuple[bytes, ...]:
        """The video that is asked about, or the names of the frames that are not here.

        Raises `EntracteError` where times or pictures don't make a video.
        """
        session = self._kept.get(key)
        if session is None:
            return tuple(dict.fromkeys(ask.frames))
        self._kept.move_to_end(key)
        missing = tuple(dict.fromkeys(f for f in ask.frames if f not in session.frames))
        if missing:
            return missing
        found = [session.use(name) for name in ask.frames]
        layout = {camera: picture.shape for camera, picture in found[0].items()}
        if any({c: p.shape for c, p in views.items()} != layout for views in found):
            raise WireError("frames of one video", expected=layout, found="other cameras or sizes")
        # One small frame can be named thousands of times.
        nbytes = len(found) * sum(picture.nbytes for picture in found[0].values())
        if nbytes > self._max_bytes // 4:
            raise WireError(
                "pictures of one video",
                expected=f"<= {self._max_bytes // 4} bytes (a quarter of frames_mib)",
                found=nbytes,
            )
        views = {camera: np.stack([each[camera] for each in found]) for camera in layout}
        return Video(views, np.array(ask.times_s), np.array(ask.steps, np.int64))

    def forget(self, key: Key) -> None:
        session = self._kept.pop(key, None)
        self.nbytes -= session.nbytes if session is not None else 0


class _Session:
    """One store of frames, the longest unused first."""

    def __init__(self) -> None:
        self.frames: OrderedDict[bytes, Views] = OrderedDict()
        self.nbytes = 0

    def add(self, name: bytes, views: Views) -> None:
        if name in self.frames:
            return
        # A copy: a view would keep the whole message alive when the other frames are gone.
        self.frames[name] = {camera: picture.copy() for camera, picture in views.items()}
        self.nbytes += sum(picture.nbytes for picture in views.values())

    def use(self, name: bytes) -> Views:
        self.frames.move_to_end(name)
        return self.frames[name]

    def shrink(self, max_bytes: int) -> None:
        while self.nbytes > max_bytes and len(self.frames) > 1:
            _, views = self.frames.popitem(last=False)
            self.nbytes -= sum(picture.nbytes for picture in views.values())
