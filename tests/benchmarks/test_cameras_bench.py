"""`robot-bench cameras` on the real capture process: a video as the camera."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.cameras import measure, table
from contracts.errors import EntracteError
from runtime.config import RobotConfig, load_config


def _config(video: str) -> RobotConfig:
    camera = "{kind: opencv, width: 64, height: 48, rate_hz: 20, depth: false, start_timeout_s: 5, "
    camera += f"options: {{index_or_path: {video}}}}}"
    return load_config(None, ["pace=realtime", f"cameras.front={camera}"])


def test_it_says_what_a_camera_costs_and_why_one_is_absent(tmp_path: Path) -> None:
    video = tmp_path / "three.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for grey in (40, 90, 200):
        writer.write(np.full((48, 64, 3), grey, np.uint8))
    writer.release()
    found = measure(_config(str(video)), 1.5)
    assert list(found) == ["front"]
    assert 10 < found["front"]["pictures_hz"] < 30 and found["front"]["processor_ms"] > 0
    assert "front" in table(found)
    video.write_bytes(b"no video")
    with pytest.raises(EntracteError, match="'front' is not there"):
        measure(_config(str(video)), 1.0)
