"""Whether an episode succeeded, as far as the reward engine on the robot can say. Owns no threshold: what is
complete was calibrated with the engine's package.
"""

from __future__ import annotations

from contracts.reward import RewardSignal


class Judgement:
    """Of one episode; told of every score, in order."""

    def __init__(self) -> None:
        self._complete = self._sure = self._scored = self._by_hand = False

    def scored(self, signal: RewardSignal, complete: bool, sure: bool) -> None:
        """A score, whether completion is `sure` in it, and whether by now it was for long enough."""
        self._scored = not signal.abstained
        self._complete, self._sure = self._complete or complete, sure

    def helped(self, intervening: bool) -> None:
        """Whether a person has the arm: what they do says nothing of the policy."""
        self._by_hand = self._by_hand or intervening

    def of(self, reason: str) -> bool | None:
        """None where nobody can say: the engine abstained last, a person had the arm, or the episode was cut
        short before it was complete. `reason`: why it ended."""
        if self._by_hand or not self._scored:
            return None
        return True if self._complete else (False if reason == "time_limit" else None)

    def agrees(self, label: bool | None, reason: str) -> bool | None:
        """Whether the engine said what a person or the bench says; None where either is silent. Of a success
        that one of them ended it had said nothing yet: that is a miss unless it was about to."""
        said = self.of(reason)
        if label is None or self._by_hand or not self._scored:
            return None
        if said is None:
            return False if label and not self._sure else None
        return said == label
