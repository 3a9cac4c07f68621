"""A capture from a robot: the arm stands, pictures are judged, the next stand is said or driven to.

Owns the order of things. Moves the arm only through `runtime.arms.session`: its gate, under its watchdog.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import typer

from calibration.capture import suggestion
from calibration.capture.looking import Rejected, Seen
from calibration.capture.progress import Progress, empty_part, hint, progress, text_of
from calibration.capture.shown import Shown, progress_of, shares
from calibration.capture.stillness import STILL_UNITS, Stillness, Stood
from calibration.capture.suggestion import Readings, Room, Sight
from calibration.capture.taking import Capture, encoded
from calibration.chain import Chain
from calibration.rigid import Array
from contracts.errors import EntracteError
from contracts.specs import is_gripper
from runtime.arms.session import NotReached, Session

_MORE_TRIES = 3
"""Stands that are tried for each that is wanted."""
_GIVE_UP_S = 30.0
"""For an arm that was sent somewhere to be seen to stand there, on its own clock."""
_MISSES = 3
"""Poses in a row that the arm does not get to: then it is not sent anywhere any more."""


class CaptureError(EntracteError):
    """No capture comes of this."""


@dataclass
class Voice:
    """What is said meanwhile: lines, and on a terminal one that is rewritten. `shown` is the same for a page,
    however quiet the terminal is."""

    quiet: bool = False
    shown: Shown = field(default_factory=Shown)
    _status: str = ""

    def say(self, text: str) -> None:
        self.shown.say(text)
        if not self.quiet:
            self._clear()
            typer.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Said however quiet the rest is: an arm is about to move."""
        self.shown.say(f"WARNING: {text}")
        self._clear()
        typer.echo(f"WARNING: {text}", err=True)

    def status(self, text: str) -> None:
        self.shown.status = text
        if not self.quiet and sys.stderr.isatty() and text != self._status:
            self._clear()
            sys.stderr.write(text)
            sys.stderr.flush()
            self._status = text

    def _clear(self) -> None:
        if self._status:
            sys.stderr.write("\r\x1b[K")
            self._status = ""


