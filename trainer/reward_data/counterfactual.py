"""Counterfactual commands: the video stays, another command is asked of it, with the score it then deserves.

Three steps, each a small protocol (RoboReward's way: a model describes, a small one proposes with ordered
scores, a model validates): here the rules that need no model; `model_counterfactual` has the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from trainer.reward_data.commands import (
    COLOURS,
    DIRECTIONS,
    OPENS,
    OPPOSITES,
    OTHER_RELATION,
    Command,
    parse,
    same_thing,
    say,
)
from trainer.rewards.roboreward_rows import HIGHEST, LOWEST

# The highest score that each change may leave, see `RuleProposer`.
MOST_SCORE = {
    "object": 1, "opposite": 1, "direction": 1, "colour": 1, "container": 2, "relation": 3, "compound": 3,
}  # fmt: skip


class Scene(msgspec.Struct, frozen=True):
    """What is known of a video before a command is proposed. `task`: what it was made for, `reward`: how it
    ended; `things`: known to be in view; `elsewhere`: things and places of the source's other commands;
    `description`: a model's, "" without one."""

    task: str
    reward: int
    things: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    description: str = ""


class Proposal(msgspec.Struct, frozen=True):
    """A command that the video does not show done, the 1-4 score it deserves at the end, and the change that
    made it ("object", "container", "opposite", "relation", "direction", "colour", "compound", "model")."""

    task: str
    reward: int
    change: str


class Verdict(msgspec.Struct, frozen=True):
    """Whether a proposal holds, and why (not)."""

    holds: bool
    reason: str = ""


class Proposer(Protocol):
    """`frames` uint8[N, H, W, 3] RGB: the video, for those that look; the order of the answer counts."""

    def propose(
        self, scene: Scene, frames: Sequence[np.ndarray], rng: np.random.Generator
    ) -> list[Proposal]: ...


class Validator(Protocol):
    """Says of each proposal whether it may be used."""

    def validate(
        self, scene: Scene, frames: Sequence[np.ndarray], proposal: Proposal
    ) -> Verdict: ...


class RuleProposer:
    """Swaps one part of the command at a time. Scores are ordered by how much of the command still holds of a
    finished video: another object, the opposite, another direction or another colour of the thing 1 (nothing
    of it happened), another place 2 (the right thing moved), another relation to the right place and a second
    demand on top of the first 3. A video that ended below 5 gives only changes of score 1: what else
    holds of it is unknown; nor does it give opposites, which its scene may show from the start."""

    def propose(
        self, scene: Scene, frames: Sequence[np.ndarray], rng: np.random.Generator
    ) -> list[Proposal]:
        command = parse(scene.task)
        if command is None:
            return []
        proposals = [*_least(command, scene, rng)]
        if scene.reward == HIGHEST:
            proposals += _more(command, scene, rng)
        return proposals


def _least(command: Command, scene: Scene, rng: np.random.Generator) -> list[Proposal]:
    found = []

    def add(change: str, **parts: str) -> None:
        other = msgspec.structs.replace(command, **parts)
        found.append(Proposal(say(other), LOWEST, change))

    for name in _shuffled((*scene.things, *scene.elsewhere), rng)[:3]:
        add("object", thing=name, rest="")
    worn = [w for w in command.thing.split() if w in COLOURS]
    if worn:
        other = _shuffled([c for c in COLOURS if c != worn[0]], rng)[0]
        add("colour", thing=command.thing.replace(worn[0], other))
    if scene.reward < HIGHEST:
        return found
    opposite = OPPOSITES.get(command.verb)
    back = {"on": "off", "in": "out of"}.get(command.relation)
    if opposite == "take" and back:
        add("opposite", verb="take", relation=back)
    elif opposite and command.verb not in ("put", "take"):
        add("opposite", verb=opposite)
    if command.direction and command.direction in command.thing.split():
        turned = DIRECTIONS[command.direction]
        add(
            "direction",
            thing=" ".join(turned if w == command.direction else w for w in command.thing.split()),
        )
    return found


