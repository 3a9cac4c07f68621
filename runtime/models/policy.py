"""The policy on the robot: a package's trunk and head as engines, observations in, action chunks out.

Owns preprocessing (resize, tokens), seeded noise and the refusal of chunks that are not finite. Doesn't
own when to infer (scheduler) nor which head is active (swapper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from contracts.draws import Seeds, chunk_noise, chunk_offset
from contracts.errors import ConfigError, EntracteError, PackageError
from contracts.files.packages import Package
from contracts.language import encode, unknown_words
from contracts.package import OBSERVATION_STEPS, PREFIX, PREFIX_WEIGHT, ChunkSpec
from runtime.config import PolicySection
from runtime.engines import Engine, options_of
from runtime.models.opening import open_package, open_parts
from runtime.preflight import need_camera
from runtime.run import Run
from runtime.weights.swap import Swapper

Seen = tuple[Mapping[str, np.ndarray], np.ndarray]
"""Pictures uint8[H,W,3] by camera and joints float32[joints] of one moment."""
Underway = tuple[Sequence[Sequence[float]], int]
"""What the chunk under way has for the new one's entries, and how many of them will have been executed by
then (`Scheduler.underway`)."""
MOST_OBSERVATIONS = 16
"""At once in one inference: each is a run of the trunk, and its pictures are kept until then."""


class PolicyFault(EntracteError):
    """The policy gave something that must not be executed."""


@dataclass(frozen=True, slots=True)
class Inference:
    """`actions` float[length][joints] in the arm's units; `choice` of `values` (the critics', empty for a
    policy without); `plain`: the actions without what exploration added."""

    actions: tuple[tuple[float, ...], ...]
    choice: int
    values: tuple[float, ...]
    version: int
    plain: tuple[tuple[float, ...], ...]


class PolicyRunner:
    """Not thread-safe: the caller infers one at a time and swaps with nothing in flight."""

    def __init__(
        self, package: Package, trunk: Engine, swapper: Swapper, section: PolicySection
    ) -> None:
        action = package.manifest.action
        if package.manifest.chunk is None or action is None:
            raise PackageError(f"{package.folder} is not a policy package")
        self.package, self.swapper = package, swapper
        self.manifest = package.manifest
        self.chunk: ChunkSpec = package.manifest.chunk
        self._trunk, self._section = trunk, section
        self._takes = {spec.name: spec.shape for spec in trunk.inputs}
        self._noise_shape = _noise_shape(swapper.engine, section)
        self._prefixed = _prefixed(swapper.engine, section)
        self.observations = _observations(package)
        self._joints = len(action.names)
        self._tokens = self._encode("")
        self._seeds: Seeds = (0, 0)
        self._low = np.array(action.low, np.float32)
        self._high = np.array(action.high, np.float32)
        self._units = action.units
        self._explore_deg = 0.0

    def begin_episode(self, instruction: str, seed: int, *, explore: bool = False) -> list[str]:
        """Set the instruction, the noise and whether to `explore` (same seed, the same again); returns words
        that the policy has never seen."""
        self._tokens = self._encode(instruction)
        self._seeds = (self._section.seed, seed)
        self._explore_deg = self._section.explore_deg if explore else 0.0
        if "tokens" not in self._takes:
            return []
        return unknown_words(instruction, self.manifest.vocabulary)

    def infer(
        self,
        pictures: Mapping[str, np.ndarray],
        state: np.ndarray,
        number: int,
        earlier: Sequence[Seen] = (),
        underway: Underway = ((), 0),
    ) -> Inference:
        """One chunk from uint8[H,W,3] per camera and float32[joints]; `earlier`: the observations before,
        oldest first, for a policy that takes `observations` of them; `underway`: what real-time chunking goes
        on from. Raises `PolicyFault`."""
        head = self._head_inputs([*earlier, (pictures, state)], number, underway)
        # Some engines' ReLU and Clip make a number of NaN: the chunk alone would not show it.
        if not np.isfinite(head["features"]).all():
            raise PolicyFault("what the policy's trunk sees holds NaN or infinity")
        out = self.swapper.run(head)
        chunks = out["chunks"]
        choice = int(np.asarray(out["choice"]).reshape(-1)[0]) if "choice" in out else 0
        if not 0 <= choice < len(chunks):
            raise PolicyFault("the policy chose a chunk that isn't there", found=choice)
        chosen = chunks[choice]
        if not np.isfinite(chosen).all():
            raise PolicyFault("the policy's chunk holds NaN or infinity")
        # Only now: a sound release would be refused for what it is shown of a fault.
        self.swapper.remember(head)
        plain = actions = tuple(map(tuple, chosen.tolist()))
        if self._explore_deg > 0.0:
            offset = chunk_offset(self._seeds, number, self._explore_deg, self._units)
            chosen = np.clip(chosen + offset, self._low, self._high)
            actions = tuple(map(tuple, chosen.tolist()))
        return Inference(
            actions,
            choice,
            tuple(np.asarray(out.get("values", ())).reshape(-1).tolist()),
            self.swapper.version,
            plain,
        )

    def warm_up(self, run: Run) -> None:
        """Two inferences on nothing, at the cameras' own size: what is allocated or imported at the first
        one must not stop the loop later."""
        blank = blank_pictures(run, self.manifest.cameras)
        state = np.zeros(len(self.manifest.observation.state_names), np.float32)
        for _ in range(2):
            self.swapper.engine.run(self._head_inputs([(blank, state)], 0, ((), 0)))

    def close(self) -> None:
        self.swapper.close()
        self._trunk.close()

    def _head_inputs(
        self, seen: Sequence[Seen], number: int, underway: Underway
    ) -> dict[str, np.ndarray]:
        """What the head takes of the last observations, in arrays of their own: they are remembered for the
        next release's replay. The first is there as often as others are missing."""
        seen = [*[seen[0]] * (self.observations - len(seen)), *seen]
        # The engine writes over its outputs at the next run.
        features = [self._trunk.run(self._trunk_inputs(one))["features"].copy() for one in seen]
        head = {"features": features[0] if len(features) == 1 else np.concatenate(features)}
        if self._noise_shape is not None:
            head["noise"] = self._noise(self._noise_shape, number)
        if self._prefixed:
            head |= self._prefix(*underway)
        return head

    def _prefix(self, actions: Sequence[Sequence[float]], settled: int) -> dict[str, np.ndarray]:
        """What the head goes on from: all of the first `settled` entries, and of the next ones a share that
        falls as in Black et al. 2025 (arXiv 2506.07339, equation 5)."""
        prefix = np.zeros((1, self.chunk.length, self._joints), np.float32)
        weight = np.zeros((1, self.chunk.length), np.float32)
        if self._section.chunks == "realtime" and settled:
            kept = min(len(actions), settled + self._section.fade_steps, self.chunk.length)
            prefix[0, :kept] = actions[:kept]
            falling = 1.0 - np.arange(1, kept - settled + 1) / (kept - settled + 1)
            weight[0, :settled] = 1.0
            weight[0, settled:kept] = falling * np.expm1(falling) / np.expm1(1.0)
        return {PREFIX: prefix, PREFIX_WEIGHT: weight}

    def _trunk_inputs(self, seen: Seen) -> dict[str, np.ndarray]:
        pictures, state = seen
        inputs: dict[str, np.ndarray] = {}
        for camera in self.manifest.cameras:
            shape = self._takes.get(f"images.{camera}")
            if shape is not None:
                inputs |= images_for(pictures, (camera,), (shape[2], shape[1]))
        if "state" in self._takes:
            inputs["state"] = np.asarray(state, np.float32)[None]
        if "tokens" in self._takes:
            inputs["tokens"] = self._tokens
        return inputs

    def _encode(self, instruction: str) -> np.ndarray:
        length = self.manifest.instruction_length
        return encode(instruction, self.manifest.vocabulary, length)[None]

    def _noise(self, shape: tuple[int, ...], number: int) -> np.ndarray:
        samples, *rest = shape
        if samples < 0:
            samples = self._section.samples or self.swapper.active.samples or 1
        return chunk_noise(self._seeds, number, (samples, *rest), self.chunk.noise_scale)


