"""What control puts into the ring, made by hand: sessions and episodes of the tiny package's robot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
from tiny_package import ACTION, OBSERVATION, own_id

from contracts import wire
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart, Step

Parts = list[bytes | memoryview]


def session_start(
    session_id: str = "s1", robot_id: str = "bench-0", cameras: Sequence[str] = ("front",)
) -> SessionStart:
    front = OBSERVATION.cameras[0]
    seen = tuple(msgspec.structs.replace(front, name=camera) for camera in cameras)
    observation = msgspec.structs.replace(OBSERVATION, cameras=seen)
    return SessionStart(
        robot_id, session_id, observation, ACTION, "", "", "cfg", "0.1.0", "asap", 10.0
    )


def step(index: int, version: int = 0) -> Step:
    now = 100.0 + index * 0.1
    return Step(
        index=index,
        tick_s=now,
        captured_s={"front": now},
        received_s={"front": now + 0.001},
        state_s=now,
        inference_started_s=now,
        actuated_s=now,
        lateness_s=0.0,
        state=(0.0, 1.0, 2.0, 3.0, 4.0, float(index)),
        action=(1.0,) * 6,
        requested=(1.0,) * 6,
        gate=0,
        chunk=index // 8,
        chunk_index=index % 8,
        policy_version=version,
        reward_version=0,
    )


def pictures(
    index: int, seed: int, cameras: Sequence[str] = ("front",)
) -> list[tuple[wire.Buffer, np.ndarray]]:
    ramp = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    # Smooth, as pictures of a table are: sharp colour edges would measure the codecs' chroma.
    colour = np.stack([ramp // 5 + 3 * index + 5 * seed % 30 + 20 * c for c in range(3)], -1)
    found = []
    for camera in cameras:
        found.append(wire.raw(f"{camera}.colour", np.minimum(colour, 255).astype(np.uint8)))
        found.append(wire.raw(f"{camera}.depth", (ramp + 500 + index).astype(np.uint16)))
    return found


def episode(
    seq: int,
    *,
    steps: int = 12,
    session_id: str = "s1",
    robot_id: str = "bench-0",
    purpose: str = "refine",
    version: int = 0,
    success: bool | None = None,
    cameras: Sequence[str] = ("front",),
    reason: str = "time_limit",
    policy_id: str = "",
) -> Iterator[Parts]:
    """Packets of one episode as control packs them, pictures raw. `policy_id`: "" for the tiny package's."""
    yield wire.pack(
        EpisodeStart(
            robot_id,
            session_id,
            seq,
            "open the drawer",
            "open-drawer",
            purpose,
            version,
            policy_id or own_id(),
            0,
            "",
            1000 + seq,
            1e9,
        )
    )
    for index in range(steps):
        yield wire.pack(step(index, version), pictures(index, seq, cameras))
    yield wire.pack(EpisodeEnd(seq, steps, reason, success))
