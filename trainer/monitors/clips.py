"""What a person is shown of an episode: a film, and a sheet with moments of it from every camera."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from contracts.errors import EntracteError
from trainer.interfaces import EpisodeKey, StoredEpisode
from trainer.report.pictures import write_film, write_poster
from trainer.store import stored_episode

SHOTS, WIDTH = 6, 256


def write_clip(store: Path, key: EpisodeKey, folder: Path) -> tuple[Path, Path]:
    """(sheet, film) of a stored episode. Raises `EntracteError`: it is not stored, or without pictures."""
    episode = stored_episode(store, key)
    cameras = [camera.name for camera in episode.session.observation.cameras]
    if not cameras or not episode.steps:
        raise EntracteError(f"episode {key} has no pictures", expected="a camera and a step")
    rate_hz = episode.session.loop_rate_hz or episode.session.action.rate_hz
    sheet, film = folder / f"{key}.png", folder / f"{key}.mp4"
    write_poster(sheet, _sheet(episode, cameras, rate_hz))
    write_film(film, _frames(episode, cameras), rate_hz, made_by="robot-trainer audit")
    return sheet, film


def _sheet(episode: StoredEpisode, cameras: list[str], rate_hz: float) -> np.ndarray:
    """uint8[H, W, 3]: a row a camera, the last moment at the right."""
    steps = np.unique(np.linspace(0, episode.steps - 1, SHOTS).round().astype(int)).tolist()
    rows = []
    for camera in cameras:
        shots = [_scaled(frame) for frame in episode.frames(camera, steps)]
        for shot, step in zip(shots, steps, strict=True):
            place, font = (6, shot.shape[0] - 8), cv2.FONT_HERSHEY_SIMPLEX
            for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(shot, f"{step / rate_hz:.1f} s", place, font, 0.5, colour, thickness)
        rows.append(np.hstack(shots))
    return np.vstack(rows)


def _frames(episode: StoredEpisode, cameras: list[str]) -> Iterator[np.ndarray]:
    """Every step, the cameras below one another; sizes are even, as the codec wants them."""
    for step in range(episode.steps):
        yield np.vstack([_scaled(episode.frames(camera, [step])[0]) for camera in cameras])


def _scaled(frame: np.ndarray) -> np.ndarray:
    height = max(2, round(WIDTH * frame.shape[0] / frame.shape[1] / 2) * 2)
    return cv2.resize(frame, (WIDTH, height), interpolation=cv2.INTER_AREA).astype(np.uint8)
