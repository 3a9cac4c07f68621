"""The service units: systemd itself accepts them, and the arm's never restarts by itself."""

from __future__ import annotations

import configparser
import getpass
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "tools" / "systemd").glob("*.service"))


def _read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(path)
    return unit


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not on this machine")
    text = path.read_text()
    # What is installed elsewhere: this environment's programs and a user that exists.
    text = text.replace("/opt/entracte/.venv/bin", str(Path(sys.executable).parent))
    text = text.replace("User=entracte", f"User={getpass.getuser()}")
    copy = tmp_path / path.name
    copy.write_text(text)
    done = subprocess.run(
        [verify, "verify", str(copy)], check=False, capture_output=True, text=True, timeout=60
    )
    about = [line for line in done.stderr.splitlines() if path.name in line]
    assert done.returncode == 0 and not about, done.stderr
    copy.write_text(text.replace("KillMode", "KilMode").replace("UMask=0077", "UMask=banana"))
    spoilt = subprocess.run(
        [verify, "verify", str(copy)], check=False, capture_output=True, text=True, timeout=60
    )
    assert path.name in spoilt.stderr, "a spoilt unit passes: this machine's check says nothing"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_the_command_of_a_unit_exists_with_its_options(path: Path) -> None:
    program, verb, *options = _read(path)["Service"]["ExecStart"].split()
    binary = Path(sys.executable).parent / Path(program).name
    shown = subprocess.run(
        [str(binary), verb, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    for option in options:
        if option.startswith("--"):
            assert option in shown.stdout


def test_the_arm_is_never_started_by_a_service_manager() -> None:
    robot = _read(ROOT / "tools" / "systemd" / "robot-run.service")["Service"]
    assert robot["Restart"] == "no"
    assert robot["KillSignal"] == "SIGINT" and robot["KillMode"] == "mixed"
