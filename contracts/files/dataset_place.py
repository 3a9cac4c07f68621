"""Whether a data set may be written at a place. By itself: what asks need not load what reads pictures."""

from __future__ import annotations

from pathlib import Path

from contracts.files import outputs
from contracts.files.dataset_format import INFO_PATH, LOCK_PATH, OWN_INFO_PATH


def require_dataset(root: Path) -> None:
    """A data set may be begun or go on at `root`: what is there, if anything, is one. Commands ask before
    their work. Raises `ConfigError`."""
    heads = (str(path) for path in (INFO_PATH, OWN_INFO_PATH, LOCK_PATH))
    outputs.require_folder(root, "a data set", outputs.holding(*heads))
