"""Who moves the arm: the policy, or a person who took over. Owns the hand-over in both directions.

Taking over: the policy is not asked any more and the arm holds until the hand is there; a leader arm must
stand near the arm first, and its pose is then faded in from the last command. Handing back: what the policy
wants is faded in likewise. The gate judges every command as ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from contracts.specs import ActionSpec
from runtime.control.scheduler import NOTHING, Choice
from runtime.operator.floor import Flag, Floor
from runtime.operator.section import OperatorSection
from runtime.teleoperation import KEYBOARD
from runtime.teleoperation.page import JOG, LEADER, NOBODY, HandPage, Wish

_LEAD_S = 0.15
"""How far ahead of the last command a jogged target may run: a key that is let go stops the arm so soon."""


def near(leader: Sequence[float], arm: Sequence[float]) -> float:
    """The largest distance of a joint, in its unit."""
    return max((abs(a - b) for a, b in zip(leader, arm, strict=True)), default=0.0)


@dataclass
class Fade:
    """From a pose to whatever is wanted, over `ticks`: a smooth step, 3s² - 2s³."""

    start: tuple[float, ...] = ()
    ticks: int = 0
    done: int = 0

    def begin(self, start: Sequence[float], ticks: int) -> None:
        self.start, self.ticks, self.done = tuple(start), ticks, 0

    def mix(self, wanted: Sequence[float]) -> tuple[float, ...]:
        if self.done >= self.ticks:
            return tuple(wanted)
        self.done += 1
        share = self.done / self.ticks
        weight = share * share * (3.0 - 2.0 * share)
        return tuple(a + weight * (b - a) for a, b in zip(self.start, wanted, strict=True))


class Helm:
    """`intervening`: a person has the arm; the step is theirs. `returned`: set when it was handed back, for
    the episode to start the policy afresh and to clear."""

    def __init__(
        self,
        floor: Floor,
        pages: Mapping[str, HandPage],
        section: OperatorSection,
        spec: ActionSpec,
        rate_hz: float,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._floor, self._pages, self._section, self._spec = floor, pages, section, spec
        self._period_s, self._now_s = 1.0 / rate_hz, now_s
        self._fade, self._fade_ticks = Fade(), max(1, round(section.blend_s * rate_hz))
        self._matched = False
        self._target: tuple[float, ...] = ()
        self._commanded: tuple[float, ...] = ()
        self._stood = False
        """The arm has braked since it changed hands; from a pose that it passes it would be drawn back."""
        self.intervening = self.returned = False

    def begin_episode(self) -> None:
        self.intervening = self.returned = self._matched = False
        self._fade.ticks = 0
        self._show()

    def start_afresh(self) -> None:
        """After the arm was held (a pause, old readings) the hand may be anywhere: a leader must stand near
        the arm again and is faded in, a jogged target begins at the arm. So does what is left of a fade."""
        self._matched, self._target = False, ()
        if self._fade.done < self._fade.ticks:
            # Its ticks are spent once: a policy that runs out of actions is held now and then.
            self._fade.ticks, self._fade.done = self._fade.ticks - self._fade.done, 0
        self._show()

    def steer(self, commanded: Sequence[float]) -> Choice | None:
        """The person's action from the last commanded pose; None: the policy has the arm."""
        desk = self._floor.wants_helm
        stands, self._commanded = tuple(commanded) == self._commanded, tuple(commanded)
        self._stood |= stands
        if not desk:
            if self.intervening:
                self.intervening, self._matched, self.returned = False, False, True
                self._stood = stands
                self._fade.begin(commanded, self._fade_ticks)
                self._show()
            elif self._fade.done == 0 < self._fade.ticks:
                self._fade.start = tuple(commanded)  # it may still be braking
            return None
        if not self.intervening:
            self.intervening, self._matched, self._target = True, False, ()
            self._stood = stands
        keyboard = self._section.teleoperator == KEYBOARD
        wish, now_s = self._pages[desk if keyboard else "device"].read(), self._now_s()
        if keyboard and (wish is None or wish.kind == NOBODY):
            wish = Wish(JOG, (0.0,) * len(commanded), now_s, now_s)  # no key was pressed yet
        if wish is not None and wish.kind == JOG:
            return self._jog(wish, commanded, now_s)
        return self._follow(wish, commanded, now_s)

    def ease(self, choice: Choice) -> Choice:
        """The policy's choice; just after it got the arm back nothing until that stands, then faded in."""
        if choice.action is None or self._fade.done >= self._fade.ticks:
            return choice
        if self._fade.done == 0 and not self._stood:
            return NOTHING
        return replace(choice, action=self._fade.mix(choice.action))

    # -- inside

    def _follow(self, wish: Wish | None, commanded: Sequence[float], now_s: float) -> Choice:
        fresh = (
            wish is not None
            and wish.kind == LEADER
            and now_s - wish.at_s <= self._section.leader_timeout_s
            and all(map(math.isfinite, wish.values))
        )
        if wish is None or not fresh:
            self._match(False)
            return NOTHING
        self._target = ()
        if not self._matched:
            if not self._stood or near(wish.values, commanded) > self._section.match_within:
                self._match(False)
                return NOTHING
            self._fade.begin(commanded, self._fade_ticks)
        self._match(True)
        return Choice(self._fade.mix(wish.values))

    def _jog(self, wish: Wish, commanded: Sequence[float], now_s: float) -> Choice:
        self._match(True)
        speed = self._section.jog_speed
        shares = wish.values if now_s < wish.until_s else (0.0,) * len(commanded)
        if not self._target:
            if not (any(shares) and self._stood):  # else it is drawn back to where it still brakes
                return Choice(tuple(commanded))
            self._target = tuple(commanded)
        target = []
        for joint, share in enumerate(shares):
            lawful = max(-1.0, min(1.0, share)) if math.isfinite(share) else 0.0
            value = self._target[joint] + lawful * speed * self._period_s
            lead = speed * _LEAD_S
            value = min(max(value, commanded[joint] - lead), commanded[joint] + lead)
            target.append(min(max(value, self._spec.low[joint]), self._spec.high[joint]))
        self._target = tuple(target)
        return Choice(self._target)

    def _match(self, matched: bool) -> None:
        self._matched = matched
        self._show()

    def _show(self) -> None:
        self._floor.flag(Flag.TAKEN_OVER, self.intervening and self._matched)
        self._floor.flag(Flag.MATCHING, self.intervening and not self._matched)
