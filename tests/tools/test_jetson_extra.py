"""What a Jetson installs: wheels alone, on JetPack 6 (Python 3.10) and 7 (3.12), and no torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
# JetPack 6 is Ubuntu 22.04 (glibc 2.35), JetPack 7 Ubuntu 24.04 (2.39).
JETPACKS = {"3.10": 35, "3.12": 39}
HEAVY = {"torch", "transformers", "optimum", "onnx", "matplotlib", "jinja2", "mujoco"}


def _requirements() -> list[str]:
    """The robot's own dependencies and the extra `jetson`, as pyproject.toml has them."""
    own = re.search(r"^dependencies = \[\n(.*?)^\]", PYPROJECT, re.M | re.S)
    extra = re.search(r"^jetson = \[(.*?)\]$", PYPROJECT, re.M)
    assert own and extra
    found = re.findall(r'"([^"]+)"', own[1]) + re.findall(r'"([^"]+)"', extra[1])
    assert any(name.startswith("onnxruntime") for name in found)
    return found


def test_the_jetson_asks_for_nothing_heavy() -> None:
    names = {re.split(r"[<>=\[]", line)[0] for line in _requirements()}
    assert not names & HEAVY


@pytest.mark.index
@pytest.mark.parametrize("version", JETPACKS)
def test_the_jetson_extra_resolves_from_wheels_alone(version: str, tmp_path: Path) -> None:
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in range(17, JETPACKS[version] + 1)]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-"]
    command += ["--ignore-installed", "--only-binary=:all:", "--target", str(tmp_path / "none")]
    command += [
        word for name in (*platforms, "manylinux2014_aarch64") for word in ("--platform", name)
    ]
    command += ["--implementation", "cp", "--python-version", version, *_requirements()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    chosen = {
        item["metadata"]["name"].lower(): item["metadata"]["version"]
        for item in json.loads(done.stdout)["install"]
    }
    print(f"Python {version}, aarch64: {len(chosen)} wheels: {chosen}")
    assert "onnxruntime" in chosen and "pyrealsense2" in chosen
    assert not chosen.keys() & HEAVY
