"""The policy on the robot: a package's trunk and head as engines, observations in, action chunks out.

Owns preprocessing (resize, tokens), seeded noise and the refusal of chunks that are not finite. Doesn't
own when to infer (scheduler) nor which head is active (swapper).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import ConfigError, EntracteError, PackageError
from contracts.files.packages import Package, load_package, read_safetensors
from contracts.language import encode, unknown_words
from contracts.package import ChunkSpec
from runtime.config import PolicySection, Run
from runtime.engines import Engine, EngineOptions, open_engine
from runtime.preflight import need_camera
from runtime.slots import SlotStore
from runtime.swap import Swapper

# Sets the draw of a chunk's offset apart from that of its noise.
_EXPLORATION = 1


class PolicyFault(EntracteError):
    """The policy gave something that must not be executed."""


@dataclass(frozen=True, slots=True)
class Inference:
    """`actions` float[length][joints] in the arm's units; `choice` of `values` (the critic's)."""

    actions: tuple[tuple[float, ...], ...]
    choice: int
    values: tuple[float, ...]
    version: int


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
        self._joints = len(action.names)
        self._tokens = self._encode("")
        self._seed = (0, 0)
        self._low = np.array(action.low, np.float32)
        self._high = np.array(action.high, np.float32)
        self._explores = np.array([unit == "deg" for unit in action.units])
        self._explore_deg = 0.0

    def begin_episode(self, instruction: str, seed: int, *, explore: bool = False) -> list[str]:
        """Set the instruction, the noise and whether to `explore` (same seed, the same again); returns words
        that the policy has never seen."""
        self._tokens = self._encode(instruction)
        self._seed = (self._section.seed, seed)
        self._explore_deg = self._section.explore_deg if explore else 0.0
        return unknown_words(instruction, self.manifest.vocabulary)

    def infer(
        self, pictures: Mapping[str, np.ndarray], state: np.ndarray, number: int
    ) -> Inference:
        """One chunk from uint8[H,W,3] per camera and float32[joints]. Raises `PolicyFault`."""
        inputs = images_for(pictures, self.manifest.cameras, self._size)
        inputs["state"] = np.asarray(state, np.float32)[None]
        inputs["tokens"] = self._tokens
        head = {
            "features": self._trunk.run(inputs)["features"],
            "noise": self._noise(number),
        }
        out = self.swapper.engine.run(head)
        self.swapper.remember(head)
        chunks, choice = out["chunks"], int(np.asarray(out["choice"]).reshape(-1)[0])
        if not 0 <= choice < len(chunks):
            raise PolicyFault("the policy chose a chunk that isn't there", found=choice)
        chosen = chunks[choice]
        if not np.isfinite(chosen).all():
            raise PolicyFault("the policy's chunk holds NaN or infinity")
        if self._explore_deg > 0.0:
            drawn = np.random.default_rng([*self._seed, number, _EXPLORATION]).normal(
                size=self._joints
            )
            offset = (self._explore_deg * drawn * self._explores).astype(np.float32)
            chosen = np.clip(chosen + offset, self._low, self._high)
        return Inference(
            tuple(map(tuple, chosen.tolist())),
            choice,
            tuple(np.asarray(out["values"]).reshape(-1).tolist()),
            self.swapper.version,
        )

    def warm_up(self, run: Run) -> None:
        """Two inferences on nothing, at the cameras' own size: what is allocated or imported at the first
        one must not stop the loop later."""
        blank = blank_pictures(run, self.manifest.cameras)
        inputs = images_for(blank, self.manifest.cameras, self._size)
        inputs["state"] = np.zeros((1, len(self.manifest.observation.state_names)), np.float32)
        inputs["tokens"] = self._tokens
        for _ in range(2):
            features = self._trunk.run(inputs)["features"]
            self.swapper.engine.run({"features": features, "noise": self._noise(0)})

    def close(self) -> None:
        self.swapper.close()
        self._trunk.close()

    @property
    def _size(self) -> tuple[int, int]:
        return self.manifest.image_width, self.manifest.image_height

    def _encode(self, instruction: str) -> np.ndarray:
        length = self.manifest.instruction_length
        return encode(instruction, self.manifest.vocabulary, length)[None]

    def _noise(self, number: int) -> np.ndarray:
        samples = self._section.samples or self.swapper.active.samples or 1
        rng = np.random.default_rng([*self._seed, number])
        shape = (samples, self.chunk.length, self._joints)
        return (rng.standard_normal(shape) * self.chunk.noise_scale).astype(np.float32)


def open_policy(run: Run) -> PolicyRunner:
    """The configured package, engines, and the release that was active before. Raises `EntracteError`."""
    section = run.config.policy
    if not section.package:
        raise ConfigError(
            "no policy package", remedy="give --package <folder> or set policy.package"
        )
    package = open_package(section.package, "policy")
    options = EngineOptions(kind=section.engine, threads=section.threads)
    trunk = open_engine(package, "trunk", options)
    head = open_head(package, options, section.weights)
    slots = SlotStore(run.slots_dir / "policy", package.package_id)
    swapper = Swapper("policy", slots, package, head, robot_id=run.config.robot.id)
    return PolicyRunner(package, trunk, swapper, section)


def open_package(folder: str, model: str) -> Package:
    """A checked package of that kind. Raises `PackageError`."""
    package = load_package(Path(folder))
    if package.manifest.model != model:
        raise PackageError(
            f"{folder} is another kind of package", expected=model, found=package.manifest.model
        )
    return package


def open_head(package: Package, options: EngineOptions, weights: str) -> Engine:
    """The head with the package's own weights, or those of a safetensors file."""
    head = open_engine(package, "head", options)
    if not weights:
        return head
    try:
        data = Path(weights).read_bytes()
    except OSError as error:
        raise ConfigError(f"can't read weights {weights}", found=error.strerror) from error
    refined = head.standby(read_safetensors(data, weights))
    head.close()
    return refined


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
            import cv2  # not where the sizes agree: the watchdog and small robots do without

            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        inputs[f"images.{name}"] = np.ascontiguousarray(picture)[None]
    return inputs
