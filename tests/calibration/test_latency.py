"""Delays that were put in are found again: between signals, and between joints and drawn pictures."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calibration.latency.delay import DelayError, delay_of
from calibration.latency.motion import blurred, components, products

RATE_HZ = 50.0


def movement(seconds: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """Two joints' positions, each a sum of sines that never repeats within the record."""
    at = np.arange(0.0, seconds, 1 / RATE_HZ)
    first = np.sin(2 * np.pi * 0.7 * at) + 0.5 * np.sin(2 * np.pi * 1.31 * at)
    second = np.cos(2 * np.pi * 0.45 * at) + 0.3 * np.sin(2 * np.pi * 1.9 * at)
    return at, np.stack([first, second], axis=1)


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.05, 0.117, 0.2])
def test_a_delay_between_signals_is_found_whatever_maps_one_to_the_other(delay_s: float) -> None:
    random = np.random.default_rng(int(1e3 * delay_s))
    at, joints = movement()
    seen_s = np.sort(random.uniform(0, 12, 350))
    true = np.stack([np.interp(seen_s - delay_s, at, joints[:, i]) for i in (0, 1)], axis=1)
    effect = true @ random.normal(size=(2, 3)) + 0.05 * random.normal(size=(350, 3))
    found = delay_of(at, joints, seen_s, effect)
    assert abs(found.seconds - delay_s) < 0.003
    assert abs(found.seconds - delay_s) <= 1.5 * found.half_width_s
    assert found.explained > 0.9


@pytest.mark.parametrize("delay_s", [0.0, 0.04, 0.11, 0.2])
def test_a_cameras_delay_is_found_from_pictures_at_30_hz(delay_s: float) -> None:
    """A textured picture that shifts with two joints, seen late."""
    random = np.random.default_rng(1)
    texture = cv2.GaussianBlur(random.uniform(0, 255, (600, 800)).astype(np.float32), (0, 0), 4)
    texture = 255 * (texture - texture.min()) / np.ptp(texture)
    at, joints = movement()
    taken_s = np.arange(0.2, 11.8, 1 / 30)
    pictures = []
    for time_s in taken_s:
        place = [np.interp(time_s, at, joints[:, i]) for i in (0, 1)]
        x, y = 240 + 20 * place[0] + 5 * place[1], 180 - 8 * place[0] + 15 * place[1]
        cut = cv2.getRectSubPix(texture, (320, 240), (float(x) + 160, float(y) + 120))
        pictures.append((cut + random.normal(size=cut.shape) * 3).clip(0, 255).astype(np.uint8))
    seen = components([blurred(picture) for picture in pictures])
    found = delay_of(at, products(joints), taken_s + delay_s, seen)
    assert abs(found.seconds - delay_s) < 0.005


def test_what_tells_no_delay_is_refused() -> None:
    at, joints = movement()
    random = np.random.default_rng(0)
    with pytest.raises(DelayError, match="same movement"):
        delay_of(at, joints, at, random.normal(size=(len(at), 2)))
    with pytest.raises(DelayError, match="nothing moved"):
        delay_of(at, joints, at, np.zeros((len(at), 2)))
    with pytest.raises(DelayError, match=r"outside|same movement"):
        delay_of(at, joints, at + 0.4, joints, longest_s=0.2)
    with pytest.raises(DelayError, match="too little"):
        delay_of(at[:60], joints[:60], at[:60], joints[:60], longest_s=1.0)
    with pytest.raises(DelayError, match="times that increase"):
        delay_of(at[::-1], joints, at, joints)
