"""What two RGB-D cameras would see, made by hand: as hard to compress as a D435's frames are.

Measured on one frame of a D435 at 640x480: JPEG of quality 95 takes 66 kB, depth aligned to colour 73 kB and
as it comes from the sensor 107 kB. These pictures take about as much.
"""

from __future__ import annotations

import cv2
import numpy as np

from contracts import images, wire
from contracts.messages import EpisodeStart, SessionStart, Step
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from runtime.bench.depth import DepthSensor

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30
CAMERAS = ("front", "wrist")
FOCAL_PX = 613.0
NOISE = 0.6
"""Standard deviation of a pixel's noise, in levels of 255."""
DETAIL = 40
"""Blotches of colour across the picture."""

Views = list[dict[str, tuple[np.ndarray, np.ndarray]]]


def views(count: int = 16) -> Views:
    """`count` moments: by camera (uint8[480, 640, 3], uint16[480, 640] mm). All differ: nothing repeats."""
    sensor = DepthSensor()
    return [
        {name: (_colour(7 * at + n), _depth(sensor, 7 * at + n)) for n, name in enumerate(CAMERAS)}
        for at in range(count)
    ]


def _colour(key: int) -> np.ndarray:
    table = np.random.default_rng(key % 7)
    coarse = table.integers(40, 200, (DETAIL * 3 // 4, DETAIL, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    at = 40 + 4 * key % (WIDTH - 200)
    cv2.circle(picture, (at, 240), 60, (220, 60, 40), -1)
    noise = np.random.default_rng(key).normal(0, NOISE, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def _depth(sensor: DepthSensor, key: int) -> np.ndarray:
    metres = np.repeat(np.linspace(0.9, 0.45, HEIGHT, dtype=np.float32)[:, None], WIDTH, axis=1)
    cv2.circle(metres, (40 + 4 * key % (WIDTH - 200), 240), 60, 0.4, -1)
    return sensor.measure(metres, FOCAL_PX, (key,), noise=True)


def encoded(moment: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[wire.Buffer, bytes]]:
    """The buffers as the link sends them."""
    found = []
    for name, (rgb, depth) in moment.items():
        jpeg, packed = images.encode_jpeg(rgb, 95), images.encode_depth(depth)
        found.append(wire.encoded(f"{name}.colour", images.JPEG, jpeg, rgb.shape, "uint8"))
        depth_codec = images.DEPTH_VZS_ZSTD
        found.append(wire.encoded(f"{name}.depth", depth_codec, packed, depth.shape, "uint16"))
    return found


def raw(moment: dict[str, tuple[np.ndarray, np.ndarray]]) -> list[tuple[wire.Buffer, np.ndarray]]:
    """The buffers as control puts them into the ring."""
    found = []
    for name, (rgb, depth) in moment.items():
        found += [wire.raw(f"{name}.colour", rgb), wire.raw(f"{name}.depth", depth)]
    return found


def session(robot_id: str, session_id: str) -> SessionStart:
    cameras = tuple(CameraSpec(name, WIDTH, HEIGHT, RATE_HZ, fx=FOCAL_PX) for name in CAMERAS)
    units = ("deg",) * len(SO101_JOINTS)
    low, high, fast, jerk = ((n,) * len(SO101_JOINTS) for n in (-100.0, 100.0, 200.0, 2000.0))
    return SessionStart(
        robot_id=robot_id,
        session_id=session_id,
        observation=ObservationSpec(cameras, SO101_JOINTS, units),
        action=ActionSpec(SO101_JOINTS, units, low, high, fast, jerk, float(RATE_HZ)),
        colour_codec="raw",
        depth_codec="raw",
        config_hash="",
        software_version="",
        pace="realtime",
        loop_rate_hz=float(RATE_HZ),
    )


def episode_start(robot_id: str, session_id: str, seq: int) -> EpisodeStart:
    return EpisodeStart(
        robot_id, session_id, seq, "open the drawer", "bench", "record", 0, "", 0, "", -1, 0.0
    )


def step(index: int, now_s: float) -> Step:
    """A tick whose pictures were taken at `now_s`."""
    times = dict.fromkeys(CAMERAS, now_s)
    still = (0.0,) * len(SO101_JOINTS)
    return Step(
        index=index,
        tick_s=now_s,
        captured_s=times,
        received_s=times,
        state_s=now_s,
        inference_started_s=now_s,
        actuated_s=now_s,
        lateness_s=0.0,
        state=still,
        action=still,
        requested=still,
        gate=0,
        chunk=0,
        chunk_index=0,
        policy_version=0,
        reward_version=0,
    )
