"""A tip brought onto corners of a board by hand: the pose of the arm's hand is noted. Commands no motion."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Sequence

import numpy as np

from calibration import rigid
from calibration.chain import Chain
from calibration.verify import Touch, Touches, Triple, VerifyError
from runtime.arms.session import Session

_READINGS = 10
"""Of the joints, once the tip is said to be on a corner: their mean is what counts."""


def touched(
    session: Session,
    chain: Chain,
    corners: Sequence[int],
    tip_m: Triple,
    say: Callable[[str], None],
) -> Touches:
    """One after the other, each when Enter is pressed. `tip_m`: in the hand's frame. Raises `VerifyError`
    where nobody can press it, and `DeviceError`."""
    lines = _typed()
    touches = []
    for corner in corners:
        say(f"bring the tip onto corner {corner} of the board, hold it there, press Enter")
        while not _entered(lines):
            session.pause()
        readings = np.mean([session.pause().positions for _ in range(_READINGS)], axis=0)
        pose = chain.base_T_hand(session.action.names, readings.tolist())
        x, y, z = pose[:3, 3].tolist()
        turn = rigid.to_quaternion(pose[:3, :3])
        touches.append(Touch(corner=corner, position_m=(x, y, z), quaternion_xyzw=turn))
    return Touches(tip_m=tip_m, touches=tuple(touches))


def _typed() -> queue.SimpleQueue[str]:
    """Lines as they are typed, "" at the end of them: the robot's watchdog must not wait for a person."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    return lines


def _entered(lines: queue.SimpleQueue[str]) -> bool:
    try:
        line = lines.get_nowait()
    except queue.Empty:
        return False
    if not line:
        raise VerifyError(
            "nobody says when the tip is on a corner",
            expected="Enter, once for each",
            found="the end of the input",
            remedy="run it on a terminal",
        )
    return True
