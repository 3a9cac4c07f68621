"""Control's end of a camera that a capture process has: its spec in a file, its pictures in slots."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from contracts.errors import DeviceError
from contracts.specs import CameraSpec
from runtime.board import Board
from runtime.frames import Frame, FrameSlots
from runtime.run import Run

_POLL_S = 0.02
_MORE_S = 5.0
"""Longer than the capture process itself waits: it knows why there is no picture, control only that."""


def announce(path: Path, spec: CameraSpec) -> None:
    """Tell control that the camera is open and its slots hold a picture."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.encode(spec))
    os.replace(draft, path)


def announced(path: Path) -> CameraSpec | None:
    """What `announce` said, or None."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CameraSpec)
    except FileNotFoundError:
        return None


class SlotsCamera:
    """`runtime.cameras.Camera` whose pictures somebody else puts into slots. Nothing here waits."""

    def __init__(self, spec: CameraSpec, path: Path) -> None:
        """`path`: of the slots, which exist."""
        self._spec = spec
        self._slots = FrameSlots.open(path)

    def spec(self) -> CameraSpec:
        return self._spec

    def newest(self, now_s: float) -> Frame | None:
        return self._slots.newest(now_s)

    def nearest(self, now_s: float, at_s: float) -> Frame | None:
        return self._slots.nearest(now_s, at_s)

    def close(self) -> None:
        """Nothing: the slots are their writer's."""


class CapturedCamera(SlotsCamera):
    """Of a capture process: waits for the first picture when made, never afterwards."""

    def __init__(self, run: Run, name: str) -> None:
        timeout_s = run.config.cameras[name].start_timeout_s + _MORE_S
        give_up_s = time.monotonic() + timeout_s
        with Board.open(run.board_path) as board:
            while (spec := announced(run.camera_path(name))) is None:
                if board.stop_requested:
                    raise DeviceError(f"stopped while camera '{name}' was waited for")
                if time.monotonic() > give_up_s:
                    raise DeviceError(
                        f"camera '{name}' gave no picture",
                        found=f"none in {timeout_s:g} s",
                        remedy=f"see logs/camera-{name}.log in the run folder",
                    )
                time.sleep(_POLL_S)
        super().__init__(spec, run.frames_path(name))
