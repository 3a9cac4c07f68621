"""One robot of a fleet, in a process of its own: `python -m benchmarks.fleet_robot ASKED.json`.

A real link with keys of its own, and this process as its control: recorded episodes go into the ring as fast
as the link takes them (or at a rate), and what the trainer releases is swapped in between two of them. It
says "ready" once it is welcome, begins at a line on its standard input, goes on until SIGTERM and until all
that it recorded is stored, and then prints what it did as one line of JSON (`Did`). SIGINT ends it at once.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.fleet_replay import Parts, Recorded
from benchmarks.push_ends import RobotEnd
from contracts import wire
from contracts.errors import EntracteError
from contracts.files import atomic
from contracts.files.packages import load_package
from contracts.files.stop_event import StopEvent
from contracts.messages import ReleaseOutcome
from runtime.board import LinkState
from runtime.config import LinkSection
from runtime.engines import EngineOptions
from trainer.store import load_dataset

RING_BYTES = 32 << 20
MOST_SPOOLED = 8
"""With more it waits, as a robot whose disk is full: what is sent faster than it is stored is bounded."""
MAX_ASKED_BYTES = 1 << 20


class Asked(msgspec.Struct, frozen=True):
    """`recorded`: data set whose episodes are sent, over and over. `rate_hz`: steps a second, 0: no limit.
    `endpoints` by socket."""

    robot_id: str
    folder: str
    package: str
    recorded: str
    endpoints: dict[str, str]
    rate_hz: float = 0.0


class Sent(msgspec.Struct, frozen=True):
    """One episode. `version`: what acted, by the robot's slots. Times are this machine's wall clock."""

    seq: int
    steps: int
    version: int
    began_unix_s: float
    ended_unix_s: float


class Did(msgspec.Struct, frozen=True):
    """Everything, in order. `swapped`: (release, first episode that it acted in); `refused`: releases that
    the robot did not take, and why."""

    robot_id: str
    sent: tuple[Sent, ...]
    swapped: tuple[tuple[int, int], ...]
    refused: tuple[str, ...]


class Robot(RobotEnd):
    """`episode` plays one; in the end `drained` is waited for."""

    def __init__(self, asked: Asked) -> None:
        package = load_package(Path(asked.package))
        self._recorded = [Recorded(one) for one in load_dataset(Path(asked.recorded))]
        self._asked, self._package_id = asked, package.package_id
        self.sent: list[Sent] = []
        self.swapped: list[tuple[int, int]] = []
        self.refused: list[str] = []
        self._reports = 0
        super().__init__(
            Path(asked.folder),
            package,
            LinkSection(
                frames=asked.endpoints["frames"],
                episodes=asked.endpoints["episodes"],
                weights=asked.endpoints["weights"],
                health=asked.endpoints["health"],
                curve="always",
            ),
            EngineOptions(),
            robot_id=asked.robot_id,
            ring_bytes=RING_BYTES,
        )

    def greet(self) -> None:
        session = msgspec.structs.replace(
            self._recorded[0].session,
            robot_id=self._asked.robot_id,
            session_id=self._run.session_id,
            colour_codec="raw",
            depth_codec="raw",
        )
        self._push(wire.pack(session))
        self._wait("the greeting", lambda: self._board.link_state == LinkState.WELCOME)

    def episode(self) -> None:
        """What waits is swapped in, then one recorded episode; every other one is told a success."""
        seq = len(self.sent)
        self._wait("room for an episode", lambda: self._board.spooled < MOST_SPOOLED)
        if self._board.staged_policy_seq > self._swapper.tried:
            self._tell(self._swapper.swap(seq), seq)
        recorded = self._recorded[seq % len(self._recorded)]
        version, began_s = self._swapper.version, time.time()
        start = msgspec.structs.replace(
            recorded.start,
            robot_id=self._asked.robot_id,
            session_id=self._run.session_id,
            episode_seq=seq,
            purpose="refine",
            policy_version=version,
            policy_id=self._package_id,
            scene_seed=seq,
            started_at_unix_s=began_s,
        )
        first_s, rate_hz = time.monotonic(), self._asked.rate_hz
        for index, parts in enumerate(recorded.packets(start, seq % 2 == 0)):
            if rate_hz:
                time.sleep(max(0.0, first_s + index / rate_hz - time.monotonic()))
            self._board.tick += 1
            self._push(parts)
        self.sent.append(Sent(seq, recorded.steps, version, began_s, time.time()))
        outcome = self._swapper.settle()
        self._tell([outcome] if outcome else [], seq)

    def drain(self) -> None:
        """Until everything is stored, and the trainer has heard what became of its releases."""
        spool = self._run.spool_dir
        self._wait("an empty ring", lambda: not self._ring.waiting)
        self._wait("an empty spool", lambda: not list(spool.glob("*.elog*")))
        self._wait("its last report", lambda: not list(spool.glob("outcomes/*.wire")))

    def _tell(self, outcomes: list[ReleaseOutcome], seq: int) -> None:
        for outcome in outcomes:
            if outcome.outcome == "swapped":
                self.swapped.append((outcome.publish_seq, seq))
            elif outcome.outcome == "rejected":
                self.refused.append(f"release {outcome.publish_seq}: {outcome.reason}")
            self._reports += 1
            report_id = outcome.report_id or f"{self._run.session_id}.{self._reports}"
            named = msgspec.structs.replace(outcome, report_id=report_id)
            self._push(wire.pack(named))

    def _push(self, parts: Parts) -> None:
        self._wait("room in the ring", lambda: self._ring.try_push(parts))


def main() -> None:
    asked = msgspec.json.decode(atomic.read_bytes(Path(sys.argv[1]), MAX_ASKED_BYTES), type=Asked)
    stopping = StopEvent()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    # Also where who started all this was told to ignore it, as by a shell in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        robot = Robot(asked)
        with robot:
            robot.greet()
            print("ready", flush=True)
            sys.stdin.readline()
            while not stopping.is_set():
                robot.episode()
            robot.drain()
    except EntracteError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("it was told to end")
    did = Did(asked.robot_id, tuple(robot.sent), tuple(robot.swapped), tuple(robot.refused))
    print(msgspec.json.encode(did).decode(), flush=True)


if __name__ == "__main__":
    main()
