"""A vision checkpoint's preprocessor_config.json: what it does to a picture, as far as packages do it too.

What is switched off there, or done otherwise, is refused: a package would show the tower other pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.errors import PackageError
from contracts.files import outputs
from contracts.pictures import Filter, PictureRule

FILTERS: dict[int, Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as preprocessor files have them."""
_ALWAYS = ("do_resize", "do_rescale", "do_normalize")


def picture_rule(settings: Mapping[str, Any], side: int) -> PictureRule:
    """What the checkpoint's own processor does to a picture, for a tower of `side` x `side`. Raises
    `PackageError` for a processor that does something else."""
    require_usual(settings)
    size = settings.get("size", side)
    size = size if isinstance(size, dict) else {"shortest_edge": size}
    crop = bool(settings.get("do_center_crop", False))
    cut = settings.get("crop_size", side)
    cut = cut if isinstance(cut, dict) else {"height": cut, "width": cut}
    whole = (int(size.get("height", 0)), int(size.get("width", 0)))
    good = (
        int(size.get("shortest_edge", 0)) == side and (cut["height"], cut["width"]) == (side, side)
        if crop
        else whole == (side, side)
    )
    number = int(settings.get("resample", 3))
    if (
        not good
        or number not in FILTERS
        or abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6
    ):
        raise PackageError(
            "what the checkpoint's processor does to a picture",
            expected=f"scaled to {side}x{side}, or its shorter side to {side} and the middle cut out, "
            "and divided by 255",
            found={name: settings.get(name) for name in ("size", "crop_size", "resample")},
        )
    return PictureRule(side, side, FILTERS[number], crop)


def require_usual(settings: Mapping[str, Any]) -> None:
    """Raise `PackageError` for a processor that leaves out scaling, the division by 255 or normalisation,
    all of which a package's graph and picture rule do."""
    off = [name for name in _ALWAYS if not settings.get(name, True)]
    if off:
        raise PackageError(
            "what the checkpoint's processor leaves out",
            expected=f"{', '.join(_ALWAYS)} all on",
            found=f"{', '.join(off)} off",
        )


def three(settings: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """The setting `name` of the three colours. Raises `PackageError`."""
    found = settings.get(name)
    if not isinstance(found, list) or len(found) != 3:
        raise PackageError(f"{name} of the preprocessor", expected="three numbers", found=found)
    return tuple(map(float, found))


def require_kind(folder: Path, kinds: Sequence[str], remedy: str) -> str:
    """The checkpoint's "model_type". Raises `PackageError` unless it is one of `kinds`."""
    if not (folder / "config.json").is_file():
        raise PackageError(
            f"{folder} is no checkpoint",
            expected=f"a folder with config.json, of one of {', '.join(kinds)}",
            found=outputs.described(folder),
            remedy="name the folder that transformers saved the model to",
        )
    kind = str(read_json(folder / "config.json").get("model_type", ""))
    if kind not in kinds:
        raise PackageError(
            f"{folder} is a checkpoint of another kind",
            expected=f"one of {', '.join(kinds)}",
            found=repr(kind),
            remedy=remedy,
        )
    return kind


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint's folder. Raises `PackageError`."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or str(error)
        raise PackageError(f"{path} can't be read", found=found) from error
