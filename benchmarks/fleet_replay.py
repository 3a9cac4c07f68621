"""A stored episode as the packets that control puts into the ring: the same steps under another name."""

from __future__ import annotations

import math
from collections.abc import Iterator

from contracts import wire
from contracts.messages import EpisodeEnd, EpisodeStart, Step
from trainer.interfaces import StoredEpisode

Parts = list[bytes | memoryview]


class Recorded:
    """An episode with its pictures in memory, to be sent as often as one likes."""

    def __init__(self, episode: StoredEpisode) -> None:
        """Raises `EntracteError` where the episode can't be decoded."""
        self.session, self.start, self.end = episode.session, episode.start, episode.end
        self.steps, self._columns = episode.steps, episode.columns
        self._cameras = [camera.name for camera in episode.session.observation.cameras]
        seen = {}
        for camera in episode.session.observation.cameras:
            seen[f"{camera.name}.colour"] = episode.frames(camera.name)
            if camera.depth:
                seen[f"{camera.name}.depth"] = episode.pictures.depth(camera.name)
        self._pictures = [
            [wire.raw(name, pictures[index]) for name, pictures in seen.items()]
            for index in range(self.steps)
        ]

    def packets(self, start: EpisodeStart, success: bool | None) -> Iterator[Parts]:
        """Start, steps with raw pictures, and an end with this label. Every step carries the start's version
        of the policy."""
        yield wire.pack(start)
        for index in range(self.steps):
            yield wire.pack(self._step(index, start.policy_version), self._pictures[index])
        yield wire.pack(EpisodeEnd(start.episode_seq, self.steps, "time_limit", success))

    def _step(self, index: int, version: int) -> Step:
        tick_s = float(self._columns["time.tick"][index])
        times = dict.fromkeys(self._cameras, tick_s)
        state, action, requested = (
            tuple(self._columns[name][index].tolist())
            for name in ("observation.state", "action", "requested")
        )
        return Step(
            index=index,
            tick_s=tick_s,
            captured_s=times,
            received_s=times,
            state_s=tick_s,
            inference_started_s=float(self._entry("time.inference", index, math.nan)),
            actuated_s=tick_s,
            lateness_s=0.0,
            state=state,
            action=action,
            requested=requested,
            gate=int(self._entry("gate.verdict", index, 0)),
            chunk=int(self._entry("chunk", index, 0)),
            chunk_index=int(self._entry("chunk_index", index, 0)),
            policy_version=version,
            reward_version=0,
            intervention=bool(self._entry("intervention", index, 0)),
        )

    def _entry(self, name: str, index: int, absent: float) -> float:
        found: float = self._columns[name][index] if name in self._columns else absent
        return found