def _observations(package: Package) -> int:
    """How many observations the head looks at. Raises `PackageError` for no such number."""
    wanted = package.manifest.settings.get(OBSERVATION_STEPS, 1)
    if wanted not in range(1, MOST_OBSERVATIONS + 1):
        raise PackageError(
            f"{OBSERVATION_STEPS} of {package.folder}",
            expected=f"a whole number from 1 to {MOST_OBSERVATIONS}",
            found=wanted,
            remedy="export the package again",
        )
    return int(wanted)


def _prefixed(head: Engine, section: PolicySection) -> bool:
    """Whether the head can go on from a chunk under way. Raises `ConfigError` where `section` wants that of
    one that can't."""
    prefixed = {PREFIX, PREFIX_WEIGHT} <= {spec.name for spec in head.inputs}
    if section.chunks == "realtime" and not prefixed:
        raise ConfigError(
            "policy.chunks: this policy can't go on from a chunk under way",
            expected=f"a package whose head takes '{PREFIX}'",
            found=f"inputs {[spec.name for spec in head.inputs]}",
            remedy="set policy.chunks=splice, or, if it has no residual, export it again with this version",
        )
    return prefixed


def _noise_shape(head: Engine, section: PolicySection) -> tuple[int, ...] | None:
    """Shape of the noise that a head takes, -1 first where the number of candidate chunks is free; None for a
    head that draws nothing. Raises `ConfigError` if `section` wants more candidates than it can draw."""
    shape = next((spec.shape for spec in head.inputs if spec.name == "noise"), None)
    drawn = shape[0] if shape else 1
    if section.samples > 1 and drawn > 0:
        raise ConfigError(
            "policy.samples asks for candidates that this policy does not draw",
            expected=f"{drawn} or 0",
            found=section.samples,
        )
    return shape


def open_policy(run: Run) -> PolicyRunner:
    """The configured package, engines, and the release that was active before. Raises `EntracteError`."""
    section = run.config.policy
    if not section.package:
        raise ConfigError(
            "no policy package", remedy="give --package <folder> or set policy.package"
        )
    package = open_package(section.package, "policy")
    options = options_of(section)
    with ExitStack() as opened:
        trunk, swapper = open_parts(opened, run, "policy", package, options, section.weights)
        runner = PolicyRunner(package, trunk, swapper, section)
        opened.pop_all()
    return runner


def blank_pictures(run: Run, cameras: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Black pictures of the configured cameras. Raises `ConfigError` if one is not configured."""
    pictures: dict[str, np.ndarray] = {}
    for name in cameras:
        need_camera(run.config, name, "model")
        camera = run.config.cameras[name]
        pictures[name] = np.zeros((camera.height, camera.width, 3), np.uint8)
    return pictures


def images_for(
    pictures: Mapping[str, np.ndarray], cameras: tuple[str, ...], size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Trunk inputs "images.<camera>" uint8[1,H,W,3], shrunk by area as in training."""
    inputs: dict[str, np.ndarray] = {}
    for name in cameras:
        picture = pictures[name]
        if (picture.shape[1], picture.shape[0]) != size:
            # OpenCV: not where the sizes agree, small robots do without.
            from contracts.images import shrink_to

            picture = shrink_to(picture, *size)
        inputs[f"images.{name}"] = np.ascontiguousarray(picture)[None]
    return inputs
