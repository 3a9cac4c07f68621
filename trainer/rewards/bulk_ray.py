"""Bulk scoring on Ray: actors, each with the model opened once, that take episodes until none is left. One
whose worker is killed, as for memory, or whose machine is lost is made again elsewhere, at the latest when
another has done its last. Its episode is tried once more after all others, and then left out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from contracts.errors import ConfigError, EntracteError, some_of
from trainer import ray_cluster
from trainer.interfaces import EpisodeKey
from trainer.rewards.bulk import Asked, Item, Runner, Said, Scoring

LOST = 3
"""Episodes that may be lost with worker or machine before one is scored: with more it is not the episodes."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The model can't be opened there."""

    why: str


class Scored(msgspec.Struct, frozen=True, tag=True):
    said: Said


class Actor:
    """Opens the model when the first episode comes, so that what is wrong with it is an answer."""

    def __init__(self, asked: bytes) -> None:
        self._asked = msgspec.json.decode(asked, type=Asked)
        self._scoring: Scoring | None = None

    def score(self, item: bytes) -> bytes:
        """A `Refused` or a `Scored` as JSON."""
        try:
            if self._scoring is None:
                # Ray sets it to 1, whatever the actor is given; read when torch and ONNX Runtime come.
                os.environ["OMP_NUM_THREADS"] = str(self._asked.threads)
                self._scoring = Scoring(self._asked)
            said = self._scoring.score(msgspec.json.decode(item, type=Item))
        except EntracteError as error:
            return msgspec.json.encode(Refused(str(error)))
        return msgspec.json.encode(Scored(said))


def on(address: str, gpus: float, workers: int) -> Runner:
    """On the cluster at `address` ("local": this machine alone). `gpus` an actor; `workers`: actors, 0: as
    many as there is room for, and never more: Ray would wait for ever with the episodes of one that finds no
    room. Raises `MissingDependency` without Ray; the runner, `ConfigError` where no cluster answers or where
    not even one finds room."""
    ray = ray_cluster.library("robot-reward score --ray")

    def run(asked: Asked, items: Sequence[Item]) -> Iterator[Said]:
        if not items:
            return
        local = ray_cluster.this_machine(asked.threads)
        with ray_cluster.cluster(ray, address, **local):
            room = _room(ray.nodes(), asked.threads, gpus)
            count = min(len(items), workers or room, room)
            yield from _scored(ray, asked, items, gpus, count)

    return run


def _scored(
    ray: Any, asked: Asked, items: Sequence[Item], gpus: float, count: int
) -> Iterator[Said]:
    made = ray.remote(num_cpus=asked.threads, num_gpus=gpus)(Actor)
    idle = [made.remote(msgspec.json.encode(asked)) for _ in range(count)]
    waiting, at = list(reversed(items)), dict[Any, tuple[Any, Item]]()
    scored, lost = 0, list[EpisodeKey]()
    while waiting or at:
        while waiting and idle:
            actor, item = idle.pop(), waiting.pop()
            at[actor.score.remote(msgspec.json.encode(item))] = actor, item
        while idle and not waiting:
            # Its room may be what one waits for that was given an episode and has found none yet.
            ray.kill(idle.pop())
        for ended in ray.wait(list(at))[0]:
            actor, item = at.pop(ended)
            try:
                answer = msgspec.json.decode(ray.get(ended), type=Refused | Scored)
            except ray.exceptions.RayError as error:
                lost.append(item.key)
                alone = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError)
                if not isinstance(error, alone) or (not scored and len(set(lost)) > LOST):
                    raise EntracteError(
                        "scoring on Ray broke off",
                        found=ray_cluster.in_a_line(error),
                        remedy="the same command goes on with what is left",
                    ) from error
                idle.append(made.remote(msgspec.json.encode(asked)))
                if lost.count(item.key) == 1:
                    waiting.insert(0, item)
                else:
                    why = f"its worker was lost twice: {ray_cluster.in_a_line(error)}"
                    yield Said(item.key, None, None, why)
                continue
            idle.append(actor)
            if isinstance(answer, Refused):
                raise ConfigError(answer.why)
            scored += 1
            yield answer.said


def _room(nodes: Sequence[dict[str, Any]], threads: int, gpus: float) -> int:
    """How many actors the machines (`ray.nodes()`) take at once. Raises `ConfigError` where that is none."""
    count = ray_cluster.room(nodes, threads, gpus)
    if not count:
        have = [f"{processors} and {cards}" for processors, cards in ray_cluster.machines(nodes)]
        raise ConfigError(
            "not one copy of the model finds room on the cluster",
            expected=f"a machine with {threads} processors (--threads) and {gpus:g} GPUs (--gpus)",
            found=some_of(have) or "no machine",
            remedy="ask for less a copy, or start Ray where there is more",
        )
    return count
