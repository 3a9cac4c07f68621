"""What a policy must know of the data it was imitated from: specs, vocabulary, provenance, golden inputs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from contracts import language
from contracts.errors import ConfigError
from contracts.files.dataset_reader import DatasetReader
from contracts.messages import SessionStart
from contracts.package import Provenance
from contracts.specs import is_gripper, require_compatible
from trainer.demonstrations import Samples
from trainer.policies.flow import FlowConfig

EXAMPLES = 8


def first_config(
    roots: Sequence[Path], width: int, height: int, texts: Sequence[str] = ()
) -> FlowConfig:
    """Config of a policy from nothing for the robot and the words of these data sets, and of `texts`;
    bound to their calibration if they all have the same one.

    Raises `ConfigError` when a data set doesn't say which robot it is of, `SpecMismatch` when they are of
    different robots.
    """
    sessions = [_session(root) for root in roots]
    first = sessions[0]
    for root, other in zip(roots, sessions, strict=True):
        require_compatible(
            first.observation,
            first.action,
            other.observation,
            other.action,
            f"data set {roots[0]} and {root}",
        )
    observation = first.observation
    if len({found for root in roots for found in _calibrations(root)}) > 1:
        observation = msgspec.structs.replace(observation, calibration_id="")
    instructions = [*texts, *(text for root in roots for text in DatasetReader(root).tasks)]
    return FlowConfig(
        observation=observation,
        action=first.action,
        cameras=tuple(camera.name for camera in first.observation.cameras),
        image_height=height,
        image_width=width,
        vocabulary=language.build_vocabulary(instructions),
        relative=tuple(not is_gripper(name) for name in first.action.names),
    )


def examples(samples: Samples, seed: int) -> dict[str, np.ndarray]:
    """A few recorded observations as trunk inputs, for the golden vectors."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(samples), size=min(EXAMPLES, len(samples)), replace=False))
    images = {f"images.{name}": array[chosen] for name, array in samples.images.items()}
    return {**images, "state": samples.states[chosen], "tokens": samples.tokens[chosen]}


def card(argv: Sequence[str], seed: int, data: str) -> Provenance:
    """Provenance of a policy trained now by this command from what `data` says."""
    return Provenance(
        command=shlex.join([Path(argv[0]).name, *argv[1:]]),
        seed=seed,
        data=data,
        licence="Apache-2.0",
        created_unix_s=float(round(time.time())),
        versions={name: version(name) for name in ("entracte", "torch", "numpy")},
    )


def _calibrations(root: Path) -> set[str]:
    """Ids of every calibration that episodes were recorded under; a data set may have grown over several."""
    reader = DatasetReader(root)
    extras = (reader.meta(episode)["extra"] for episode in range(reader.num_episodes))
    return {
        str(extra.get("session", {}).get("observation", {}).get("calibration_id", ""))
        for extra in extras
    }


def _session(root: Path) -> SessionStart:
    extra = DatasetReader(root).meta(0)["extra"]
    try:
        return msgspec.convert(extra["session"], SessionStart)
    except (KeyError, msgspec.ValidationError) as error:
        raise ConfigError(
            f"data set {root} does not say which robot it was recorded on",
            found=str(error),
            remedy="record it with robot-run record, or start from a policy for that robot (--start)",
        ) from error
