"""EgoDex (Apple): <part>/<task>/<n>.mp4, 1080p at 30 Hz, with <n>.hdf5 beside it.

The description is an attribute of the HDF5 file: `llm_description`, or `llm_description2` where `llm_type`
is "reversible" and `which_llm_description` says 2 (the other one is then the reverse of what was done);
older files have `description`. Layout and attributes as github.com/apple/ml-egodex has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import EntracteError, MissingDependency
from trainer.reward_data.record import Goal, SourceVideo
from trainer.reward_data.settings import SourceSettings, folder_of
from trainer.reward_data.sources.human import captioned
from trainer.rewards.roboreward_rows import LOWEST


class EgoDexSettings(SourceSettings, frozen=True, kw_only=True):
    """`reverse`: keep the reverse description of a reversible task, as a counterfactual with score 1."""

    reverse: bool = True


def read(settings: EgoDexSettings) -> list[SourceVideo]:
    """One video a pair of MP4 and HDF5, by path. Raises `MissingDependency` without h5py."""
    try:
        import h5py
    except ImportError as error:
        raise MissingDependency(
            "EgoDex descriptions are HDF5 attributes, and h5py is absent",
            remedy="pip install 'entracte[data]'",
        ) from error
    root = folder_of(settings)
    videos = []
    for file in sorted(root.rglob("*.hdf5")):
        video = file.with_suffix(".mp4")
        if not video.exists():
            continue
        with h5py.File(file, "r") as opened:
            said, reverse = _descriptions(dict(opened.attrs))
        if not said:
            continue
        name = video.relative_to(root).as_posix()
        whole = captioned(video, name, (said,), settings, "success")
        if reverse and settings.reverse:
            other = Goal((reverse,), LOWEST, "caption (reverse)", meant=False)
            whole = msgspec.structs.replace(whole, goals=(*whole.goals, other))
        videos.append(whole)
    if not videos:
        raise EntracteError(
            f"source '{settings.name}'",
            expected="<task>/<n>.mp4 with <n>.hdf5 that has llm_description",
            found=f"none under {Path(root)}",
        )
    return videos


def _descriptions(attributes: dict[str, Any]) -> tuple[str, str]:
    """(what was done, its reverse or "")."""

    def text(name: str) -> str:
        value = attributes.get(name, "")
        return (value.decode() if isinstance(value, bytes) else str(value)).strip()

    if text("llm_type") != "reversible":
        return text("llm_description") or text("description"), ""
    both = text("llm_description"), text("llm_description2")
    return (both[1], both[0]) if text("which_llm_description") == "2" else both
