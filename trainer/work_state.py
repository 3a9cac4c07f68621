"""How far the trainer's work has come, on disk: the state of the last iteration, and the refiner's folders.

Owns the order and the durability of each write; what is written when is `trainer.work`'s.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import ConfigError
from contracts.files import atomic


class WorkState(msgspec.Struct, frozen=True):
    """`consumed_arrival`: arrival of the last episode that an update has used. `record`: the metrics line
    of the last iteration, written again if a kill kept it from the file. `reward_seq`: newest release of
    the robot's reward head."""

    iteration: int = 0
    consumed_arrival: int = -1
    published_seq: int = 0
    refiner: str = ""
    reward_seq: int = 0
    record: dict[str, Any] = {}


def refiner_folder(iteration: int) -> str:
    """Name of the refiner's state after that iteration."""
    return f"refiner-{iteration:06d}"


FRESH = refiner_folder(0)
"""The refiner as it was opened: what a first update that fails is taken back to."""


class KeptState:
    """The folder `state` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._path = folder, folder / "state.json"

    def load(self) -> WorkState:
        """As it was committed last; what a kill left half-written is removed. Raises `ConfigError` where it
        is damaged."""
        atomic.make_directory(self.folder)
        for leftover in self.folder.glob(".refiner-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self._path.exists():
            return WorkState()
        data = atomic.read_bytes(self._path, atomic.MAX_JSON_BYTES)
        try:
            return msgspec.json.decode(data, type=WorkState)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ConfigError(
                f"{self._path} is damaged",
                found=str(error),
                remedy="delete the trainer's state folder to start refinement anew",
            ) from error

    def commit(self, state: WorkState) -> None:
        """Durable when this returns."""
        atomic.write_bytes(self._path, msgspec.json.encode(state))

    def save_folder(self, name: str, save: Callable[[Path], None]) -> None:
        """`save` into a folder that appears whole or not at all; one left by a killed run is replaced."""
        temporary, folder = self.folder / f".{name}", self.folder / name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save(temporary)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for path in temporary.rglob("*"):
            atomic.sync(path)
        atomic.sync(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
        atomic.sync(folder.parent)

    def drop_old_refiners(self, keep: int, in_use: str) -> None:
        """But the newest, and the one that is named."""
        for folder in sorted(self.folder.glob("refiner-*"))[:-keep]:
            if folder.name != in_use:
                shutil.rmtree(folder, ignore_errors=True)
