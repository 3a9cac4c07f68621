"""Where a package comes from: the command, libraries, and a foreign checkpoint's identity and licence."""

from __future__ import annotations

import shlex
import sys
import time
from importlib import metadata
from pathlib import Path

import yaml

from contracts.files import atomic
from contracts.package import Provenance

_CARD = "README.md"
_MOST_CARD_BYTES = 1 << 20
NO_LICENCE = "not stated in the checkpoint's card: ask whoever made it"


def versions(*names: str) -> dict[str, str]:
    """Installed versions by distribution's name; "" for one that isn't there."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def of_checkpoint(verb: str, folder: Path, libraries: dict[str, str], notes: str) -> Provenance:
    """`verb`: the command's name where it was called from Python. Nothing is drawn at random (seed 0)."""
    return Provenance(
        command=command(verb),
        seed=0,
        data="recorded pictures for the golden vectors only",
        licence=licence_of(folder),
        created_unix_s=float(int(time.time())),
        versions=libraries,
        notes=notes,
    )


def command(verb: str) -> str:
    """This program's command line, or "robot-export VERB (from Python)". Folders by name alone: where they
    lay on this machine is nobody's business."""
    if sys.argv[1:2] != [verb]:
        return f"robot-export {verb} (from Python)"
    return shlex.join(
        ["robot-export", *(Path(word).name if "/" in word else word for word in sys.argv[1:])]
    )


def licence_of(folder: Path) -> str:
    """What the model card says under `license` (the front matter of README.md, as model hubs write it)."""
    try:
        text = atomic.read_bytes(folder / _CARD, _MOST_CARD_BYTES).decode(errors="replace")
    except (atomic.FileError, OSError):
        return NO_LICENCE
    head, separator, rest = text.partition("---\n")
    front, closed, _ = rest.partition("\n---")
    if head.strip() or not (separator and closed):
        return NO_LICENCE
    try:
        said = yaml.safe_load(front)
    except yaml.YAMLError:
        return NO_LICENCE
    if not isinstance(said, dict):
        return NO_LICENCE
    name, licence = said.get("license_name"), said.get("license")
    return str(name if licence == "other" and name else licence or NO_LICENCE)
