"""A start that asks whether a camera has moved: what it needs, whom it does not ask, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from robots import until

from contracts.errors import ConfigError
from runtime import drift
from runtime.config import RobotConfig, load_config
from runtime.drift import require_in_place

BENCH = Path(__file__).resolve().parents[2] / "hw_configs" / "sim_board.yaml"


def asking(folder: Path, *overrides: str) -> RobotConfig:
    asked = [f"calibration.file={folder}/calibration.json", "calibration.drift_cameras=[wrist]"]
    return load_config(BENCH, [*asked, *overrides])


def test_a_robot_without_scipy_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "scipy.py").write_text("raise ModuleNotFoundError('no scipy', name='scipy')\n")
    monkeypatch.setenv("PYTHONPATH", str(absent))
    with pytest.raises(ConfigError) as refused:
        require_in_place(asking(tmp_path), tmp_path / "run", lambda line: None)
    assert "calibration needs scipy; pip install 'entracte[calibration]'" in str(refused.value)


def test_an_arm_that_is_powered_by_being_connected_is_not_asked(tmp_path: Path) -> None:
    lerobot = ["arm.kind=lerobot", "arm.options={robot: {type: so101_follower}}", "pace=realtime"]
    config = asking(tmp_path, *lerobot, "loop.watchdog_timeout_s=0.07", "loop.lease_s=0.07")
    with pytest.raises(ConfigError, match=r"found arm\.kind: lerobot; .*drift_cameras=\[\]"):
        require_in_place(config, tmp_path / "run", lambda line: None)
    assert not (tmp_path / "run").exists()  # nothing was started


def test_who_asks_is_killed_and_so_is_what_it_asked(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
        asks = subprocess.Popen(
            [
                *(sys.executable, "-c"),
                "import sys; from pathlib import Path; from runtime.processes.program import Program\n"
                "program = Program.start('verify', ['sleep', '600'], Path(sys.argv[1]))\n"
                "print(program.process.pid, flush=True); program.process.wait()",
                str(tmp_path / number.name),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert asks.stdout is not None
        asked = int(asks.stdout.readline())
        assert _runs(asked)
        asks.send_signal(number)
        asks.wait(60)
        until(lambda asked=asked: not _runs(asked), 60.0)
        asks.stdout.close()


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_look_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "_limit_s", lambda config: 0.01)  # less than Python takes to start
    with pytest.raises(ConfigError, match=r"expected an answer within 0\.01 s"):
        require_in_place(asking(tmp_path), tmp_path / "run", lambda line: None)
