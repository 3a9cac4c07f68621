"""A start that asks whether a camera has moved: what it needs, whom it does not ask, and how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.errors import ConfigError
from runtime.config import RobotConfig, load_config
from runtime.drift import require_in_place

BENCH = Path(__file__).resolve().parents[2] / "hw_configs" / "sim_board.yaml"


def asking(*overrides: str) -> RobotConfig:
    asked = ["calibration.file=calibration.json", "calibration.drift_cameras=[wrist]"]
    return load_config(BENCH, [*asked, *overrides])


def test_a_robot_without_scipy_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "scipy.py").write_text("raise ModuleNotFoundError('no scipy', name='scipy')\n")
    monkeypatch.setenv("PYTHONPATH", str(absent))
    with pytest.raises(ConfigError) as refused:
        require_in_place(asking(), tmp_path / "run", lambda line: None)
    assert "calibration needs scipy; pip install 'entracte[calibration]'" in str(refused.value)
