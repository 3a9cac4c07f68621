"""The robot's code is valid on its boards' Pythons; running the tests there is `tools/python_versions.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import python_versions  # noqa: E402


@pytest.mark.parametrize("version", python_versions.VERSIONS)
def test_every_module_of_the_robot_compiles(version: str) -> None:
    python = python_versions.interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    assert python_versions.compiles(python)


@pytest.mark.parametrize("version", python_versions.VERSIONS)
def test_what_that_python_lacks_is_found(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = python_versions.interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    (tmp_path / "contracts").mkdir()
    monkeypatch.setattr(python_versions, "ROOT", tmp_path)
    assert python_versions.compiles(python)
    (tmp_path / "contracts" / "new.py").write_text("type Pair[T] = tuple[T, T]\n")  # 3.12
    assert python_versions.compiles(python) == (version >= "3.12")


def test_every_name_that_is_imported_from_the_library_is_there() -> None:
    """Syntax says nothing of `from typing import Self`: each Python imports the light modules itself."""
    program = "import contracts.config, contracts.messages, contracts.specs, contracts.reward"
    for version in python_versions.VERSIONS:
        python = python_versions.interpreter(version)
        if python is None:
            pytest.skip(f"no Python {version} on this machine")
        asked = subprocess.run(
            [str(python), "-c", "import msgspec, numpy, yaml"], capture_output=True, check=False
        )
        if asked.returncode:
            pytest.skip(f"Python {version} has none of the robot's dependencies")
        subprocess.run([str(python), "-c", program], cwd=ROOT, check=True)
