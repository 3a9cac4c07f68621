"""A policy package that drives the bench in this process: for recording what a policy runs into.

Engines on pictures of the bench, a chunk at a time, one tick late as on a robot. No gate, no link, no
time: a robot's loop is `runtime.control.process`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import PackageError
from contracts.files.packages import load_package
from contracts.language import encode
from contracts.package import no_prefix
from runtime.bench.world import World
from runtime.engines import EngineOptions, open_engine

EXECUTE = 8
"""Ticks of a chunk that are executed before the next one is asked for."""


class Hands:
    """One flow-policy package; `begin` an episode, then `act` once a tick of 0.1 s."""

    def __init__(self, folder: Path) -> None:
        """Raises `PackageError` where the package is no policy."""
        package = load_package(folder)
        manifest = package.manifest
        if manifest.chunk is None:
            raise PackageError(f"{folder} is not a policy package", found=manifest.model)
        self.size = (manifest.image_width, manifest.image_height)
        self.package_id = package.package_id
        self._manifest, self._chunk = manifest, manifest.chunk
        options = EngineOptions()
        self._trunk = open_engine(package, "trunk", options)
        self._head = open_engine(package, "head", options)
        self._rng = np.random.default_rng(0)
        self._tokens = np.zeros((1, 0), np.int64)
        self._now = self._next = np.zeros((0, 0), np.float32)
        self._tick = 0

    def begin(self, instruction: str, seed: int) -> None:
        manifest = self._manifest
        self._rng = np.random.default_rng([seed & 0xFFFFFFFF, 47])
        self._tokens = encode(instruction, manifest.vocabulary, manifest.instruction_length)[None]
        self._now = self._next = np.zeros((0, 0), np.float32)
        self._tick = 0

    def act(self, world: World) -> np.ndarray:
        """float32[6] in deg and %: the goal positions for the next tick."""
        # What was asked for at one tick is there at the next: the first tick stands still.
        if len(self._next) and self._tick % EXECUTE == 1:
            self._now = self._next
        if self._tick % EXECUTE == 0:
            self._next = self._infer(world)
        at = (self._tick - 1) % EXECUTE + 1
        self._tick += 1
        return self._now[at] if len(self._now) else world.positions().astype(np.float32)

    def _infer(self, world: World) -> np.ndarray:
        inputs = {f"images.{name}": world.render(name)[0][None] for name in self._manifest.cameras}
        inputs["state"] = world.positions().astype(np.float32)[None]
        inputs["tokens"] = self._tokens
        features = self._trunk.run(inputs)["features"]
        shape = (1, self._chunk.length, len(world.positions()))
        noise = self._rng.standard_normal(shape).astype(np.float32)
        head = {"features": features, "noise": noise, **no_prefix(self._head.inputs)}
        chunks = self._head.run(head)["chunks"]
        return np.array(chunks[0], np.float32)
