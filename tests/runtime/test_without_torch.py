"""The robot runs where torch is not: once with its import forbidden, once in a small venv of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from robots import policy_package

ROOT = Path(__file__).resolve().parents[2]
FORBID = """
import sys


class _Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "optimum", "trainer", "export"}:
            raise ModuleNotFoundError(f"{name} is not on a robot", name=name)
        return None


sys.meta_path.insert(0, _Absent())
"""


def _evaluate(
    python: str, package: Path, run_dir: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(python, "-m", "runtime.app", "eval", "--package", str(package), "--episodes", "1"),
            *("--task", "open_drawer", "--run-dir", str(run_dir), "--json"),
            *("--set", "episode.max_s=2.0"),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_episode_runs_with_torch_forbidden(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORBID)
    package = policy_package(tmp_path / "package").folder
    found = _evaluate(
        sys.executable,
        package,
        tmp_path / "run",
        {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])
    assert report["episodes"] == 1
    robot = {name: mb for name, mb in report["rss_mb"].items() if name != "bench"}
    assert sum(robot.values()) < 700, robot
    assert report["start_to_first_action_s"] < 20  # the figure itself is robot-bench's


@pytest.mark.slow
def test_an_episode_runs_in_a_venv_without_torch(tmp_path: Path) -> None:
    """Installs the runtime and the bench alone, as a Jetson would (needs the package index)."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin" / "python"
    subprocess.run([str(python), "-m", "pip", "install", "-q", f"{ROOT}[sim]"], check=True)
    absent = subprocess.run([str(python), "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0, "torch came with the runtime's dependencies"
    package = policy_package(tmp_path / "package").folder
    found = _evaluate(str(python), package, tmp_path / "run", dict(os.environ))
    assert found.returncode == 0, found.stderr
