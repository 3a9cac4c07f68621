"""The service units: systemd itself accepts them, and the arm's never restarts by itself."""

from __future__ import annotations

import configparser
import getpass
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import runtime.config
from contracts.files.packages import load_package
from runtime.config import RobotConfig
from runtime.preflight import check
from runtime.run import RunPlan
from trainer import config as trainer_config
from trainer.signing import PUBLIC_KEY_FILE

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


def test_what_no_start_can_cure_is_not_started_again(tmp_path: Path) -> None:
    """As shipped both name no package: one sentence, and the exit code that the trainer's unit knows."""
    trainer = _read(ROOT / "tools" / "systemd" / "robot-trainer.service")["Service"]
    assert trainer["Restart"] == "on-failure"
    for module, verb, name in (
        ("runtime.app", "start", "sim_realtime.yaml"),
        ("trainer.app", "serve", "trainer.yaml"),
    ):
        command = [sys.executable, "-m", module, verb, "--run-dir", str(tmp_path / verb)]
        command += ["--config", str(ROOT / "hw_configs" / name)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert "package" in done.stderr and "Traceback" not in done.stderr
        assert str(done.returncode) == trainer["RestartPreventExitStatus"], done.stderr


def test_with_the_lines_of_the_page_the_shipped_configurations_name_what_they_need(
    tmp_path: Path,
) -> None:
    page = (ROOT / "docs" / "systemd.md").read_text()
    robot, trainer = (
        _with_lines(text, name, tmp_path)
        for text, name in zip(
            re.findall(r"```yaml\n(.*?)```", page, re.DOTALL),
            ("sim_realtime.yaml", "trainer.yaml"),
            strict=True,
        )
    )
    check(runtime.config.load_config(robot, []), RunPlan(purpose="refine", sink="link"))
    settings = trainer_config.load_config(trainer, [])
    assert load_package(Path(settings.reward.package)).manifest.model == "reward"
    assert load_package(Path(settings.refiner.package)).manifest.model == "policy"


def test_the_page_gives_files_and_keys_to_who_must_read_them() -> None:
    """`install` makes programs of what it isn't told otherwise; a key that root copied is root's alone."""
    page = (ROOT / "docs" / "systemd.md").read_text()
    installed = re.findall(r"^sudo install -D .*$", page, re.MULTILINE)
    assert len(installed) == 2 and all(" -m 644 " in line for line in installed)
    trainer = _read(ROOT / "tools" / "systemd" / "robot-trainer.service")["Service"]["ExecStart"]
    key = f"{trainer.partition('--run-dir ')[2].split()[0]}/{PUBLIC_KEY_FILE}"
    (copied,) = re.findall(r"^.*install .*trainer\.pub.*$", page, re.MULTILINE)
    robot = _read(ROOT / "tools" / "systemd" / "robot-run.service")["Service"]["ExecStart"]
    run_dir = robot.partition("--run-dir ")[2].split()[0]
    assert copied == (
        f"sudo -u entracte install -D -m 600 {key} {run_dir}/{RobotConfig().link.trainer_key}"
    )


@pytest.mark.parametrize("program", ["robot-trainer", "robot-run"])
def test_the_page_enrolls_as_the_user_of_the_units_and_into_their_folders(program: str) -> None:
    page = (ROOT / "docs" / "systemd.md").read_text()
    (line,) = re.findall(rf"sudo -u entracte \S*/{program} enroll .*", page)
    unit = _read(ROOT / "tools" / "systemd" / f"{program}.service")["Service"]
    words = line.split()
    assert words[2] == unit["User"]
    assert words[words.index("--run-dir") + 1] in unit["ExecStart"].split()
    binary = Path(sys.executable).parent / program
    shown = subprocess.run(
        [str(binary), "enroll", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(word in shown.stdout for word in words if word.startswith("--"))


def _with_lines(text: str, name: str, folder: Path) -> Path:
    """A shipped configuration with the page's lines, and the shipped packages where the page has them."""
    shipped = ROOT / "pretrained"
    text = text.replace("/var/lib/entracte/packages/policy", str(shipped / "policy-open_drawer"))
    text = text.replace(
        "/var/lib/entracte/packages/reward", str(shipped / "reward-demo-open_drawer")
    )
    merged = yaml.safe_load((ROOT / "hw_configs" / name).read_text())
    for section, keys in yaml.safe_load(text).items():
        merged[section] = {**merged.get(section, {}), **keys}
    path = folder / name
    path.write_text(yaml.safe_dump(merged))
    return path
