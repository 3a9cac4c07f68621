"""What a wheel takes along: every tracked file of a packaged room that is no module, or it is named here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="reads pyproject.toml: Python 3.11 or tomli")

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOMS = [name.removesuffix("*") for name in SETUPTOOLS["packages"]["find"]["include"]]
LEFT_OUT = {"trainer/reward_data/README.md", "trainer/rewards/tuning/README.md"}
"""Read in the repository, by people."""


def tracked() -> set[str]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--", *ROOMS], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no git checkout: {error}")
    return {name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).exists()}


def test_a_wheel_takes_along_what_its_modules_read() -> None:
    files = tracked()
    folders = {str(Path(name).parent) for name in files if name.endswith(".py")}
    taken = set()
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = package.replace(".", "/")
        assert folder in folders, f"{package} is no package"
        for pattern in patterns:
            place = f"{folder}/{pattern}"
            found = {name for name in files if PurePosixPath(name).match(place)}
            assert found, f"package-data of {package}: {pattern} matches nothing"
            taken |= found
    data = {name for name in files if not name.endswith(".py")}
    assert sorted(data - taken) == sorted(LEFT_OUT)
