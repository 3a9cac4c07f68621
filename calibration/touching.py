"""A tip brought onto corners of a board by hand: the pose of the arm's hand is noted. Commands no motion."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

import numpy as np

from calibration import rigid
from calibration.chain import Chain
from calibration.verify import Touch, Touches, Triple, VerifyError
from runtime.arms.session import Session

_READINGS = 10
"""Of the joints, once the tip is said to be on a corner: their mean is what counts."""
_STDIN, _LINES = 0, 1000


def touched(
    session: Session,
    chain: Chain,
    corners: Sequence[int],
    tip_m: Triple,
    say: Callable[[str], None],
) -> Touches:
    """One after the other, each when Enter is pressed. `tip_m`: in the hand's frame. Raises `VerifyError`
    where nobody can press it, and `DeviceError`."""
    touches = []
    for corner in corners:
        _entered()  # what was typed before it was asked for says nothing of this corner
        say(f"bring the tip onto corner {corner} of the board, hold it there, press Enter")
        while not _entered():
            session.pause()
        readings = np.mean([session.pause().positions for _ in range(_READINGS)], axis=0)
        pose = chain.base_T_hand(session.action.names, readings.tolist())
        x, y, z = pose[:3, 3].tolist()
        turn = rigid.to_quaternion(pose[:3, :3])
        touches.append(Touch(corner=corner, position_m=(x, y, z), quaternion_xyzw=turn))
    return Touches(tip_m=tip_m, touches=tuple(touches))


def _entered() -> bool:
    """Whether Enter was pressed since this was asked last. It waits for nobody: the robot's watchdog must not
    wait for a person. Raises `VerifyError` at the end of the input."""
    typed = b""
    try:
        # A terminal gives a line at a time; one that never ends must not keep the watchdog waiting.
        for _ in range(_LINES):
            if not select.select([_STDIN], [], [], 0)[0]:
                break
            some = os.read(_STDIN, 4096)
            typed += some
            if not some and typed:
                break  # the next time it is the end that is found
            if not some:
                raise VerifyError(
                    "nobody says when the tip is on a corner",
                    expected="Enter, once for each",
                    found="the end of the input",
                    remedy="run it on a terminal",
                )
    except OSError as error:
        raise VerifyError("nobody can say when the tip is on a corner", found=str(error)) from error
    return b"\n" in typed
