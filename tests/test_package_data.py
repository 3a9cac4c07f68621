"""What a wheel takes along: every tracked file of a packaged room that is no module, or it is named here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
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
        assert folder in folders | {"hw_configs"}, f"{package} is no package"
        for pattern in patterns:
            place = f"{folder}/{pattern}"
            found = {name for name in files if PurePosixPath(name).match(place)}
            assert found, f"package-data of {package}: {pattern} matches nothing"
            taken |= found
    data = {name for name in files if not name.endswith(".py")}
    assert sorted(data - taken) == sorted(LEFT_OUT)


def test_what_a_wheel_installs_starts_with_its_own_configuration(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", reason="builds a wheel: setuptools")
    tracked()
    source, wheels, site = (tmp_path / name for name in ("source", "wheels", "site"))
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT).decode().split("\0"):
        if (
            name
            and not name.startswith(("pretrained/", "tests/", "docs/"))
            and (ROOT / name).exists()
        ):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(wheels), str(source)], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    program = "from runtime import config; print(config.load_config().robot.id, config.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    ).stdout
    assert found.split()[1].startswith(str(site)) and found.split()[0]
    assert (site / "hw_configs" / "trainer.yaml").exists()
