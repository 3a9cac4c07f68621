"""Delays put between the simulated bench and its loop, and what `robot-calibrate latency` finds of them.

    python -m benchmarks.latency

Real processes of the bench, the real gate, and `Camera` and `Arm` as the loop has them. Without a delay the
bench's pictures are one physics step (4 ms) old, which is found, too; its servos' lag is taken off the arm's.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import deque

import numpy as np

from calibration.latency import measure
from calibration.latency.measure import Latencies
from runtime.arms import Arm, ArmState
from runtime.arms.session import Session
from runtime.cameras import Camera
from runtime.config import load_config
from runtime.frames import Frame

PLAIN = ["loop.rate_hz=30", "cameras.front.rate_hz=30", "cameras.wrist.rate_hz=30"]
DELAYS_S = (0.0, 0.01, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2)


class LateCamera:
    """A camera whose times are those of arrival, `late_s` after the picture."""

    def __init__(self, camera: Camera, late_s: float) -> None:
        self._camera, self._late_s = camera, late_s
        self._way: deque[Frame] = deque(maxlen=64)
        self.spec, self.close = camera.spec, camera.close

    def newest(self, now_s: float) -> Frame | None:
        frame = self._camera.newest(now_s)
        if frame is not None and (not self._way or frame.number != self._way[-1].number):
            self._way.append(
                Frame(
                    frame.rgb.copy(),
                    frame.depth,
                    frame.captured_s + self._late_s,
                    now_s,
                    frame.number,
                )
            )
        arrived = [one for one in self._way if one.captured_s <= now_s]
        return arrived[-1] if arrived else None

    def nearest(self, now_s: float, at_s: float) -> Frame | None:
        return self.newest(now_s)


class LateArm:
    """An arm that says how it stood `read_s` ago as if it were now, and obeys `act_s` later."""

    def __init__(self, arm: Arm, read_s: float, act_s: float) -> None:
        self._arm, self._read_s, self._act_s = arm, read_s, act_s
        self._stood: list[ArmState] = []
        self._told: list[tuple[float, np.ndarray]] = []
        self._now_s = 0.0
        self.spec, self.take, self.enable = arm.spec, arm.take, arm.enable
        self.hold, self.close = arm.hold, arm.close

    def read(self) -> ArmState:
        now = self._arm.read()
        self._now_s = now.at_s
        if not self._stood or now.at_s > self._stood[-1].at_s:
            self._stood.append(now)
        times = [one.at_s for one in self._stood]
        wanted = now.at_s - self._read_s
        after = min(bisect_right(times, wanted), len(times) - 1)
        before = max(after - 1, 0)
        share = float(
            np.clip((wanted - times[before]) / max(times[after] - times[before], 1e-9), 0, 1)
        )
        a, b = self._stood[before].positions, self._stood[after].positions
        positions = (a + share * (b - a)).astype(np.float32)
        return ArmState(positions, now.at_s, now.velocities, now.targets)

    def write(self, targets: np.ndarray) -> bool:
        if not self._act_s:
            return self._arm.write(targets)
        self._told.append((self._now_s + self._act_s, targets.copy()))
        times = [due_s for due_s, _ in self._told]
        after = bisect_right(times, self._now_s)
        if after == 0:
            return self._arm.write(self._told[0][1])
        if after == len(times):
            return self._arm.write(self._told[-1][1])
        share = (self._now_s - times[after - 1]) / (times[after] - times[after - 1])
        a, b = self._told[after - 1][1], self._told[after][1]
        return self._arm.write(a + share * (b - a))


def measured(front_s: float, wrist_s: float, read_s: float, act_s: float) -> Latencies:
    with Session(load_config(None, PLAIN)) as session:
        senses, gate = session.robot.senses, session.robot.gate
        cameras = dict(senses.cameras)
        late = {"front": LateCamera(cameras["front"], front_s)}
        late["wrist"] = LateCamera(cameras["wrist"], wrist_s)
        senses.cameras = late
        gate.arm = senses.arm = LateArm(gate.arm, read_s, act_s)
        session.take_arm()
        return measure.latencies(measure.record(session), read_s)


def main() -> int:
    print("| put in, ms | front, ms (±, 95 %) | off | wrist, ms (±, 95 %) | off | arm, ms | off |")
    print("|---|---|---|---|---|---|---|")
    prompt, worst = measured(0.0, 0.0, 0.0, 0.0), 0.0
    for at, late_s in enumerate(DELAYS_S):
        # The wrist camera's and the arm's delays go the other way: none is found through another's.
        wrist_s, act_s = DELAYS_S[::-1][at], DELAYS_S[(at + 5) % len(DELAYS_S)]
        found = measured(late_s, wrist_s, 0.0, act_s)
        cells = [f"{late_s * 1e3:.0f}, {wrist_s * 1e3:.0f}, {act_s * 1e3:.0f}"]
        for name, put_s in (("front", late_s), ("wrist", wrist_s)):
            one = found.cameras[name]
            off_s = one.seconds - put_s
            worst = max(worst, abs(off_s))
            cells += [
                f"{one.seconds * 1e3:.1f} (± {one.half_width_s * 1e3:.1f})",
                f"{off_s * 1e3:+.1f}",
            ]
        act = found.action.seconds - prompt.action.seconds
        worst = max(worst, abs(act - act_s))
        cells += [f"{act * 1e3:.1f}", f"{(act - act_s) * 1e3:+.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"farthest off: {worst * 1e3:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
