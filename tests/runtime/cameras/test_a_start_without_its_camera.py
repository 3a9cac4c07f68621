"""A start whose camera is absent or another one: one sentence, exit code 2, before anything moves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rehearsals import Rehearsed, make

from contracts.errors import ConfigError
from runtime.cameras import captured
from runtime.config import load_config
from runtime.processes.supervisor import EXIT_WRONG

ABSENT = {"kind": "realsense", "options": {"serial_number_or_name": "000000000000"}}


def _small_video(folder: Path) -> str:
    path = str(folder / "small.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    return path


@pytest.mark.parametrize(
    ("camera", "sentence"),
    [
        (ABSENT, "expected RealSense 000000000000, found .*; (check the cable|fix cameras.front)"),
        ("a smaller video", "expected 128x96 at 30 Hz, found 64x48 at 30 Hz; set width"),
        ({"options": {"serial_number_or_name": "111"}}, "expected RealSense 111, found .* 7286"),
    ],
)
def test_it_fails_in_one_sentence_before_anything_moves(
    tmp_path: Path, camera: Any, sentence: str
) -> None:
    if isinstance(camera, str):
        options = {"index_or_path": _small_video(tmp_path)}
        camera = {"kind": "opencv", "depth": False, "options": options}
    with Rehearsed(make(tmp_path, camera | {"start_timeout_s": 0.3})) as robot:
        outcome = robot.wait()
        assert robot.board.control_ready == 0 and robot.board.first_action_at_s == 0.0
    assert outcome.code == EXIT_WRONG
    assert "\n" not in outcome.what and outcome.what.startswith("camera front: camera 'front'")
    assert re.search(sentence, outcome.what), outcome.what
    assert "camera-front" not in outcome.report.get("restarts", {})


def test_a_camera_of_the_wall_s_clock_is_refused_in_simulated_time() -> None:
    config = load_config(None, ["cameras.front.kind=opencv", "cameras.front.depth=false"])
    with pytest.raises(ConfigError, match=r"cameras.front.*expected pace: realtime"):
        captured(config)
    assert captured(load_config(None)) == []
