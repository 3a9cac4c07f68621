"""Runs the robot's tests on its boards' Pythons, without torch: python tools/python_versions.py [VERSION ...]

JetPack 6 ships Python 3.10, JetPack 7 3.12. For each version: find an interpreter (PATH, uv, pyenv), make a
virtual environment with what a robot installs (extras sim, jetson and so101, no torch) and the tests' own
needs, and run tests/contracts and tests/runtime in it, the longest too. `--syntax` only compiles contracts
and runtime.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.12")
ROOMS = ("contracts", "runtime")
TESTS = ("tests/contracts", "tests/runtime")
EXTRAS = "sim,jetson,so101"
NEEDS = (
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "pillow>=10",
    "onnx",
)
FORBIDDEN = ("torch", "transformers", "optimum")


def interpreter(version: str) -> Path | None:
    """Python of that version, or None. A shim that does not start (pyenv's) is passed over."""
    candidates = [shutil.which(f"python{version}")]
    if uv := shutil.which("uv"):
        found = subprocess.run(
            [uv, "python", "find", version], capture_output=True, text=True, check=False
        )
        candidates.append(found.stdout.strip() or None)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")))
    for candidate in candidates:
        if candidate and _is(candidate, version):
            return Path(candidate)
    return None


def _is(python: str, version: str) -> bool:
    ask = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return said.returncode == 0 and said.stdout.strip() == version


def compiles(python: Path) -> bool:
    """Whether every module of the robot's rooms is valid syntax there (nothing is written or imported)."""
    program = (
        "import sys, pathlib\n"
        "for room in sys.argv[1:]:\n"
        "    for path in sorted(pathlib.Path(room).rglob('*.py')):\n"
        "        compile(path.read_bytes(), str(path), 'exec')\n"
    )
    command = [str(python), "-W", "error::SyntaxWarning", "-c", program, *ROOMS]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def environment(python: Path, version: str, folder: Path) -> Path:
    """Its Python, with the packages in it; made anew when pyproject.toml has changed since."""
    venv = folder / version
    inside, stamp = venv / "bin" / "python", venv / "installed"
    needs = "\n".join((EXTRAS, *NEEDS)) + (ROOT / "pyproject.toml").read_text()
    wanted = hashlib.sha256(needs.encode()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == wanted):
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([str(python), "-m", "venv", str(venv)], check=True)
        print(f"== installing into {venv} (some minutes)", flush=True)
        # Editable: the tests' processes run this tree; its entry points come with it.
        install = [str(inside), "-m", "pip", "install", "-q", "-e", f".[{EXTRAS}]", *NEEDS]
        subprocess.run(install, cwd=ROOT, check=True)
        stamp.write_text(wanted)
    return inside


def run(version: str, folder: Path, pytest: list[str]) -> bool:
    """The robot's tests on that version; False where one fails."""
    python = interpreter(version)
    if python is None:
        print(f"== no Python {version} here: put python{version} on PATH (pyenv, uv)", flush=True)
        return False
    inside = environment(python, version, folder)
    for module in FORBIDDEN:
        ask = [str(inside), "-c", f"import {module}"]
        if subprocess.run(ask, capture_output=True, check=False).returncode == 0:
            print(
                f"== {module} is in {inside.parent.parent}: the run would prove nothing", flush=True
            )
            return False
    said = subprocess.run([str(inside), "--version"], capture_output=True, text=True, check=True)
    print(f"== {said.stdout.strip()} without {', '.join(FORBIDDEN)}", flush=True)
    command = ["env", "ALL=1", "sh", "tools/test.sh", str(inside), *TESTS]
    if pytest:
        command = [str(inside), "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("versions", nargs="*", default=[], help=f"default: {' '.join(VERSIONS)}")
    parser.add_argument("--syntax", action="store_true", help="only compile contracts and runtime")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path.home() / ".cache" / "entracte" / "pythons",
        help="where the virtual environments are kept",
    )
    parser.add_argument(
        "--pytest", nargs=argparse.REMAINDER, default=[], help="what pytest is given"
    )
    given = parser.parse_args()
    good = True
    for version in given.versions or VERSIONS:
        if given.syntax:
            python = interpreter(version)
            good &= python is not None and compiles(python)
        else:
            good &= run(version, given.folder, given.pytest)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
