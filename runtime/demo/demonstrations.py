"""The demonstrations that a shipped base policy was imitated from, recorded again where they are absent.

The bench and its experts are deterministic, so the data sets are not shipped: the scenes' seeds are.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from contracts.errors import ConfigError, EntracteError
from contracts.files.dataset_place import require_dataset

LIST_FILE = "demonstrations.json"


def folder(pretrained: Path, task: str) -> Path:
    """Where the LeRobotDataset of `task` belongs."""
    return pretrained / f"demonstrations-{task}"


def command(pretrained: Path, task: str, run_dir: Path) -> list[str]:
    """`robot-run record` for `task` as `pretrained/demonstrations.json` lists it. Raises `ConfigError`."""
    path = pretrained / LIST_FILE
    try:
        listed = json.loads(path.read_text())
        entry = listed[task]
        episodes, seed_base = int(entry["episodes"]), int(entry["seed_base"])
        unsteady_deg = float(entry.get("unsteady_deg", 0.0))
    except OSError as error:
        raise ConfigError(
            f"can't read {path}", found=error.strerror, remedy="make it with `make pretrained`"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} has no demonstrations of '{task}'",
            expected='{"<task>": {"episodes": n, "seed_base": s, "unsteady_deg": d}}',
            remedy="choose a task that is listed",
        ) from error
    return [
        *(sys.executable, "-m", "runtime.app", "record", "--expert", "--keep", "success"),
        *("--split", "eval", "--task", task, "--episodes", str(episodes)),
        *("--seed-base", str(seed_base), "--output", str(folder(pretrained, task))),
        *("--run-dir", str(run_dir), "--set", "recording.depth=false"),
        *("--set", f"bench.options.unsteady_deg={unsteady_deg:g}"),
    ]


def ensure(pretrained: Path, task: str, run_dir: Path) -> Path:
    """The data set's folder, recorded now if it isn't there; half a recording starts over."""
    data = folder(pretrained, task)
    done = data / ".complete"
    if done.exists():
        return data
    require_dataset(data)
    shutil.rmtree(data, ignore_errors=True)
    wanted = command(pretrained, task, run_dir)
    found = subprocess.run(wanted, capture_output=True, text=True, check=False)
    if found.returncode:
        raise EntracteError(
            f"recording the demonstrations of {task} failed",
            found=(found.stderr.strip().splitlines() or ["no message"])[-1],
        )
    done.touch()
    return data
