"""A trainer's store of episodes that a policy drove, every other one a success."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import small_policy
from driven_episode import Driver

from benchmarks.fleet_replay import Recorded
from contracts import wire
from contracts.files.episode_log import EpisodeLogWriter
from trainer.keeper import keep
from trainer.store import Store


def recorded_store(folder: Path, driver: Driver, episodes: int) -> Path:
    store = Store(folder)
    for seq in range(episodes):
        made = driver.drive(small_policy.scored(seq, seq % 2 == 0)).episode
        (camera,) = made.session.observation.cameras
        colour = (msgspec.structs.replace(camera, depth=False),)
        seen = msgspec.structs.replace(made.session.observation, cameras=colour)
        session = msgspec.structs.replace(made.session, observation=seen)
        episode = Recorded(dataclasses.replace(made, session=session))
        log = EpisodeLogWriter(store.root / "inbox" / f"{seq}")
        log.append(wire.pack(session))
        for parts in episode.packets(made.start, seq % 2 == 0):
            log.append(parts)
        done = log.finish()
        assert keep(store, made.key, done.path, done.sha256)
    return store.root
