"""Every target by name."""

from __future__ import annotations

from tests.faults.fuzz import (
    config_targets,
    disk_targets,
    folder_targets,
    key_targets,
    memory_targets,
    release_targets,
    trainer_targets,
    wire_targets,
)
from tests.faults.fuzz.target import Target


def all_targets() -> list[Target]:
    rooms = (
        wire_targets,
        release_targets,
        trainer_targets,
        disk_targets,
        folder_targets,
        key_targets,
        memory_targets,
        config_targets,
    )
    return [target for room in rooms for target in room.targets()]


def target_named(name: str) -> Target:
    return next(target for target in all_targets() if target.name == name)
