"""What a black box says, as text or JSON. `runtime.blackbox.box` owns the format."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError
from contracts.messages import GateBit
from runtime.blackbox import box
from runtime.blackbox.box import Dump
from runtime.board import LoopState

_BITS = {
    getattr(GateBit, name): name.lower().replace("_", " ")
    for name in dir(GateBit)
    if name.isupper()
}


def find(place: Path) -> Path:
    """The file itself, or the newest dump of a run folder. Raises `ConfigError`."""
    if place.is_file():
        return place
    folder = place / "blackbox" if (place / "blackbox").is_dir() else place
    dumps = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    if not dumps:
        raise ConfigError(
            f"no black box at {place}",
            remedy="one is written when a run ends by a fault, a trip or an emergency stop",
        )
    return dumps[-1]


def table(dump: Dump, path: Path, last_s: float = 1.0) -> str:
    """Cause, times of the stop, and every tick of the last second."""
    about, rows = dump.about, dump.rows
    lines = [
        f"{path}",
        f"cause: {about['cause']}: {about.get('reason') or about.get('note') or 'no reason given'}",
        *([f"then: {about['note']}"] if about.get("note") and about.get("reason") else []),
        f"run {about['session_id']}, robot {about['robot_id']}, policy {about['policy_id']}, "
        f"Entracte {about['software_version']}, {about['rate_hz']:g} Hz",
        _times(about),
        f"{len(rows)} ticks; {'no' if not len(dump.after) else len(dump.after)} readings after the "
        f"{about['dumped_by']} took the arm",
    ]
    if len(rows):
        time_s = dump.column("tick_s")
        lines += ["", *_ticks(dump, time_s >= np.nanmax(time_s, initial=0.0) - last_s)]
    return "\n".join(lines)


def _times(about: dict[str, Any]) -> str:
    """Stop → hold and hold → standstill, apart."""
    stopped = about.get("watchdog_tripped_at_s") or about.get("stopped_at_s")
    held = about.get("watchdog_held_at_s") or about.get("held_at_s")
    still = about.get("still_at_s")
    if not stopped:
        return "no stop was noted"
    parts = [f"stop at {stopped:.3f} s"]
    parts += [f"in hold {1e3 * (held - stopped):.1f} ms later" if held else "NO hold from the arm"]
    if held and still:
        parts.append(f"standing {1e3 * max(0.0, still - held):.0f} ms after that")
    return f"{', '.join(parts)}; read back: {about['stop_check']}"


def _ticks(dump: Dump, chosen: np.ndarray) -> list[str]:
    names = [str(joint).split(".")[0][:12] for joint in dump.about["joints"]]
    head = f"{'s':>9} {'late ms':>8} {'state':>8} {'chunk':>6} {'state age':>9} {'frame age':>9}  command: "
    lines = [head + " ".join(f"{name:>12}" for name in names) + "  gate"]
    end_s = dump.column("tick_s")[-1]
    command = dump.joint_columns("command")
    columns = ("tick_s", "lateness_s", "mode", "chunk", "state_age_s", "frame_age_s", "bits")
    for index in np.flatnonzero(chosen):
        tick_s, late_s, mode, chunk, state_s, frame_s, bits = (
            float(dump.column(name)[index]) for name in columns
        )
        state = "" if math.isnan(mode) else LoopState(int(mode)).name.lower()
        lines.append(
            f"{tick_s - end_s:9.3f} {1e3 * late_s:8.2f} {state:>8} {_number(chunk, 6, 0)} "
            f"{_number(state_s, 9, 3)} {_number(frame_s, 9, 3)}           "
            + " ".join(_number(value, 12, 2) for value in command[index])
            + f"  {words(bits)}"
        )
    return lines


def words(bits: float) -> str:
    """What the gate did, in words."""
    known = 0 if math.isnan(bits) else int(bits)
    return ", ".join(word for bit, word in _BITS.items() if known & bit)


def _number(value: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{width}.{digits}f}"


def as_json(dump: Dump) -> str:
    """Everything, with null where nothing was known or no finite number: JSON has no other."""
    columns = {
        name: [_known(value) for value in dump.column(name)] for name in dump.about["columns"]
    }
    after = [[_known(value) for value in row] for row in dump.after]
    found = {"about": _known(dump.about), "columns": columns, "after": after}
    return json.dumps(found, allow_nan=False)


def _known(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _known(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_known(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def load(place: Path) -> tuple[Dump, Path]:
    path = find(place)
    return box.read(path), path