@dataclass
class Live:
    """One capture from one session. `stands`: how many are wanted."""

    session: Session
    capture: Capture
    chain: Chain
    stands: int
    voice: Voice
    reach: float
    state: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.state = progress(self.capture)
        self._why = ""
        self._stillness = Stillness(list(self.capture.cameras), self.session.action.names)
        self._sight: Sight | None = None
        self._show()

    # -- a person moves the arm (or, for a lens, the board)

    def by_hand(self) -> None:
        """Take what is good whenever the arm stands, until there is enough. Raises `DeviceError`."""
        here = _pose(self.session.pause().positions)
        room = self._room(here)
        said: tuple[str, ...] = ()
        at: Array = np.full(len(here), np.inf)
        self._say_next(room, here)
        while len(self.capture.samples) < self.stands:
            stood = self._look()
            if stood is None:
                continue
            if np.abs(stood.readings - at).max() > STILL_UNITS:
                said, at = (), stood.readings
            name, rejected = self._judge(stood)
            kinds = tuple(sorted(f"{who} {one.kind}" for who, one in rejected.items()))
            if not name and kinds != said and not _waits(rejected):
                self._reject(rejected)
            said = kinds
            if name:
                self._took(name)
                here = _pose(stood.readings)
                room.tried.append(here)
                self._say_next(room, here)

    # -- the arm moves itself

    def automatic(self, speed: float) -> None:
        """From where the arm stands and sees the board, through poses of its own choice, `speed` units a
        second; back to where it began at the end. A pose that it does not get to is not taken. Raises
        `CaptureError`, `GateFault` and `DeviceError`."""
        session = self.session
        self._warn()
        session.take_arm()
        start = here = session.held
        room = self._room(start)
        room.tried.append(here)
        if not self._stand():
            raise CaptureError(
                "nothing can be taken from where the arm stands",
                found=self._why,
                remedy="bring the arm where its camera sees the whole board, and start again",
            )
        for name in self.capture.cameras:
            if not self.capture.seen(name):
                self.voice.warn(
                    f"{name} HAS NOT SEEN ITS BOARD: until it has, nothing keeps it away from that"
                )
        missed = 0
        for _ in range(_MORE_TRIES * self.stands):
            if len(self.capture.samples) >= self.stands:
                break
            there = session.aside(partial(self._next, room, here))
            if there is None:
                self.voice.say(
                    f"no further pose within {room.reach:g} of the start shows the board: ends here"
                )
                break
            self._tell_next(self._words(here, there), there)
            room.tried.append(there)
            self.voice.status("the arm goes to the next stand")
            reached = self._go(there, speed)
            here = there if reached else self._stands_at(here)
            missed = 0 if reached else missed + 1
            if not (reached and self._stand()):
                self.voice.say(f"  not taken: {self._why}")
            if missed >= _MISSES:
                self.voice.say(f"{missed} poses in a row were not reached: ends here")
                break
        self._go_back(room, here, speed)

    def _warn(self) -> None:
        """What an arm that moves itself does not know, before it is taken."""
        self.voice.say(
            f"the arm moves itself now: joints up to {self.reach:g} units from here, at first up to "
            f"{min(self.reach, suggestion.FARTHEST_PROBE):g} and blindly; it knows of no obstacle, the board "
            "among them"
        )
        if not self.session.knows_workspace:
            self.voice.warn(
                "NO WORKSPACE IS CHECKED: the gate does not know where in space this arm is; nothing but its "
                "joints' ranges and --reach keeps it from the table, the board or itself. Clear all that it "
                "can reach, begin with a small --reach, and keep the emergency stop at hand"
            )

    def _go(self, there: Readings, speed: float) -> bool:
        """Whether the arm got there; else it holds where it came to."""
        try:
            self.session.go(there, speed)
        except NotReached as error:
            self._reject({"": Rejected("unreached", str(error))})
            return False
        return True

    def _stands_at(self, sent: Readings) -> Readings:
        """Where an arm is that did not get where it was sent; grippers as they were told."""
        read = _pose(self.session.pause().positions)
        names = self.session.action.names
        return tuple(
            told if is_gripper(name) else at
            for name, at, told in zip(names, read, sent, strict=True)
        )

    def _go_back(self, room: Room, here: Readings, speed: float) -> None:
        if here == room.start:
            return
        if not room.may_go(here, room.start):
            self.voice.say(
                "the arm stays where it is: its straight way back to the start leads out of the workspace"
            )
        elif not self._go(room.start, speed):
            self.voice.say(f"the arm is not back where it began: {self._why}")

    def _stand(self) -> bool:
        """Whether a stand was taken where the arm is; a board that still swings is waited for."""
        self._stillness.restart()
        give_up_s = self.session.now_s() + _GIVE_UP_S
        while True:
            stood = self._look()
            late = self.session.now_s() > give_up_s
            if stood is None and not late:
                continue
            if stood is None:
                why = f"the arm does not come to stand in {_GIVE_UP_S:g} s"
                self._reject({"": Rejected("moving", why)})
                return False
            name, rejected = self.session.aside(partial(self._judge, stood))
            if name:
                self._took(name)
                return True
            if late or not _swings(rejected):
                self._reject(rejected)
                return False

    # -- both

    def _look(self) -> Stood | None:
        """A period in which the arm is left alone; the stand, once it is one."""
        session = self.session
        joints = session.pause()
        now_s = session.now_s()
        frames = {name: session.cameras[name].newest(now_s) for name in self.capture.cameras}
        self.voice.shown.frames = frames
        stood = self._stillness.add(joints, frames)
        if stood is not None:
            self._stillness.restart()
        else:
            still = self._stillness.standing_s
            self.voice.status("the arm moves" if still < 0.1 else f"it stands ({still:.1f} s)")
        return stood

    def _judge(self, stood: Stood) -> tuple[str, Mapping[str, Rejected]]:
        """The name of the stand that was taken, or empty; and what was rejected, by camera. All look at one
        board: where any of them sees it move, however few stands it has, no other's corners are to be had."""
        capture = self.capture
        hand = self.chain.base_T_hand(self.session.action.names, stood.readings.tolist())
        rejected, seen = dict(stood.late), dict[str, Seen]()
        for name, (earlier, later) in stood.pictures.items():
            found = capture.look_twice(name, earlier.rgb, later.rgb)
            if isinstance(found, Rejected):
                rejected[name] = found
            else:
                seen[name] = found
        if not seen or _swings(rejected):
            return "", rejected
        if twin := capture.alike(hand, seen):
            return "", {"": Rejected("alike", f"it shows what stand {twin} does: move on")}
        kept = {name: encoded(f.rgb, f.depth) for name in seen for f in [stood.pictures[name][1]]}
        for name, one in rejected.items():
            capture.reject(one, name)
        return capture.take(hand, seen, kept, _pose(stood.readings)), rejected

    def _reject(self, rejected: Mapping[str, Rejected]) -> None:
        for name, one in rejected.items():
            self.capture.reject(one, name)
        self.voice.shown.rejected = dict(self.capture.rejections)
        self._why = "; ".join(
            f"{name}: {one.why}" if name else one.why for name, one in rejected.items()
        )
        self.voice.status(self._why)
        self.voice.shown.why = self._why

    def _took(self, name: str) -> None:
        self.session.aside(self._judge_all)
        seen = self.capture.samples[-1].views
        what = ", ".join(
            f"{camera} {len(view.pixels)} corners, tilt {self.capture.seen(camera)[-1].tilt_deg:.0f} deg, "
            f"{self.capture.seen(camera)[-1].distance_m:.2f} m"
            for camera, view in seen.items()
        )
        self.voice.say(f"stand {name} taken, {len(self.capture.samples)} of {self.stands}: {what}")
        self.voice.say(text_of(self.state, dict(self.capture.rejections)))

    def _judge_all(self) -> None:
        """How far it is with the stand that was taken; takes up to a second."""
        capture = self.capture
        self.state = progress(capture)
        if (solved := self.state.solved) is None:
            self._sight = None
        else:
            guards = suggestion.guards_of(capture.pinholes, capture.samples, solved)
            near = (*solved[0].cameras, *guards)
            first = {one.name: capture.seen(one.name)[0].distance_m for one in near}
            self._sight = Sight.of(self.chain, capture.cameras, solved, first, guards)
        self._show()

    def _room(self, start: Readings) -> Room:
        return Room(self.session.action, start, self.reach, self.session.allows)

    def _next(self, room: Room, here: Readings) -> Readings | None:
        sight, found = self._sight, None
        if sight is not None:
            found = suggestion.best(room, here, sight, seed=len(room.tried))
        return found or suggestion.probe(room, here)

    def _words(self, here: Readings, there: Readings) -> str:
        names = self.session.action.names
        return suggestion.in_words(names, here, there, self._sight, self.chain)

    def _say_next(self, room: Room, here: Readings) -> None:
        """To a person, who need not follow it."""
        if len(self.capture.samples) >= self.stands:
            return
        name = next(iter(self.capture.cameras))
        seen = self.capture.seen(name)
        if self.capture.lens_only and seen:
            part = empty_part(seen, self.capture.cameras[name].lens)
            self._tell_next(f"the board into the {part} of {name}'s picture; {hint(seen)}")
            return
        sight = self._sight
        there = None if sight is None else suggestion.best(room, here, sight, seed=len(seen))
        self._tell_next(hint(seen) if there is None else self._words(here, there), there)

    def _tell_next(self, words: str, there: Readings | None = None) -> None:
        """In words, and where a result tells it as the board's outline in the pictures."""
        self.voice.say(f"  next: {words}")
        sight, names = self._sight, self.session.action.names
        found = {} if sight is None or there is None else suggestion.outlines(sight, names, there)
        lenses = {name: self.capture.cameras[name].lens for name in found}
        shown = self.voice.shown
        shown.next = words
        shown.targets = {name: shares(one, lenses[name]) for name, one in found.items()}

    def _show(self) -> None:
        shown = self.voice.shown
        shown.progress, shown.why = progress_of(self.capture, self.state), ""
        shown.rejected = dict(self.capture.rejections)


def _pose(values: Array | np.ndarray) -> Readings:
    return tuple(float(value) for value in values)


def _swings(rejected: Mapping[str, Rejected]) -> bool:
    """A camera saw the board move."""
    return any(one.kind == "moving" for one in rejected.values())


def _waits(rejected: Mapping[str, Rejected]) -> bool:
    """Nothing is wrong: this stand was taken, and the arm has not moved on."""
    return all(one.kind == "alike" for one in rejected.values())
