"""What became of the policy's releases: published by the trainer, answered by every robot for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from contracts.release import ReleaseManifest
from trainer.report.files import number
from trainer.report.rows import Release

POLICY = "policy"


def releases(folder: Path, metrics: Iterable[Mapping[str, Any]]) -> list[Release]:
    """From "iteration" and "renewed" (published) and "release" (outcomes), tensor names from the signed
    manifests: one for each robot that answered, the last it said; one without a robot where none did. Other
    targets have numbers of their own and are left out."""
    published: dict[int, Release] = {}
    answered: dict[tuple[int, str], Mapping[str, Any]] = {}
    for row in metrics:
        seq = int(row.get("publish_seq") or 0)
        if row.get("kind") == "iteration" and seq:
            published[seq] = Release(
                seq,
                iteration=int(row["iteration"]),
                nbytes=int(row.get("nbytes", 0)),
                published_unix_s=number(row.get("unix_s")),
                tensors=_tensors(folder / "trainer/releases" / POLICY, seq),
            )
        elif not seq or row.get("target", POLICY) != POLICY:
            continue
        elif row.get("kind") == "renewed":
            parent = published.get(int(row.get("parent") or 0), Release(seq))
            published[seq] = replace(
                parent, publish_seq=seq, published_unix_s=number(row.get("unix_s"))
            )
        elif row.get("kind") == "release":
            key = (seq, str(row.get("robot_id", "")))
            answered[key] = {**answered.get(key, {}), **_known(row)}
    silent = published.keys() - {seq for seq, _ in answered}
    found = {
        (seq, robot): _answer(published.get(seq, Release(seq)), robot, row)
        for (seq, robot), row in answered.items()
    }
    found |= {(seq, ""): published[seq] for seq in silent}
    return [found[key] for key in sorted(found)]


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that a later answer lacks stay as the earlier one told them."""
    told = {name: value for name, value in row.items() if value is not None}
    if not told.get("bytes_on_wire"):
        told.pop("bytes_on_wire", None)
    return told


def _answer(release: Release, robot: str, row: Mapping[str, Any]) -> Release:
    return replace(
        release,
        robot_id=robot,
        outcome=str(row.get("outcome", "")),
        reason=str(row.get("reason", "")),
        episode_seq=int(row.get("episode_seq", -1)),
        bytes_on_wire=int(row.get("bytes_on_wire", 0)),
        verified_s=number(row.get("publish_to_verified_s")),
        staged_s=number(row.get("publish_to_staged_s")),
        swapped_s=number(row.get("publish_to_swapped_s")),
    )


def _tensors(folder: Path, seq: int) -> tuple[str, ...]:
    for path in sorted(folder.glob(f"*{seq}/manifest.json")):
        if path.parent.name.lstrip("0") != str(seq):
            continue
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=ReleaseManifest)
            return tuple(tensor.name for tensor in manifest.tensors)
        except (OSError, msgspec.MsgspecError):
            return ()
    return ()
