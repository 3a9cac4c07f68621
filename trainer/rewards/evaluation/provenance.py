"""With what figures were made: command, seed, date, versions, identities of the models. Data only."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

PACKAGES = ("entracte", "numpy", "opencv-python", "av", "onnxruntime", "torch", "transformers")


def provenance(
    command: str, seed: int, model_ids: Mapping[str, str], data: Sequence[Path] = ()
) -> dict[str, Any]:
    """For JSON. `data`: folders of clips, whose own commands are told. `date` is UTC; packages that aren't
    installed are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "command": command,
        "seed": seed,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "versions": versions,
        "model_ids": dict(model_ids),
        "data": {str(folder): _recorded(folder) for folder in data},
    }


def _recorded(folder: Path) -> str:
    """The command that recorded a folder of clips, "" where it doesn't say."""
    try:
        said = msgspec.json.decode((folder / "meta.json").read_bytes(), type=_Meta)
    except (OSError, msgspec.MsgspecError):
        return ""
    return said.command


class _Meta(msgspec.Struct):
    command: str = ""


def sentence(made: Mapping[str, Any]) -> str:
    """All but the command, for below a table."""
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    models = ", ".join(f"{name} {identity}" for name, identity in made["model_ids"].items())
    return f"{made['date']}, seed {made['seed']}; {versions}" + (f"; {models}" if models else "")


def commands(made: Mapping[str, Any]) -> str:
    """What to type: the recordings' commands, then the figures', a line each."""
    recorded = [f"{said} --output {folder}" for folder, said in made["data"].items() if said]
    return "\n".join([*recorded, made["command"]])