def _more(command: Command, scene: Scene, rng: np.random.Generator) -> list[Proposal]:
    found = []
    if command.relation in OTHER_RELATION:
        for place in _shuffled(scene.places, rng)[:2]:
            other = msgspec.structs.replace(command, place=place)
            found.append(Proposal(say(other), 2, "container"))
        other = msgspec.structs.replace(command, relation=OTHER_RELATION[command.relation])
        found.append(Proposal(say(other), 3, "relation"))
        for name in _shuffled((*scene.things, *scene.elsewhere), rng)[:1]:
            second = msgspec.structs.replace(command, thing=name, rest="")
            found.append(Proposal(f"{say(command)} and then {say(second)}", 3, "compound"))
    return found


class RuleValidator:
    """Refuses what may be true of the video after all, or makes no sense: a command that says the same in
    other words, names that may mean one thing, a thing put on itself, opening what does not open, a score
    out of order for its change."""

    def validate(self, scene: Scene, frames: Sequence[np.ndarray], proposal: Proposal) -> Verdict:
        own = parse(scene.task)
        first, joined, second = proposal.task.partition(" and then ")
        other = parse(second if joined else first)
        if own is None or other is None:
            return Verdict(False, "a command that isn't understood")
        reason = _nonsense(other) or (
            "" if self._differs(own, other) else "the same in other words"
        )
        most = MOST_SCORE.get(proposal.change, HIGHEST - 1)
        if not reason and not LOWEST <= proposal.reward <= min(most, HIGHEST - 1):
            reason = f"score {proposal.reward} for a change of {proposal.change}"
        if not reason and scene.reward < HIGHEST and proposal.reward > LOWEST:
            reason = "a part of it may not hold of a video that did not succeed"
        if not reason and scene.reward < HIGHEST and proposal.change in ("opposite", "direction"):
            reason = "the scene may have shown it from the start"
        return Verdict(not reason, reason)

    @staticmethod
    def _differs(own: Command, other: Command) -> bool:
        turned = own.direction != other.direction
        verbs = {own.verb, other.verb}
        same_verb = len(verbs) == 1 or verbs <= {"put", "move", "stack", "push", "pull"}
        # Whoever puts a thing somewhere has also lifted and moved it.
        same_verb = same_verb or (
            other.verb in ("lift", "move") and own.verb in ("put", "stack", "take")
        )
        thing = same_thing(own.thing, other.thing) and not turned
        place = own.relation == other.relation and same_thing(own.place, other.place)
        return not (same_verb and thing and (place or not other.relation))


def _nonsense(command: Command) -> str:
    if command.place and same_thing(command.thing, command.place):
        return "a thing beside itself"
    if command.verb in ("open", "close") and not any(w in OPENS for w in command.thing.split()):
        return f"a {command.thing} doesn't {command.verb}"
    return ""


def counterfactuals(
    scene: Scene,
    frames: Sequence[np.ndarray],
    count: int,
    rng: np.random.Generator,
    proposer: Proposer,
    validator: Validator,
) -> list[Proposal]:
    """Up to `count` proposals that hold, in a drawn order in which the scores take turns."""
    kept: dict[int, list[Proposal]] = {}
    said = {scene.task}
    proposals = proposer.propose(scene, frames, rng)
    for index in rng.permutation(len(proposals)):
        proposal = proposals[index]
        enough = len(kept.get(proposal.reward, ())) >= count
        if enough or proposal.task in said or not validator.validate(scene, frames, proposal).holds:
            continue
        said.add(proposal.task)
        kept.setdefault(proposal.reward, []).append(proposal)
    turns = [kept[score] for score in rng.permutation(sorted(kept)).tolist()]
    longest = max((len(turn) for turn in turns), default=0)
    return [turn[k] for k in range(longest) for turn in turns if k < len(turn)][:count]


def words_of(tasks: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(things, places) that these commands name, sorted."""
    commands = [c for c in map(parse, tasks) if c is not None]
    things = {c.thing for c in commands if len(c.thing.split()) <= 3 and not c.direction}
    places = {c.place for c in commands if c.place and len(c.place.split()) <= 3}
    return tuple(sorted(things)), tuple(sorted(places))


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    distinct = sorted(set(names))
    return [distinct[i] for i in rng.permutation(len(distinct))]
