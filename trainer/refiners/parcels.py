"""What the trainer and the processes that learn for it hand each other: arrays and JSON as safetensors.

Nothing in it can be code: what episodes tell came from robots.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from contracts.files.packages import read_safetensors, safetensors_bytes
from trainer.refiners.experience import Trajectory
from trainer.refiners.rollout import Rollout

Arrays = dict[str, np.ndarray]
_TOLD = "told"
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (Trajectory, Rollout)}


def parcel(told: Any, arrays: Mapping[str, np.ndarray]) -> bytes:
    """`told`: what JSON can say."""
    text = json.dumps(told, default=_plain).encode()
    return safetensors_bytes({**arrays, _TOLD: np.frombuffer(text, np.uint8)})


def opened(data: bytes) -> tuple[Any, Arrays]:
    """What `parcel` was given. Raises `PackageError` for what is none."""
    arrays = read_safetensors(data, "what another process of the trainer told")
    return json.loads(arrays.pop(_TOLD).tobytes()), arrays


def put_in(episodes: Sequence[Any], under: str, arrays: Arrays) -> list[dict[str, Any]]:
    """Their arrays among `arrays`, by names that begin with `under`; returned is the rest of them."""
    told = []
    for number, episode in enumerate(episodes):
        rest = {"kind": type(episode).__name__}
        for field in dataclasses.fields(episode):
            value = getattr(episode, field.name)
            if isinstance(value, np.ndarray):
                arrays[f"{under}/{number}/{field.name}"] = value
            else:
                rest[field.name] = value
        told.append(rest)
    return told


def taken_out(told: Sequence[Mapping[str, Any]], under: str, arrays: Arrays) -> list[Any]:
    """The episodes that `put_in` was given."""
    return [_episode(rest, f"{under}/{number}/", arrays) for number, rest in enumerate(told)]


def named(under: str, arrays: Arrays) -> Arrays:
    """Those whose names begin so, without that."""
    return {n[len(under) + 1 :]: a for n, a in arrays.items() if n.startswith(f"{under}/")}


def _episode(told: Mapping[str, Any], under: str, arrays: Arrays) -> Any:
    kind = _KINDS[told["kind"]]
    known = {name: value for name, value in told.items() if name != "kind"}
    for field in dataclasses.fields(kind):
        if f"{under}{field.name}" in arrays:
            known[field.name] = arrays[f"{under}{field.name}"]
    return kind(**known)


def _plain(value: Any) -> Any:
    """numpy's own numbers and truths."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is neither an array nor JSON")
